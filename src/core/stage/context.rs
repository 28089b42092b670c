//! What a running stage has access to: its inputs, its private folders, its seed.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use anyhow::{Result, anyhow};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::artifact::ArtifactKind;
use crate::base::{Hash, Progress, Seed};

/// The kinds of replies without a usable text: [`StageContext::retry`] names those that are requested again.
///
/// - `empty`: no text
/// - `refused`: the model declined to answer
/// - `filtered`: the service removed the text or a part of it
/// - `cut`: cut at the token limit
/// - `malformed`: not a chat completion
/// - `too-long`: longer than the token limit can explain
/// - `rejected`: the endpoint rejected this request, and answered others
/// - `form`: not in the form that the stage needs
pub const BAD_REPLIES: &[&str] = &["empty", "refused", "filtered", "cut", "malformed", "too-long", "rejected", "form"];

/// An input on disk. Read-only.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InputPath {
    pub path: PathBuf,
    pub hash: Hash,
    /// The artifact's kind; `None` for an external file or folder.
    pub kind: Option<ArtifactKind>,
}

/// The environment of one running stage.
pub struct StageContext<'a> {
    /// Inputs by role.
    pub inputs: BTreeMap<String, InputPath>,
    /// Image packs (tars) by content hash: those of every input.
    pub images: BTreeMap<Hash, PathBuf>,
    /// The checkpoints that inputs build on ([`super::Artifact::bases`]), by content hash.
    pub bases: BTreeMap<Hash, PathBuf>,
    /// Folder for the outputs, each under its declared name.
    pub out: PathBuf,
    /// Folder for checkpoints. It is kept when the stage is interrupted, and the next attempt with the same
    /// fingerprint resumes from it.
    pub scratch: PathBuf,
    pub seed: Seed,
    /// Threads that the stage may use. The number does not change its output.
    pub threads: usize,
    /// `auto`, `cpu` or `cuda:N`.
    pub device: String,
    /// The variables of [`super::Stage::variables`] that are set, with their values.
    pub variables: BTreeMap<String, String>,
    /// Folder of the replies of endpoints, which all stages of a store share.
    pub replies: PathBuf,
    /// The [`BAD_REPLIES`] that this run requests again (`ablate retry`).
    pub retry: BTreeSet<String>,
    /// Whether the stage may end while an endpoint still works on its requests ([`crate::base::Detached`]).
    pub detach: bool,
    pub progress: &'a dyn Progress,
}

impl StageContext<'_> {
    /// The input of a role. A missing role is a bug of the kind, reported as an error.
    pub fn input(&self, role: &str) -> Result<&InputPath> {
        self.inputs.get(role).ok_or_else(|| anyhow!("BUG: the stage declares no input `{role}`"))
    }

    /// The path of the output called `name`.
    pub fn output(&self, name: &str) -> PathBuf {
        self.out.join(name)
    }
}

/// Facts that a stage reports about its work. The record keeps them and `show` displays them; they are not part of an
/// artifact.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Summary(pub serde_json::Map<String, Value>);

impl Summary {
    #[must_use]
    pub fn with<T: Serialize>(mut self, key: &str, value: T) -> Summary {
        let value = serde_json::to_value(value).unwrap_or_else(|error| panic!("BUG: summary `{key}`: {error}"));
        self.0.insert(key.to_string(), value);
        self
    }

    /// Adds warnings that users of the results must see, such as rows that were left out and why. A run shows them
    /// when the stage ends, and a report lists them among its notes.
    #[must_use]
    pub fn with_warnings(mut self, warnings: impl IntoIterator<Item = String>) -> Summary {
        let all: Vec<Value> = self.warnings().map(Value::from).chain(warnings.into_iter().map(Value::from)).collect();
        if !all.is_empty() {
            self.0.insert(WARNINGS.to_string(), Value::Array(all));
        }
        self
    }

    /// The facts and warnings of both.
    #[must_use]
    pub fn extended(mut self, other: Summary) -> Summary {
        let warnings: Vec<String> = other.warnings().map(str::to_string).collect();
        self.0.extend(other.0.into_iter().filter(|(key, _)| key != WARNINGS));
        self.with_warnings(warnings)
    }

    /// The warnings added by [`Summary::with_warnings`].
    pub fn warnings(&self) -> impl Iterator<Item = &str> {
        self.0.get(WARNINGS).and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str)
    }
}

/// The key of a summary's warnings.
const WARNINGS: &str = "warnings";
