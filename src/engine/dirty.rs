//! Why an instance must run: one variant per cause, with old and new value. Knows no place in a file.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

use serde::Serialize;
use serde_json::Value;

use crate::base::Hash;
use crate::stage::{Manifest, ManifestEntry};

/// A cause. There is no "other": the comparison walks the very list that is hashed.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "snake_case", tag = "reason")]
pub enum DirtyReason {
    /// No record of this instance, and none of an older form of it.
    NeverRun,
    /// Asked for with `--force`.
    Forced,
    KindChanged {
        old: String,
        new: String,
    },
    /// The kind now gives other bytes for the same inputs.
    VersionChanged {
        kind: String,
        old: u32,
        new: u32,
    },
    ValueChanged {
        key: String,
        old: Value,
        new: Value,
    },
    ValueAdded {
        key: String,
        new: Value,
    },
    ValueRemoved {
        key: String,
        old: Value,
    },
    /// The content of an input is another one; `path` for a file or folder from outside.
    InputChanged {
        role: String,
        old: Hash,
        new: Hash,
        path: Option<PathBuf>,
    },
    InputAdded {
        role: String,
    },
    InputRemoved {
        role: String,
    },
    /// `None` where the kind draws nothing.
    SeedChanged {
        old: Option<u64>,
        new: Option<u64>,
    },
    /// The same entries in another order.
    OrderChanged {
        key: String,
    },
    /// The record is there, the output it names is not.
    ObjectMissing {
        output: String,
        hash: Hash,
    },
    /// The output's bytes are not those that were committed.
    ObjectCorrupt {
        output: String,
        hash: Hash,
    },
    /// The kind declares an output that the record does not have.
    OutputAdded {
        output: String,
    },
    /// A file or folder from outside is not there: the instance cannot run.
    PathMissing {
        role: String,
        path: PathBuf,
    },
    /// A file or folder from outside cannot be read: the instance cannot run.
    PathUnreadable {
        role: String,
        path: PathBuf,
        error: String,
    },
}

impl DirtyReason {
    /// The key of the stage's table that the reason is about; empty for the stage as a whole.
    pub fn key(&self) -> &str {
        match self {
            DirtyReason::ValueChanged { key, .. }
            | DirtyReason::ValueAdded { key, .. }
            | DirtyReason::ValueRemoved { key, .. }
            | DirtyReason::OrderChanged { key } => key,
            DirtyReason::InputChanged { role, .. }
            | DirtyReason::InputAdded { role }
            | DirtyReason::InputRemoved { role }
            | DirtyReason::PathMissing { role, .. }
            | DirtyReason::PathUnreadable { role, .. } => role,
            DirtyReason::KindChanged { .. } => "kind",
            DirtyReason::SeedChanged { .. } => "seed",
            DirtyReason::NeverRun
            | DirtyReason::Forced
            | DirtyReason::VersionChanged { .. }
            | DirtyReason::ObjectMissing { .. }
            | DirtyReason::ObjectCorrupt { .. }
            | DirtyReason::OutputAdded { .. } => "",
        }
    }

    /// Whether the instance cannot run at all until the user has done something.
    pub fn is_obstacle(&self) -> bool {
        matches!(self, DirtyReason::PathMissing { .. } | DirtyReason::PathUnreadable { .. })
    }
}

impl fmt::Display for DirtyReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            DirtyReason::NeverRun => write!(f, "it has not run yet"),
            DirtyReason::Forced => write!(f, "it was asked for with `--force`"),
            DirtyReason::KindChanged { old, new } => write!(f, "its kind changed from `{old}` to `{new}`"),
            DirtyReason::VersionChanged { kind, old, new } => {
                write!(f, "version {new} of `{kind}` gives other results than version {old}")
            }
            DirtyReason::ValueChanged { key, old, new } => {
                write!(f, "`{key}` changed from {} to {}", shown(old), shown(new))
            }
            DirtyReason::ValueAdded { key, new } => write!(f, "`{key}` is new: {}", shown(new)),
            DirtyReason::ValueRemoved { key, old } => write!(f, "`{key}` is gone, it was {}", shown(old)),
            DirtyReason::InputChanged { role, old, new, path: Some(path) } => {
                write!(
                    f,
                    "the content of `{}` (`{role}`) changed from {} to {}",
                    path.display(),
                    old.short(),
                    new.short()
                )
            }
            DirtyReason::InputChanged { role, old, new, path: None } => {
                write!(f, "the content of its input `{role}` changed from {} to {}", old.short(), new.short())
            }
            DirtyReason::InputAdded { role } => write!(f, "its input `{role}` is new"),
            DirtyReason::InputRemoved { role } => write!(f, "its input `{role}` is gone"),
            DirtyReason::SeedChanged { old: Some(old), new: Some(new) } => {
                write!(f, "its seed changed from {old} to {new}")
            }
            DirtyReason::SeedChanged { new: Some(new), .. } => write!(f, "it now draws, with the seed {new}"),
            DirtyReason::SeedChanged { .. } => write!(f, "it draws no more"),
            DirtyReason::OrderChanged { key } => {
                write!(f, "the order of its values changed, first at `{key}`")
            }
            DirtyReason::ObjectMissing { output, hash } => {
                write!(f, "its output `{output}` ({}) is missing from the store", hash.short())
            }
            DirtyReason::ObjectCorrupt { output, hash } => {
                write!(f, "its output `{output}` ({}) was damaged in the store", hash.short())
            }
            DirtyReason::OutputAdded { output } => write!(f, "its kind now has the output `{output}`"),
            DirtyReason::PathMissing { role, path } => {
                write!(f, "`{}` (`{role}`) does not exist", path.display())
            }
            DirtyReason::PathUnreadable { path, role, error } => {
                write!(f, "`{}` (`{role}`) cannot be read: {error}", path.display())
            }
        }
    }
}

/// All differences of two manifests, in the order of the new one. Empty only for manifests with one fingerprint.
pub fn differences(old: &Manifest, new: &Manifest) -> Vec<DirtyReason> {
    let mut reasons = Vec::new();
    if old.kind != new.kind {
        reasons.push(DirtyReason::KindChanged { old: old.kind.clone(), new: new.kind.clone() });
    } else if old.version != new.version {
        reasons.push(DirtyReason::VersionChanged { kind: new.kind.clone(), old: old.version, new: new.version });
    }
    let (before, after) = (numbered(old), numbered(new));
    for slot in numbered_order(new) {
        match (before.get(&slot), after[&slot]) {
            (None, entry) => reasons.push(added(entry)),
            (Some(before), entry) => reasons.extend(changed(before, entry)),
        }
    }
    for slot in numbered_order(old) {
        if !after.contains_key(&slot) {
            reasons.push(removed(before[&slot]));
        }
    }
    if reasons.is_empty() && old.fingerprint() != new.fingerprint() {
        let moved = old.entries.iter().zip(&new.entries).find(|(old, new)| text(old) != text(new));
        let key = moved.map_or("", |(_, new)| new.key()).to_string();
        reasons.push(DirtyReason::OrderChanged { key });
    }
    reasons
}

/// An entry's place: what sort it is, its key, and which of the entries of that key.
type Slot = (u8, String, usize);

fn numbered_order(manifest: &Manifest) -> Vec<Slot> {
    let mut seen: BTreeMap<(u8, String), usize> = BTreeMap::new();
    let mut order = Vec::with_capacity(manifest.entries.len());
    for entry in &manifest.entries {
        let sort = match entry {
            ManifestEntry::Value { .. } => 0,
            ManifestEntry::Input { .. } => 1,
            ManifestEntry::Seed { .. } => 2,
        };
        let count = seen.entry((sort, entry.key().to_string())).or_default();
        order.push((sort, entry.key().to_string(), *count));
        *count += 1;
    }
    order
}

fn numbered(manifest: &Manifest) -> BTreeMap<Slot, &ManifestEntry> {
    numbered_order(manifest).into_iter().zip(&manifest.entries).collect()
}

/// Values are compared as the text that is hashed: equality of JSON tables ignores their order, the hash does not.
fn text(entry: &ManifestEntry) -> String {
    serde_json::to_string(entry).unwrap_or_else(|error| panic!("BUG: a manifest is plain data: {error}"))
}

fn changed(old: &ManifestEntry, new: &ManifestEntry) -> Option<DirtyReason> {
    if text(old) == text(new) {
        return None;
    }
    Some(match (old, new) {
        (ManifestEntry::Value { value: old, .. }, ManifestEntry::Value { key, value: new }) => {
            DirtyReason::ValueChanged { key: key.clone(), old: old.clone(), new: new.clone() }
        }
        (ManifestEntry::Input { hash: old, .. }, ManifestEntry::Input { role, hash: new }) => {
            DirtyReason::InputChanged { role: role.clone(), old: *old, new: *new, path: None }
        }
        (ManifestEntry::Seed { seed: old }, ManifestEntry::Seed { seed: new }) => {
            DirtyReason::SeedChanged { old: Some(*old), new: Some(*new) }
        }
        _ => panic!("BUG: entries of different sorts share a slot"),
    })
}

fn added(entry: &ManifestEntry) -> DirtyReason {
    match entry {
        ManifestEntry::Value { key, value } => DirtyReason::ValueAdded { key: key.clone(), new: value.clone() },
        ManifestEntry::Input { role, .. } => DirtyReason::InputAdded { role: role.clone() },
        ManifestEntry::Seed { seed } => DirtyReason::SeedChanged { old: None, new: Some(*seed) },
    }
}

fn removed(entry: &ManifestEntry) -> DirtyReason {
    match entry {
        ManifestEntry::Value { key, value } => DirtyReason::ValueRemoved { key: key.clone(), old: value.clone() },
        ManifestEntry::Input { role, .. } => DirtyReason::InputRemoved { role: role.clone() },
        ManifestEntry::Seed { seed } => DirtyReason::SeedChanged { old: Some(*seed), new: None },
    }
}

/// A value for people: long ones are cut.
fn shown(value: &Value) -> String {
    let text = value.to_string();
    if text.chars().count() <= 60 {
        return text;
    }
    let start: String = text.chars().take(57).collect();
    format!("{start}...")
}

#[cfg(test)]
mod tests {
    use super::*;
    use expect_test::expect;
    use rand::RngExt;
    use serde_json::json;

    use crate::base::Seed;

    fn told(reasons: &[DirtyReason]) -> String {
        reasons.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n") + "\n"
    }

    #[test]
    fn every_reason_has_its_words() {
        let (old, new) = (Hash::of_bytes(b"old"), Hash::of_bytes(b"new"));
        let path = PathBuf::from("data/train.jsonl");
        let reasons = [
            DirtyReason::NeverRun,
            DirtyReason::Forced,
            DirtyReason::KindChanged { old: "sft".into(), new: "dpo".into() },
            DirtyReason::VersionChanged { kind: "sft".into(), old: 1, new: 2 },
            DirtyReason::ValueChanged { key: "beta".into(), old: json!(0.1), new: json!(0.2) },
            DirtyReason::ValueAdded { key: "truncate.words".into(), new: json!(90) },
            DirtyReason::ValueRemoved { key: "prompt".into(), old: json!("x".repeat(80)) },
            DirtyReason::InputChanged { role: "policy".into(), old, new, path: None },
            DirtyReason::InputChanged { role: "path".into(), old, new, path: Some(path.clone()) },
            DirtyReason::InputAdded { role: "sources.cot.from".into() },
            DirtyReason::InputRemoved { role: "sources.cot.from".into() },
            DirtyReason::SeedChanged { old: Some(0), new: Some(1) },
            DirtyReason::SeedChanged { old: None, new: Some(1) },
            DirtyReason::SeedChanged { old: Some(0), new: None },
            DirtyReason::OrderChanged { key: "lr".into() },
            DirtyReason::ObjectMissing { output: "model".into(), hash: old },
            DirtyReason::ObjectCorrupt { output: "model".into(), hash: old },
            DirtyReason::OutputAdded { output: "curve.jsonl".into() },
            DirtyReason::PathMissing { role: "path".into(), path: path.clone() },
            DirtyReason::PathUnreadable { role: "path".into(), path, error: "permission denied".into() },
        ];
        expect![[r#"
            it has not run yet
            it was asked for with `--force`
            its kind changed from `sft` to `dpo`
            version 2 of `sft` gives other results than version 1
            `beta` changed from 0.1 to 0.2
            `truncate.words` is new: 90
            `prompt` is gone, it was "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx...
            the content of its input `policy` changed from 96a4257289 to b20ab0a020
            the content of `data/train.jsonl` (`path`) changed from 96a4257289 to b20ab0a020
            its input `sources.cot.from` is new
            its input `sources.cot.from` is gone
            its seed changed from 0 to 1
            it now draws, with the seed 1
            it draws no more
            the order of its values changed, first at `lr`
            its output `model` (96a4257289) is missing from the store
            its output `model` (96a4257289) was damaged in the store
            its kind now has the output `curve.jsonl`
            `data/train.jsonl` (`path`) does not exist
            `data/train.jsonl` (`path`) cannot be read: permission denied
        "#]]
        .assert_eq(&told(&reasons));
    }

    #[test]
    fn all_differences_come_at_once_in_the_order_of_the_file() {
        let mut old = Manifest::new("dpo", 1);
        old.value("beta", &0.1);
        old.value("band", &[0.25, 0.85]);
        old.value("gone", &true);
        old.input("policy", Hash::of_bytes(b"1"));
        old.seed(0);
        let mut new = Manifest::new("dpo", 2);
        new.value("beta", &0.2);
        new.value("band", &[0.25, 0.85]);
        new.input("policy", Hash::of_bytes(b"2"));
        new.input("pairs", Hash::of_bytes(b"3"));
        new.seed(1);
        expect![[r#"
            version 2 of `dpo` gives other results than version 1
            `beta` changed from 0.1 to 0.2
            the content of its input `policy` changed from d63bd9a826 to 813e9b7291
            its input `pairs` is new
            its seed changed from 0 to 1
            `gone` is gone, it was true
        "#]]
        .assert_eq(&told(&differences(&old, &new)));
        assert_eq!(differences(&old, &old), []);
    }

    /// A manifest of a few entries out of a small world, so that two of them often share some.
    fn random(rng: &mut impl RngExt) -> Manifest {
        let mut manifest = Manifest::new(["sft", "dpo"][rng.random_range(0..2)], rng.random_range(1..3));
        for _ in 0..rng.random_range(0..5) {
            let key = ["a", "b", "c"][rng.random_range(0..3)];
            match rng.random_range(0..5) {
                0 => manifest.value(key, &rng.random_range(0..2)),
                1 => manifest.value(key, &json!([{ "x": 1, "y": 2 }])),
                2 => manifest.value(key, &json!([{ "y": 2, "x": 1 }])),
                3 => manifest.input(key, Hash::of_bytes(&[rng.random_range(0..2)])),
                _ => manifest.seed(rng.random_range(0..2)),
            }
        }
        manifest
    }

    #[test]
    fn any_difference_of_fingerprints_has_a_reason_and_none_is_invented() {
        let mut rng = Seed(7).stream("manifests");
        let mut equal = 0;
        for _ in 0..5000 {
            let (old, new) = (random(&mut rng), random(&mut rng));
            let same = old.fingerprint() == new.fingerprint();
            equal += usize::from(same);
            assert_eq!(differences(&old, &new).is_empty(), same, "{old:?}\n{new:?}");
        }
        assert!(equal > 20, "the world is small enough to repeat itself: {equal}");
    }
}
