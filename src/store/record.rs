//! Records: what was committed under a fingerprint, and what is known under a name. Knows no object's bytes.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use super::log::Survey;
use super::{ExperimentId, Store};
use ablate_core::base::Hash;
use ablate_core::stage::{Artifact, Manifest, Outputs, Summary};

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

/// What most readers want of a record: ten thousand manifests would only be in the way.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Committed {
    pub fingerprint: Hash,
    pub outputs: Outputs,
    /// How long it took.
    pub seconds: f64,
    /// Path of its log inside the store.
    pub log: String,
}

/// The part of a record that makes a [`Committed`].
#[derive(Deserialize)]
struct Part {
    fingerprint: Hash,
    outputs: BTreeMap<String, Artifact>,
    provenance: Circumstances,
}

#[derive(Deserialize)]
struct Circumstances {
    seconds: f64,
    log: String,
}

impl From<&StageRecord> for Committed {
    fn from(record: &StageRecord) -> Committed {
        let StageRecord { fingerprint, manifest: _, outputs, summary: _, provenance } = record;
        let Provenance { seconds, log, .. } = provenance;
        Committed { fingerprint: *fingerprint, outputs: outputs.clone().into(), seconds: *seconds, log: log.clone() }
    }
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
    /// Why, outermost first.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub causes: Vec<String>,
}

/// A note with the name it belongs to.
#[derive(Serialize, Deserialize)]
struct Named {
    #[serde(flatten)]
    experiment: ExperimentId,
    instance: String,
    #[serde(flatten)]
    note: LatestNote,
}

impl Store {
    /// The record of a fingerprint. A record that cannot be read, or that speaks of another fingerprint, is none:
    /// its stage runs again and replaces it; `verify` reports it.
    pub fn record(&self, fingerprint: Hash) -> Option<StageRecord> {
        let record: StageRecord = serde_json::from_str(&self.records.get(fingerprint)?).ok()?;
        (record.fingerprint == fingerprint).then_some(record)
    }

    /// As [`Store::record`], without manifest and summary.
    pub fn committed(&self, fingerprint: Hash) -> Option<Committed> {
        let part: Part = serde_json::from_str(&self.records.get(fingerprint)?).ok()?;
        let Part { fingerprint: own, outputs, provenance: Circumstances { seconds, log } } = part;
        (own == fingerprint).then(|| Committed { fingerprint, outputs: outputs.into(), seconds, log })
    }

    /// Commits stages: their outputs, which [`Store::put`] has taken in, reach the disk, then their records are
    /// written. From here on they are done. On an error none of them is.
    pub fn commit(&self, records: &[StageRecord]) -> Result<()> {
        self.make_durable(records.iter().flat_map(|record| record.outputs.values()))?;
        let mut lines = Vec::with_capacity(records.len());
        for record in records {
            lines.push((record.fingerprint, serde_json::to_string(record).context("BUG: a record is plain data")?));
        }
        self.records.append(&lines, true)
    }

    /// Every record that can be read.
    pub(super) fn survey(&self) -> Result<Survey> {
        self.records.survey()
    }

    /// Forgets every other record: their stages are dirty from now on. The objects stay until `gc` takes them.
    pub fn keep_records(&self, kept: &BTreeSet<Hash>) -> Result<()> {
        self.records.rewrite(&|fingerprint, _| kept.contains(&fingerprint))
    }

    /// What is known of an instance by its name; empty when nothing is.
    pub fn latest(&self, experiment: &ExperimentId, instance: &str) -> LatestNote {
        let text = self.notes.get(note_key(experiment, instance)).unwrap_or_default();
        serde_json::from_str::<Named>(&text).map(|named| named.note).unwrap_or_default()
    }

    /// Notes what became of instances, by name. A power cut may lose it.
    pub fn note_latest(&self, experiment: &ExperimentId, notes: &[(String, LatestNote)]) -> Result<()> {
        let mut lines = Vec::with_capacity(notes.len());
        for (instance, note) in notes {
            let key = note_key(experiment, instance);
            let named = Named { experiment: experiment.clone(), instance: instance.clone(), note: note.clone() };
            lines.push((key, serde_json::to_string(&named).context("BUG: a note is plain data")?));
        }
        if lines.is_empty() { Ok(()) } else { self.notes.append(&lines, false) }
    }

    /// Every note: experiment, instance and the fingerprint that it came to last.
    pub(super) fn noted(&self) -> Result<Vec<(ExperimentId, String, Option<Hash>)>> {
        let notes = self.notes.survey()?.entries;
        let notes = notes.iter().filter_map(|(_, text)| serde_json::from_str::<Named>(text).ok());
        Ok(notes.map(|named| (named.experiment, named.instance, named.note.fingerprint)).collect())
    }

    /// Every experiment that an instance was noted of.
    pub fn noted_experiments(&self) -> Result<Vec<ExperimentId>> {
        let mut found: Vec<ExperimentId> = self.noted()?.into_iter().map(|(id, ..)| id).collect();
        found.sort();
        found.dedup();
        Ok(found)
    }

    /// Keeps the notes of those instances only that `keep` accepts.
    pub(super) fn keep_notes(&self, keep: &dyn Fn(&ExperimentId, &str) -> bool) -> Result<()> {
        let is_kept = |named: Named| keep(&named.experiment, &named.instance);
        self.notes.rewrite(&|_, text| serde_json::from_str(text).is_ok_and(is_kept))
    }

    /// Every fingerprint that has a record.
    pub fn fingerprints(&self) -> Result<Vec<Hash>> {
        Ok(self.survey()?.entries.into_iter().map(|(fingerprint, _)| fingerprint).collect())
    }
}

fn note_key(experiment: &ExperimentId, instance: &str) -> Hash {
    let ExperimentId { name, file } = experiment;
    let file = if file.is_empty() { String::new() } else { format!("{file}\0") };
    Hash::of_bytes(format!("{name}\0{file}{instance}").as_bytes())
}
