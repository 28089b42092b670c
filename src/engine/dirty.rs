//! Why an instance must run: one variant per cause, with the old and the new value.

use std::fmt;
use std::path::PathBuf;

use serde::Serialize;
use serde_json::Value;

use ablate_core::base::Hash;

/// A cause. There is no "other" variant, because the compared list is the hashed list.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "snake_case", tag = "reason")]
pub enum DirtyReason {
    /// The store has no record of this instance, nor of an earlier version of it.
    NeverRun,
    /// Named by `--force`.
    Forced,
    /// Named by `retry`, which requests these kinds of bad replies again.
    BadReplies { kinds: Vec<String> },
    /// The stage of this name had another kind.
    KindChanged { old: String, new: String },
    /// The new version of the kind writes different bytes for the same inputs.
    VersionChanged { kind: String, old: u32, new: u32 },
    /// A value of the stage's table changed.
    ValueChanged { key: String, old: Value, new: Value },
    /// The record has no value of this key.
    ValueAdded { key: String, new: Value },
    /// Only the record has a value of this key.
    ValueRemoved { key: String, old: Value },
    /// The content of an input changed; `path` is set for an external file or folder.
    InputChanged { role: String, old: Hash, new: Hash, path: Option<PathBuf> },
    /// An environment variable changed. Its value is not stored, because it may be a secret.
    VariableChanged { role: String, name: String },
    /// The record has no input of this role.
    InputAdded { role: String },
    /// Only the record has an input of this role.
    InputRemoved { role: String },
    /// `None` if the kind uses no seed.
    SeedChanged { old: Option<u64>, new: Option<u64> },
    /// The same entries in a different order.
    OrderChanged { key: String },
    /// The record exists, but the store lacks this output.
    ObjectMissing { output: String, hash: Hash },
    /// The bytes of this output in the store are not the committed ones.
    ObjectCorrupt { output: String, hash: Hash },
    /// The kind declares an output that the record lacks.
    OutputAdded { output: String },
    /// An external file or folder does not exist, so the instance cannot run.
    PathMissing { role: String, path: PathBuf },
    /// An external file or folder cannot be read, so the instance cannot run.
    PathUnreadable { role: String, path: PathBuf, error: String },
}

impl DirtyReason {
    /// The key of the stage's table that the reason is about; empty for the whole stage.
    pub fn key(&self) -> &str {
        match self {
            DirtyReason::ValueChanged { key, .. }
            | DirtyReason::ValueAdded { key, .. }
            | DirtyReason::ValueRemoved { key, .. }
            | DirtyReason::OrderChanged { key } => key,
            DirtyReason::InputChanged { role, .. }
            | DirtyReason::VariableChanged { role, .. }
            | DirtyReason::InputAdded { role }
            | DirtyReason::InputRemoved { role }
            | DirtyReason::PathMissing { role, .. }
            | DirtyReason::PathUnreadable { role, .. } => role,
            DirtyReason::KindChanged { .. } => "kind",
            DirtyReason::SeedChanged { .. } => "seed",
            DirtyReason::NeverRun
            | DirtyReason::Forced
            | DirtyReason::BadReplies { .. }
            | DirtyReason::VersionChanged { .. }
            | DirtyReason::ObjectMissing { .. }
            | DirtyReason::ObjectCorrupt { .. }
            | DirtyReason::OutputAdded { .. } => "",
        }
    }

    /// Whether the user must act before the instance can run at all.
    pub fn is_obstacle(&self) -> bool {
        matches!(self, DirtyReason::PathMissing { .. } | DirtyReason::PathUnreadable { .. })
    }
}

impl fmt::Display for DirtyReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            DirtyReason::NeverRun => f.write_str("it has not run yet"),
            DirtyReason::Forced => f.write_str("it is forced with `--force`"),
            DirtyReason::BadReplies { kinds } => {
                write!(f, "its bad replies are requested again: {}", kinds.join(", "))
            }
            DirtyReason::KindChanged { old, new } => write!(f, "its kind changed from `{old}` to `{new}`"),
            DirtyReason::VersionChanged { kind, old, new } => {
                write!(f, "version {new} of kind `{kind}` gives different results than version {old}")
            }
            DirtyReason::ValueChanged { key, old, new } => {
                let (old, new) = (old.to_string(), new.to_string());
                let from = common_prefix(&old, &new);
                write!(f, "`{key}` changed from {} to {}", shorten(&old, from), shorten(&new, from))
            }
            DirtyReason::ValueAdded { key, new } => write!(f, "`{key}` was added: {}", shorten(&new.to_string(), 0)),
            DirtyReason::ValueRemoved { key, old } => {
                write!(f, "`{key}` was removed, it was {}", shorten(&old.to_string(), 0))
            }
            DirtyReason::InputChanged { role, old, new, path: Some(path) } => {
                let (path, old, new) = (path.display(), old.short(), new.short());
                write!(f, "the content of `{path}` (`{role}`) changed from {old} to {new}")
            }
            DirtyReason::InputChanged { role, old, new, path: None } => {
                write!(f, "the content of its input `{role}` changed from {} to {}", old.short(), new.short())
            }
            DirtyReason::VariableChanged { name, .. } => write!(f, "the environment variable `{name}` changed"),
            DirtyReason::InputAdded { role } => write!(f, "its input `{role}` was added"),
            DirtyReason::InputRemoved { role } => write!(f, "its input `{role}` was removed"),
            DirtyReason::SeedChanged { old: Some(old), new: Some(new) } => {
                write!(f, "its seed changed from {old} to {new}")
            }
            DirtyReason::SeedChanged { new: Some(new), .. } => write!(f, "it now uses a seed: {new}"),
            DirtyReason::SeedChanged { .. } => write!(f, "it no longer uses a seed"),
            DirtyReason::OrderChanged { key } => write!(f, "the order of its values changed, first at `{key}`"),
            DirtyReason::ObjectMissing { output, hash } => {
                write!(f, "its output `{output}` ({}) is missing from the store", hash.short())
            }
            DirtyReason::ObjectCorrupt { output, hash } => {
                write!(f, "its output `{output}` ({}) is corrupt in the store", hash.short())
            }
            DirtyReason::OutputAdded { output } => write!(f, "its kind now also writes the output `{output}`"),
            DirtyReason::PathMissing { role, path } => write!(f, "`{}` (`{role}`) does not exist", path.display()),
            DirtyReason::PathUnreadable { path, role, error } => {
                write!(f, "`{}` (`{role}`) cannot be read: {error}", path.display())
            }
        }
    }
}

/// The most characters of a value that a message shows.
const MAX_SHOWN: usize = 60;

/// The length of the common prefix of two texts, in characters.
fn common_prefix(one: &str, other: &str) -> usize {
    one.chars().zip(other.chars()).take_while(|(one, other)| one == other).count()
}

/// Shortens a long value to the part around the first difference.
fn shorten(text: &str, differs: usize) -> String {
    let length = text.chars().count();
    if length <= MAX_SHOWN {
        return text.to_string();
    }
    // A few common characters before the difference give context.
    let skipped = if differs + 3 < MAX_SHOWN { 0 } else { (differs - 15).min(length - MAX_SHOWN + 6) };
    let taken = MAX_SHOWN - if skipped > 0 { 6 } else { 3 };
    let middle: String = text.chars().skip(skipped).take(taken).collect();
    let start = if skipped > 0 { "..." } else { "" };
    let end = if skipped + taken < length { "..." } else { "" };
    format!("{start}{middle}{end}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use expect_test::expect;
    use serde_json::json;

    fn lines(reasons: &[DirtyReason]) -> String {
        reasons.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n") + "\n"
    }

    #[test]
    fn every_reason_has_a_message() {
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
            DirtyReason::VariableChanged { role: "env.HF_HOME".into(), name: "HF_HOME".into() },
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
            it is forced with `--force`
            its kind changed from `sft` to `dpo`
            version 2 of kind `sft` gives different results than version 1
            `beta` changed from 0.1 to 0.2
            `truncate.words` was added: 90
            `prompt` was removed, it was "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx...
            the content of its input `policy` changed from 96a4257289 to b20ab0a020
            the content of `data/train.jsonl` (`path`) changed from 96a4257289 to b20ab0a020
            the environment variable `HF_HOME` changed
            its input `sources.cot.from` was added
            its input `sources.cot.from` was removed
            its seed changed from 0 to 1
            it now uses a seed: 1
            it no longer uses a seed
            the order of its values changed, first at `lr`
            its output `model` (96a4257289) is missing from the store
            its output `model` (96a4257289) is corrupt in the store
            its kind now also writes the output `curve.jsonl`
            `data/train.jsonl` (`path`) does not exist
            `data/train.jsonl` (`path`) cannot be read: permission denied
        "#]]
        .assert_eq(&lines(&reasons));
    }

    #[test]
    fn long_values_are_shown_where_they_differ() {
        let value = |end: &str| json!(format!("{}{end}", "x".repeat(70)));
        let reason = |old, new| DirtyReason::ValueChanged { key: "run".into(), old: value(old), new: value(new) };
        expect![[r#"
            `run` changed from ...xxxxxx.upper()" to ...xxxxxx.lower()"
        "#]]
        .assert_eq(&lines(&[reason(".upper()", ".lower()")]).replace(&"x".repeat(40), "x"));
        let (short, long) = (json!("a"), json!("b".repeat(80)));
        let text = DirtyReason::ValueChanged { key: "run".into(), old: short, new: long }.to_string();
        assert!(text.starts_with("`run` changed from \"a\" to \"bbb") && text.ends_with("b..."), "{text}");
    }
}
