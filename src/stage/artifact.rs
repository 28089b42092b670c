//! Outputs of stages: a type and a content hash.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::base::Hash;

/// What an output is, so that a reference to the wrong thing is an error before anything runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ArtifactKind {
    /// Questions with gold answers (JSONL).
    Items,
    /// A tar of encoded images; rows name its members.
    Images,
    /// Training rows: prompt and response (JSONL).
    Rows,
    Tokenizer,
    /// Model config and weights (a folder).
    Checkpoint,
    /// Sampled responses (JSONL).
    Rollouts,
    /// Rollouts with a verdict per sample (JSONL).
    Judged,
    /// Preference pairs (JSONL).
    Pairs,
    /// One row per evaluated item (JSONL).
    Scores,
    /// Training curve (JSONL).
    Curve,
    /// Facts about another output (JSON).
    Facts,
}

impl fmt::Display for ArtifactKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            ArtifactKind::Items => "items",
            ArtifactKind::Images => "images",
            ArtifactKind::Rows => "rows",
            ArtifactKind::Tokenizer => "tokenizer",
            ArtifactKind::Checkpoint => "checkpoint",
            ArtifactKind::Rollouts => "rollouts",
            ArtifactKind::Judged => "judged",
            ArtifactKind::Pairs => "pairs",
            ArtifactKind::Scores => "scores",
            ArtifactKind::Curve => "curve",
            ArtifactKind::Facts => "facts",
        })
    }
}

/// An output that a kind declares: a file or folder called `name` in the stage's output folder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OutputSpec {
    pub name: &'static str,
    pub kind: ArtifactKind,
}

/// A committed output.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Artifact {
    pub kind: ArtifactKind,
    /// Hash of the file's bytes, or of the folder's tree manifest.
    pub hash: Hash,
    /// Whether `hash` names a tree.
    pub tree: bool,
    /// Bytes in all.
    pub size: u64,
    /// Image packs whose members this artifact's rows name: they live as long as the artifact.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub images: Vec<Hash>,
}
