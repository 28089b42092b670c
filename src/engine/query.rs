//! Questions about what is there: list instances, show one, find its log. Runs nothing.

use std::path::{Path, PathBuf};

use anyhow::Result;
use serde::Serialize;

use super::bounded::older;
use super::plan::{Plan, PlanState};
use super::run::Failure;
use ablate_core::base::{ErrorChain, Hash, files};
use ablate_experiment::{Expansion, InstanceId};
use ablate_store::{ExperimentId, SlimRecord, StageRecord, Store};

/// A line of `ls`.
#[derive(Clone, Debug, Serialize)]
pub struct Listed {
    #[serde(skip)]
    pub id: InstanceId,
    pub name: String,
    pub kind: &'static str,
    /// `fresh`, `dirty`, `waits`, or `failed` where the last execution failed.
    pub state: &'static str,
    /// Why it must run, in words.
    pub reasons: Vec<String>,
    /// Names of the instances that it waits for.
    pub waits: Vec<String>,
    /// The record of the present form, or of the last one.
    pub record: Option<Hash>,
    /// Bytes of its outputs.
    pub size: Option<u64>,
    pub seconds: Option<f64>,
}

/// All of one instance.
#[derive(Clone, Debug, Serialize)]
pub struct Shown {
    #[serde(flatten)]
    pub listed: Listed,
    pub record: Option<StageRecord>,
    /// Output names to paths in the store.
    pub paths: Vec<(String, PathBuf)>,
    pub log: Option<PathBuf>,
    /// Of an instance that is not up to date and whose last execution failed.
    pub failure: Option<Failure>,
}

/// Every instance with its state.
pub fn list(experiment: &ExperimentId, expansion: &Expansion, store: &Store, plan: &Plan) -> Vec<Listed> {
    expansion.ids().map(|id| look(experiment, expansion, store, plan, id).0).collect()
}

/// One instance with its record: the present one, or the last one if it is dirty.
pub fn show(experiment: &ExperimentId, expansion: &Expansion, store: &Store, plan: &Plan, id: InstanceId) -> Shown {
    let (listed, record) = look(experiment, expansion, store, plan, id);
    let record = record.and_then(|record| store.record(record.fingerprint));
    let outputs = record.iter().flat_map(|record| &record.outputs);
    let paths = outputs.map(|(name, artifact)| (name.clone(), store.artifact_path(artifact))).collect();
    let log = log(experiment, expansion, store, id);
    let failure = failure(experiment, expansion, store, plan, id);
    Shown { listed, record, paths, log, failure }
}

/// How the last execution of an instance failed; none where it did not, or the instance is fresh by now.
pub fn failure(
    experiment: &ExperimentId,
    expansion: &Expansion,
    store: &Store,
    plan: &Plan,
    id: InstanceId,
) -> Option<Failure> {
    let instance = expansion.get(id);
    let note = store.latest(experiment, &instance.name);
    // A stage that said nothing has no file.
    let log = note.log.map(|log| store.root().join(log)).filter(|log| log.exists());
    let causes = ErrorChain { chain: note.causes, input: false };
    let failure = Failure { instance: instance.name.clone(), causes, log, work: None };
    (note.failed && plan.get(id).state != PlanState::Fresh).then_some(failure)
}

/// Where the log of an instance's last execution is, also of a failed one. There is no file where it said nothing.
pub fn log(experiment: &ExperimentId, expansion: &Expansion, store: &Store, id: InstanceId) -> Option<PathBuf> {
    let note = store.latest(experiment, &expansion.get(id).name);
    note.log.map(|log| store.root().join(log))
}

/// What a log says, the older part of a long one first.
pub fn words(log: &Path) -> Result<String> {
    let mut text = String::new();
    for part in [older(log), log.to_path_buf()].iter().filter(|part| part.exists()) {
        // Programs say what they like.
        text.push_str(&String::from_utf8_lossy(&files::read_bytes(part)?));
    }
    Ok(text)
}

fn look(
    experiment: &ExperimentId,
    expansion: &Expansion,
    store: &Store,
    plan: &Plan,
    id: InstanceId,
) -> (Listed, Option<SlimRecord>) {
    let instance = expansion.get(id);
    let entry = plan.get(id);
    let note = store.latest(experiment, &instance.name);
    let record = entry.record.clone().or_else(|| store.slim_record(note.fingerprint?));
    let state = match &entry.state {
        PlanState::Fresh => "fresh",
        _ if note.failed => "failed",
        PlanState::Dirty(_) => "dirty",
        PlanState::Waits(_) => "waits",
    };
    let (reasons, waits) = match &entry.state {
        PlanState::Fresh => (Vec::new(), Vec::new()),
        PlanState::Dirty(reasons) => (reasons.iter().map(ToString::to_string).collect(), Vec::new()),
        PlanState::Waits(above) => (Vec::new(), above.iter().map(|above| expansion.get(*above).name.clone()).collect()),
    };
    let listed = Listed {
        id,
        name: instance.name.clone(),
        kind: instance.kind.name,
        state,
        reasons,
        waits,
        record: record.as_ref().map(|record| record.fingerprint),
        size: record.as_ref().map(|record| record.outputs.values().map(|artifact| artifact.size).sum()),
        seconds: record.as_ref().map(|record| record.seconds),
    };
    (listed, record)
}
