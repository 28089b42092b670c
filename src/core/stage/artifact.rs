//! Outputs of stages: a type and a content hash.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::base::Hash;

/// The type of an output. A reference to an output of another type is an error before anything runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, schemars::JsonSchema)]
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
    /// Judged responses with the log-ratio of two models, token by token (JSONL).
    Credits,
    /// Preference pairs (JSONL).
    Pairs,
    /// One row per evaluated item (JSONL).
    Scores,
    /// Training curve (JSONL).
    Curve,
    /// Facts about another output (JSON).
    Facts,
    /// A file or folder of unknown content.
    File,
}

impl ArtifactKind {
    pub const ALL: [ArtifactKind; 13] = [
        ArtifactKind::Items,
        ArtifactKind::Images,
        ArtifactKind::Rows,
        ArtifactKind::Tokenizer,
        ArtifactKind::Checkpoint,
        ArtifactKind::Rollouts,
        ArtifactKind::Judged,
        ArtifactKind::Credits,
        ArtifactKind::Pairs,
        ArtifactKind::Scores,
        ArtifactKind::Curve,
        ArtifactKind::Facts,
        ArtifactKind::File,
    ];

    /// The name in experiment files.
    pub fn name(self) -> &'static str {
        match self {
            ArtifactKind::Items => "items",
            ArtifactKind::Images => "images",
            ArtifactKind::Rows => "rows",
            ArtifactKind::Tokenizer => "tokenizer",
            ArtifactKind::Checkpoint => "checkpoint",
            ArtifactKind::Rollouts => "rollouts",
            ArtifactKind::Judged => "judged",
            ArtifactKind::Credits => "credits",
            ArtifactKind::Pairs => "pairs",
            ArtifactKind::Scores => "scores",
            ArtifactKind::Curve => "curve",
            ArtifactKind::Facts => "facts",
            ArtifactKind::File => "file",
        }
    }
}

impl fmt::Display for ArtifactKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            ArtifactKind::File => "a file",
            kind => kind.name(),
        })
    }
}

/// A declared output: a file or folder called `name` in the stage's output folder.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OutputSpec {
    pub name: Cow<'static, str>,
    pub kind: ArtifactKind,
}

impl OutputSpec {
    pub const fn new(name: &'static str, kind: ArtifactKind) -> OutputSpec {
        OutputSpec { name: Cow::Borrowed(name), kind }
    }
}

/// A committed output.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Artifact {
    pub kind: ArtifactKind,
    /// Hash of the file's bytes, or of the folder's tree manifest.
    pub hash: Hash,
    /// Whether `hash` names a tree.
    pub tree: bool,
    /// Total bytes.
    pub size: u64,
    /// Image packs whose members this artifact's rows name. They are kept as long as the artifact.
    #[serde(default)]
    pub images: Vec<Hash>,
    /// The checkpoints that this one builds on, in order: an adapter holds no weights of the model that it adapts. They are
    /// kept as long as the artifact.
    #[serde(default)]
    pub bases: Vec<BaseCheckpoint>,
}

impl Artifact {
    /// The hashes of all objects that are kept as long as the artifact: its own, those of its image packs and of its bases.
    pub fn needed_objects(&self) -> impl Iterator<Item = Hash> + '_ {
        let bases = self.bases.iter().map(|base| base.hash);
        std::iter::once(self.hash).chain(self.images.iter().copied()).chain(bases)
    }

    /// The artifact and its bases.
    pub fn with_bases(&self) -> impl Iterator<Item = Artifact> + '_ {
        std::iter::once(self.clone()).chain(self.bases.iter().map(BaseCheckpoint::artifact))
    }

    /// Total bytes with those of its bases: for an adapter about the size of the whole model.
    pub fn size_with_bases(&self) -> u64 {
        self.size + self.bases.iter().map(|base| base.size).sum::<u64>()
    }
}

/// A checkpoint that another one builds on: a folder in the store.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BaseCheckpoint {
    /// Hash of the folder's tree manifest.
    pub hash: Hash,
    /// Total bytes.
    pub size: u64,
}

impl BaseCheckpoint {
    /// The checkpoint as an artifact.
    pub fn artifact(&self) -> Artifact {
        let BaseCheckpoint { hash, size } = *self;
        Artifact { kind: ArtifactKind::Checkpoint, hash, tree: true, size, images: Vec::new(), bases: Vec::new() }
    }
}

/// Committed outputs, sorted by name. A list, because a stage has few outputs and there are many stages.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outputs(Vec<(String, Artifact)>);

impl Outputs {
    pub fn get(&self, name: &str) -> Option<&Artifact> {
        self.0.iter().find(|(known, _)| known == name).map(|(_, artifact)| artifact)
    }

    pub fn iter(&self) -> impl Iterator<Item = (&str, &Artifact)> {
        self.0.iter().map(|(name, artifact)| (name.as_str(), artifact))
    }

    pub fn values(&self) -> impl Iterator<Item = &Artifact> {
        self.0.iter().map(|(_, artifact)| artifact)
    }
}

impl From<BTreeMap<String, Artifact>> for Outputs {
    fn from(outputs: BTreeMap<String, Artifact>) -> Outputs {
        Outputs(outputs.into_iter().collect())
    }
}
