//! Records: what was committed under a fingerprint. Knows no object's bytes.

use std::collections::BTreeMap;
use std::path::PathBuf;

use anyhow::Result;
use serde::{Deserialize, Serialize};

use super::{Store, file_name};
use crate::base::{Hash, files};
use crate::stage::{Artifact, Manifest, Summary};

/// The proof that a stage is done: its manifest in the clear, its outputs, and how they came to be.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StageRecord {
    pub fingerprint: Hash,
    pub manifest: Manifest,
    /// Outputs by their declared names.
    pub outputs: BTreeMap<String, Artifact>,
    pub summary: Summary,
    pub provenance: Provenance,
}

/// The circumstances of a run. Nothing of it is identity.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Provenance {
    pub host: String,
    /// `cpu` or `cuda:N`, as the stage was told.
    pub device: String,
    /// Version of this program.
    pub version: String,
    pub threads: usize,
    /// When it was started (RFC 3339, UTC).
    pub started: String,
    pub seconds: f64,
    /// Path of its log inside the store.
    pub log: String,
}

/// What is known of the last time an instance of this name was looked after.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct LatestNote {
    /// Fingerprint of its last committed record.
    pub fingerprint: Option<Hash>,
    /// Path, inside the store, of the log of its last execution, also of a failed one.
    pub log: Option<String>,
    /// Whether that last execution failed.
    pub failed: bool,
}

impl Store {
    pub(super) fn record_path(&self, fingerprint: Hash) -> PathBuf {
        let digits = fingerprint.to_string();
        self.root().join("records").join(&digits[..2]).join(format!("{}.json", &digits[2..]))
    }

    /// The record of a fingerprint. A record that cannot be read, or that speaks of another fingerprint, is none:
    /// its stage runs again and replaces it; `verify` reports it.
    pub fn record(&self, fingerprint: Hash) -> Option<StageRecord> {
        let text = std::fs::read_to_string(self.record_path(fingerprint)).ok()?;
        let record: StageRecord = serde_json::from_str(&text).ok()?;
        (record.fingerprint == fingerprint).then_some(record)
    }

    /// The last step of a commit: from here on the stage is done.
    pub fn write_record(&self, record: &StageRecord) -> Result<()> {
        files::write_json(&self.record_path(record.fingerprint), record)
    }

    /// Forgets a result: its stage is dirty from now on. The objects stay until `gc`.
    pub fn remove_record(&self, fingerprint: Hash) -> Result<()> {
        files::remove_file(&self.record_path(fingerprint))
    }

    fn latest_path(&self, experiment: &str, instance: &str) -> PathBuf {
        self.root().join("latest").join(file_name(experiment)).join(file_name(instance))
    }

    /// What is known of an instance by its name; empty when nothing is.
    pub fn latest(&self, experiment: &str, instance: &str) -> LatestNote {
        let text = std::fs::read_to_string(self.latest_path(experiment, instance)).unwrap_or_default();
        serde_json::from_str(&text).unwrap_or_default()
    }

    /// Notes what became of an instance; writes nothing when that is known already.
    pub fn note_latest(&self, experiment: &str, instance: &str, note: &LatestNote) -> Result<()> {
        if self.latest(experiment, instance) == *note {
            return Ok(());
        }
        let text = serde_json::to_vec(note).unwrap_or_else(|error| panic!("BUG: a note is plain data: {error}"));
        files::write_soft(&self.latest_path(experiment, instance), &text)
    }

    /// Every fingerprint that has a record.
    pub fn fingerprints(&self) -> Result<Vec<Hash>> {
        let folder = self.root().join("records");
        if !folder.is_dir() {
            return Ok(Vec::new());
        }
        let found = files::walk(&folder)?;
        Ok(found.iter().filter_map(|(name, _)| name.strip_suffix(".json")?.replace('/', "").parse().ok()).collect())
    }
}
