//! Patterns over the names of layers and parameters, as the user writes them.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A name or the end of one, in which `*` stands for any characters: `q_proj`, `mlp.*`, `model.layers.0.*`.
///
/// It matches a whole name, or a name from a dot on: `q_proj` matches every layer of that name, as in PEFT.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(transparent)]
pub struct Pattern(pub String);

impl Pattern {
    pub fn matches(&self, name: &str) -> bool {
        glob(&self.0, name) || name.match_indices('.').any(|(dot, _)| glob(&self.0, &name[dot + 1..]))
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The end of an error about a pattern that matches nothing: the most similar last part of a name.
pub(crate) fn nearest(pattern: &Pattern, names: &[&str]) -> String {
    let last = names.iter().map(|name| name.rsplit('.').next().unwrap_or(name));
    let near = last.min_by_key(|last| strsim::damerau_levenshtein(&pattern.0, last));
    near.map_or_else(String::new, |near| format!("; a similar name is `{near}`"))
}

fn glob(pattern: &str, text: &str) -> bool {
    let mut parts = pattern.split('*');
    let first = parts.next().unwrap_or("");
    let Some(mut rest) = text.strip_prefix(first) else { return false };
    let parts: Vec<&str> = parts.collect();
    let Some((last, middle)) = parts.split_last() else { return rest.is_empty() };
    for part in middle {
        let Some(at) = rest.find(part) else { return false };
        rest = &rest[at + part.len()..];
    }
    rest.ends_with(last)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_matches_a_name_or_its_end() {
        let matches = |pattern: &str, name: &str| Pattern(pattern.to_string()).matches(name);
        let name = "model.layers.10.self_attn.q_proj";
        for pattern in ["q_proj", "self_attn.q_proj", "self_attn.*", "model.layers.10.*", "*_proj", "*", name] {
            assert!(matches(pattern, name), "{pattern}");
        }
        for pattern in ["proj", "q", "layers.1.*", "model.layers.1.*", "q_proj.weight", "", "*x*"] {
            assert!(!matches(pattern, name), "{pattern}");
        }
    }
}
