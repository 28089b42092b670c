//! Records of committed stages by fingerprint, and notes on instances by name.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use super::{ExperimentId, Store};
use ablate_core::base::Hash;
use ablate_core::stage::{Artifact, Manifest, Outputs, Summary};

/// The record of a committed stage: its manifest, its outputs, and how they were made.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StageRecord {
    pub fingerprint: Hash,
    pub manifest: Manifest,
    /// Outputs by their declared names.
    pub outputs: BTreeMap<String, Artifact>,
    pub summary: Summary,
    pub provenance: Provenance,
}

/// A build of this program.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(default)]
pub struct Build {
    pub version: String,
    /// Processor architecture and operating system, such as `x86_64-linux`.
    pub target: String,
    /// Cargo features of the build, such as `cuda`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub features: Vec<String>,
    /// The git commit that it was built from, if the build set `ABLATE_COMMIT`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub commit: Option<String>,
    /// The start of the hash of the executable: two builds of one version differ in it.
    pub executable: String,
}

impl Build {
    /// Whether nothing is known about the build, as in records of earlier versions.
    pub fn is_unknown(&self) -> bool {
        *self == Build::default()
    }
}

impl fmt::Display for Build {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Build { version, target, features, commit, executable } = self;
        let mut details = vec![target.clone()];
        details.extend(features.iter().cloned());
        details.extend(commit.iter().map(|commit| format!("commit {commit}")));
        if !executable.is_empty() {
            details.push(format!("executable {executable}"));
        }
        write!(f, "{version} ({})", details.join(", "))
    }
}

/// How a stage was run. Not part of its identity.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Provenance {
    pub host: String,
    /// `cpu` or `cuda:N`, as passed to the stage.
    pub device: String,
    /// Version of this program.
    pub version: String,
    /// Unknown in records of earlier versions.
    #[serde(skip_serializing_if = "Build::is_unknown")]
    pub build: Build,
    pub threads: usize,
    /// Start time (RFC 3339, UTC).
    pub started: String,
    pub seconds: f64,
    /// Path of the stage's log, relative to the store.
    pub log: String,
}

/// A record without manifest and summary, to save memory when ten thousand are loaded.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SlimRecord {
    pub fingerprint: Hash,
    pub outputs: Outputs,
    /// Run time in seconds.
    pub seconds: f64,
    /// Path of its log inside the store.
    pub log: String,
}

/// The fields of a stored record that a [`SlimRecord`] needs.
#[derive(Deserialize)]
struct SlimFields {
    fingerprint: Hash,
    outputs: BTreeMap<String, Artifact>,
    provenance: SlimProvenance,
}

#[derive(Deserialize)]
struct SlimProvenance {
    seconds: f64,
    log: String,
}

impl From<&StageRecord> for SlimRecord {
    fn from(record: &StageRecord) -> SlimRecord {
        let StageRecord { fingerprint, manifest: _, outputs, summary: _, provenance } = record;
        let Provenance { seconds, log, .. } = provenance;
        SlimRecord { fingerprint: *fingerprint, outputs: outputs.clone().into(), seconds: *seconds, log: log.clone() }
    }
}

/// The state of an instance after its last run, by name.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct LatestNote {
    /// Fingerprint of the last committed record.
    pub fingerprint: Option<Hash>,
    /// Path of the log of the last execution, failed or not, relative to the store.
    pub log: Option<String>,
    /// Whether the last execution failed.
    pub failed: bool,
    /// The error messages of the failure, outermost first.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub causes: Vec<String>,
}

/// A note with its experiment and instance.
#[derive(Serialize, Deserialize)]
struct Named {
    #[serde(flatten)]
    experiment: ExperimentId,
    instance: String,
    #[serde(flatten)]
    note: LatestNote,
}

impl Store {
    /// The record of a fingerprint. An unreadable record, or one with another fingerprint, counts as missing: its
    /// stage runs again and replaces it, and `verify` reports it.
    pub fn record(&self, fingerprint: Hash) -> Option<StageRecord> {
        let record: StageRecord = serde_json::from_str(&self.records.get(fingerprint)?).ok()?;
        (record.fingerprint == fingerprint).then_some(record)
    }

    /// As [`Store::record`], without manifest and summary.
    pub fn slim_record(&self, fingerprint: Hash) -> Option<SlimRecord> {
        let part: SlimFields = serde_json::from_str(&self.records.get(fingerprint)?).ok()?;
        let SlimFields { fingerprint: own, outputs, provenance: SlimProvenance { seconds, log } } = part;
        (own == fingerprint).then(|| SlimRecord { fingerprint, outputs: outputs.into(), seconds, log })
    }

    /// Commits stages: syncs their outputs, which [`Store::put`] stored, then appends and syncs their records.
    /// Afterwards the stages are done. On an error none of them is.
    pub fn commit(&self, records: &[StageRecord]) -> Result<()> {
        let outputs = records.iter().flat_map(|record| record.outputs.values());
        // The bases of a result from a remote may arrive without their own records.
        self.fsync_objects(outputs.flat_map(Artifact::with_bases))?;
        let lines = records.iter().map(|record| Ok((record.fingerprint, serde_json::to_string(record)?)));
        let lines: Vec<_> = lines.collect::<Result<_>>().context("BUG: a record is plain data")?;
        self.records.append(&lines, true)
    }

    /// Removes every other record. Their stages become dirty; their objects stay until `gc`.
    pub fn keep_records(&self, kept: &BTreeSet<Hash>) -> Result<()> {
        self.records.rewrite(&|fingerprint, _| kept.contains(&fingerprint))
    }

    /// The note of an instance; the default if there is none.
    pub fn latest(&self, experiment: &ExperimentId, instance: &str) -> LatestNote {
        let text = self.notes.get(note_key(experiment, instance)).unwrap_or_default();
        serde_json::from_str::<Named>(&text).map(|named| named.note).unwrap_or_default()
    }

    /// Stores the notes of instances. Not synced: a power cut may lose them.
    pub fn note_latest(&self, experiment: &ExperimentId, notes: &[(String, LatestNote)]) -> Result<()> {
        let mut lines = Vec::with_capacity(notes.len());
        for (instance, note) in notes {
            let key = note_key(experiment, instance);
            let named = Named { experiment: experiment.clone(), instance: instance.clone(), note: note.clone() };
            lines.push((key, serde_json::to_string(&named).context("BUG: a note is plain data")?));
        }
        if lines.is_empty() { Ok(()) } else { self.notes.append(&lines, false) }
    }

    /// Every note: experiment, instance, and the fingerprint of the last record.
    pub(super) fn all_notes(&self) -> Result<Vec<(ExperimentId, String, Option<Hash>)>> {
        let notes = self.notes.scan()?.entries;
        let notes = notes.iter().filter_map(|(_, text)| serde_json::from_str::<Named>(text).ok());
        Ok(notes.map(|named| (named.experiment, named.instance, named.note.fingerprint)).collect())
    }

    /// Every experiment with a note.
    pub fn noted_experiments(&self) -> Result<Vec<ExperimentId>> {
        let mut found: Vec<ExperimentId> = self.all_notes()?.into_iter().map(|(id, ..)| id).collect();
        found.sort();
        found.dedup();
        Ok(found)
    }

    /// Keeps only the notes that `keep` accepts.
    pub(super) fn keep_notes(&self, keep: &dyn Fn(&ExperimentId, &str) -> bool) -> Result<()> {
        let is_kept = |named: Named| keep(&named.experiment, &named.instance);
        self.notes.rewrite(&|_, text| serde_json::from_str(text).is_ok_and(is_kept))
    }

    /// Every fingerprint with a record.
    pub fn fingerprints(&self) -> Result<Vec<Hash>> {
        Ok(self.records.scan()?.entries.into_iter().map(|(fingerprint, _)| fingerprint).collect())
    }
}

fn note_key(experiment: &ExperimentId, instance: &str) -> Hash {
    let ExperimentId { name, file } = experiment;
    let file = if file.is_empty() { String::new() } else { format!("{file}\0") };
    Hash::of_bytes(format!("{name}\0{file}{instance}").as_bytes())
}
