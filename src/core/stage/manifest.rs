//! The manifest: the ordered list of named values that identifies a stage instance.
//!
//! The fingerprint, `why` and comparisons all read this list, so `why` can name the cause of every change of the
//! fingerprint.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::base::Hash;

/// End of the canonical text. The list of entries is its last field.
const END: &str = "]}";

/// The ordered named values that identify a stage instance.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    pub kind: String,
    pub version: u32,
    pub entries: Vec<ManifestEntry>,
}

/// One named value.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ManifestEntry {
    /// A value of the stage's table; `key` is its dotted path there.
    Value { key: String, value: Value },
    /// The content of an input; `role` is the dotted path of the key that names it.
    Input { role: String, hash: Hash },
    /// The seed of the instance, for kinds that use random numbers.
    Seed { seed: u64 },
}

impl ManifestEntry {
    /// The dotted key of the entry; the seed's is `seed`.
    pub fn key(&self) -> &str {
        match self {
            ManifestEntry::Value { key, .. } => key,
            ManifestEntry::Input { role, .. } => role,
            ManifestEntry::Seed { .. } => "seed",
        }
    }
}

impl Manifest {
    pub fn new(kind: &str, version: u32) -> Manifest {
        Manifest { kind: kind.to_string(), version, entries: Vec::new() }
    }

    /// Adds a value of the config. Tables are flattened to dotted keys, so that a difference names its key.
    pub fn value<T: Serialize + ?Sized>(&mut self, key: &str, value: &T) {
        let value =
            serde_json::to_value(value).unwrap_or_else(|error| panic!("BUG: `{key}` has no stable form: {error}"));
        self.flatten(key, value);
    }

    /// Adds a value unless it equals `unless`. For keys added later, whose default means the old behaviour, so old
    /// fingerprints stay valid.
    pub fn value_unless<T: Serialize + PartialEq>(&mut self, key: &str, value: &T, unless: &T) {
        if value != unless {
            self.value(key, value);
        }
    }

    pub fn input(&mut self, role: &str, hash: Hash) {
        self.entries.push(ManifestEntry::Input { role: role.to_string(), hash });
    }

    pub fn seed(&mut self, seed: u64) {
        self.entries.push(ManifestEntry::Seed { seed });
    }

    /// The canonical text: compact JSON of this list, with tables in written order.
    pub fn text(&self) -> String {
        serde_json::to_string(self).unwrap_or_else(|error| panic!("BUG: a manifest is plain data: {error}"))
    }

    /// The text of a manifest with more entries at its end.
    pub fn extend(text: &str, entries: &[ManifestEntry]) -> String {
        let mut longer = text.strip_suffix(END).unwrap_or(text).to_string();
        for entry in entries {
            if !longer.ends_with('[') {
                longer.push(',');
            }
            let entry = serde_json::to_string(entry);
            longer.push_str(&entry.unwrap_or_else(|error| panic!("BUG: a manifest is plain data: {error}")));
        }
        longer.push_str(END);
        longer
    }

    /// blake3 of the canonical text.
    pub fn fingerprint(&self) -> Hash {
        Hash::of_bytes(self.text().as_bytes())
    }

    fn flatten(&mut self, key: &str, value: Value) {
        match value {
            Value::Object(table) if !table.is_empty() => {
                for (name, value) in table {
                    self.flatten(&format!("{key}.{name}"), value);
                }
            }
            value => self.entries.push(ManifestEntry::Value { key: key.to_string(), value }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_are_flattened_and_defaults_omitted() {
        let mut manifest = Manifest::new("dpo", 1);
        manifest.value("truncate", &serde_json::json!({ "words": 90 }));
        manifest.value_unless("label_smoothing", &0.0, &0.0);
        let keys: Vec<&str> = manifest.entries.iter().map(ManifestEntry::key).collect();
        assert_eq!(keys, ["truncate.words"]);
    }

    #[test]
    fn extended_text_equals_text_of_longer_list() {
        let mut manifest = Manifest::new("dpo", 1);
        for _ in 0..2 {
            let text = manifest.text();
            let input = ManifestEntry::Input { role: "policy".into(), hash: Hash::of_bytes(b"1") };
            let more = [input, ManifestEntry::Seed { seed: 3 }];
            let mut longer = manifest.clone();
            longer.entries.extend(more.clone());
            assert_eq!(Manifest::extend(&text, &more), longer.text());
            assert_eq!(Manifest::extend(&text, &[]), text);
            manifest.value("list", &serde_json::json!([1, []]));
        }
    }

    #[test]
    fn fingerprint_depends_on_every_entry() {
        let mut one = Manifest::new("dpo", 1);
        one.value("beta", &0.1);
        let mut other = one.clone();
        assert_eq!(one.fingerprint(), other.fingerprint());
        other.seed(0);
        assert_ne!(one.fingerprint(), other.fingerprint());
        one.version = 2;
        assert_ne!(one.fingerprint(), Manifest { version: 1, ..one.clone() }.fingerprint());
    }
}
