//! Reads the state of instances for `ls`, `show`, `logs` and `why`: their plan, their records and their last failure.

use std::collections::BTreeMap;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use anyhow::Result;
use serde::Serialize;

use super::capped_log::rotated_path;
use super::plan::{Plan, PlanState};
use super::report::Failure;
use ablate_core::base::{ErrorChain, Hash, files};
use ablate_experiment::{Expansion, InstanceId, Upstream};
use ablate_store::{ExperimentId, SlimRecord, StageRecord, Store};

/// One line of `ls`.
#[derive(Clone, Debug, Serialize)]
pub struct InstanceSummary {
    #[serde(skip)]
    pub id: InstanceId,
    pub name: String,
    pub kind: &'static str,
    /// `fresh`, `dirty`, `waits`, or `failed` if it is not fresh and its last execution failed.
    pub state: &'static str,
    /// Messages of the reasons to run it.
    pub reasons: Vec<String>,
    /// Names of the instances that it waits for.
    pub waits: Vec<String>,
    /// The record that makes it fresh, or else the record of its last result.
    pub record: Option<Hash>,
    /// Total size of its outputs in bytes.
    pub size: Option<u64>,
    pub seconds: Option<f64>,
}

/// What `show` prints of an instance.
#[derive(Clone, Debug, Serialize)]
pub struct InstanceDetails {
    #[serde(flatten)]
    pub summary: InstanceSummary,
    pub record: Option<StageRecord>,
    /// Output names and their paths in the store.
    pub paths: Vec<(String, PathBuf)>,
    pub log: Option<PathBuf>,
    /// The instance and its output, the path, or the environment variable that each input comes from, by the key that names
    /// the input.
    pub inputs: BTreeMap<String, String>,
    /// Set if the instance is not fresh and its last execution failed.
    pub failure: Option<Failure>,
}

/// What the queries read: an experiment, its plan, and the store.
#[derive(Clone, Copy)]
pub struct Query<'a> {
    pub experiment: &'a ExperimentId,
    pub expansion: &'a Expansion,
    pub store: &'a Store,
    pub plan: &'a Plan,
}

impl Query<'_> {
    /// A summary of every instance, in the order of the expansion.
    pub fn list(&self) -> Vec<InstanceSummary> {
        self.expansion.ids().map(|id| self.summarize(id).0).collect()
    }

    /// One instance with its record: the one that makes it fresh, or else the last one.
    pub fn show(&self, id: InstanceId) -> InstanceDetails {
        let (summary, record) = self.summarize(id);
        let record = record.and_then(|record| self.store.record(record.fingerprint));
        let outputs = record.iter().flat_map(|record| &record.outputs);
        let paths = outputs.map(|(name, artifact)| (name.clone(), self.store.artifact_path(artifact))).collect();
        let log = last_log(self.experiment, self.expansion, self.store, id);
        let inputs = self.expansion.get(id).inputs.iter();
        let inputs = inputs.map(|input| (input.role.to_string(), self.source(&input.upstream))).collect();
        InstanceDetails { summary, record, paths, log, inputs, failure: self.last_failure(id) }
    }

    /// Where an input comes from, for people.
    fn source(&self, upstream: &Upstream) -> String {
        match upstream {
            Upstream::Output { instance, output, .. } => {
                format!("`{}` of `{}`", output, self.expansion.get(*instance).name)
            }
            Upstream::External { path } => format!("`{}`", path.display()),
            Upstream::Environment { name } => format!("environment variable `{name}`"),
        }
    }

    /// The failure of the last execution. `None` if it did not fail, or if the instance is fresh now.
    pub fn last_failure(&self, id: InstanceId) -> Option<Failure> {
        let instance = self.expansion.get(id);
        let note = self.store.latest(self.experiment, &instance.name);
        // A stage that wrote no output has no log file.
        let log = note.log.map(|log| self.store.root().join(log)).filter(|log| log.exists());
        let causes = ErrorChain { chain: note.causes, input: false };
        let failure = Failure { instance: instance.name.clone(), causes, log, work: None };
        (note.failed && self.plan.get(id).state != PlanState::Fresh).then_some(failure)
    }

    fn summarize(&self, id: InstanceId) -> (InstanceSummary, Option<SlimRecord>) {
        let instance = self.expansion.get(id);
        let entry = self.plan.get(id);
        let note = self.store.latest(self.experiment, &instance.name);
        let record = entry.record.clone().or_else(|| self.store.slim_record(note.fingerprint?));
        let state = match &entry.state {
            PlanState::Fresh => "fresh",
            _ if note.failed => "failed",
            PlanState::Dirty(_) => "dirty",
            PlanState::Waiting(_) => "waits",
        };
        let (reasons, waits) = match &entry.state {
            PlanState::Fresh => (Vec::new(), Vec::new()),
            PlanState::Dirty(reasons) => (reasons.iter().map(ToString::to_string).collect(), Vec::new()),
            PlanState::Waiting(upstream) => {
                (Vec::new(), upstream.iter().map(|upstream| self.expansion.get(*upstream).name.clone()).collect())
            }
        };
        let summary = InstanceSummary {
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
        (summary, record)
    }
}

/// The log of the last execution, failed or not. The file does not exist if the stage wrote no output.
pub fn last_log(experiment: &ExperimentId, expansion: &Expansion, store: &Store, id: InstanceId) -> Option<PathBuf> {
    let note = store.latest(experiment, &expansion.get(id).name);
    note.log.map(|log| store.root().join(log))
}

/// The last bytes of a log from the start of a line, and whether that is the whole log.
pub fn read_log_end(log: &Path, max_bytes: u64) -> Result<(String, bool)> {
    let mut file = files::open_file(log)?;
    let length = file.metadata()?.len();
    let start = length.saturating_sub(max_bytes);
    file.seek(SeekFrom::Start(start))?;
    let mut bytes = Vec::new();
    file.take(max_bytes).read_to_end(&mut bytes)?;
    let is_whole = start == 0 && !rotated_path(log).exists();
    // The first line may be cut.
    let from = if start == 0 { 0 } else { bytes.iter().position(|byte| *byte == b'\n').map_or(0, |at| at + 1) };
    Ok((String::from_utf8_lossy(&bytes[from..]).into_owned(), is_whole))
}

/// The text of a log. The rotated part of a long log comes first.
pub fn read_log(log: &Path) -> Result<String> {
    let mut text = String::new();
    for part in [rotated_path(log), log.to_path_buf()].iter().filter(|part| part.exists()) {
        // The output of a program need not be UTF-8.
        text.push_str(&String::from_utf8_lossy(&files::read_bytes(part)?));
    }
    Ok(text)
}
