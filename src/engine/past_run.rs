//! What is read back of a run: its report, and the state that follows from its events.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use anyhow::Result;
use serde::{Deserialize, Serialize};

use super::git::GitState;
use super::report::{Headline, RunPhase};
use super::run_folder::report_path;
use super::run_number::numbers;
use super::select::Selection;
use ablate_core::base::{Hash, RequestProgress, files};
use ablate_store::{Build, ExperimentId, Store};

/// The part of `run.json` that is read back. Runs of earlier versions lack some of it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct PastRun {
    pub run: String,
    /// Its number; 0 until [`read`] has found it.
    #[serde(default, deserialize_with = "number_or_zero")]
    pub number: u64,
    #[serde(flatten)]
    pub experiment: ExperimentId,
    #[serde(default)]
    pub overrides: Vec<String>,
    #[serde(default, skip_serializing_if = "Selection::is_all")]
    pub selection: Selection,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub force: Vec<String>,
    /// The files that the experiment was read from, with the hashes of their contents.
    #[serde(default, skip_serializing)]
    pub files: Vec<(PathBuf, Hash)>,
    #[serde(default)]
    pub git: Option<GitState>,
    #[serde(default, skip_serializing_if = "Build::is_unknown")]
    pub build: Build,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub host: String,
    #[serde(default)]
    pub headline: Option<Headline>,
    pub command: Vec<String>,
    pub started: String,
    pub seconds: f64,
    pub ended: bool,
    #[serde(default, skip_serializing)]
    phase: Option<RunPhase>,
    #[serde(default, skip_serializing)]
    interrupted: bool,
    #[serde(default)]
    pub selected: usize,
    #[serde(default)]
    pub fresh: usize,
    #[serde(default, skip_serializing)]
    pub instances: Vec<PastInstance>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct PastInstance {
    pub name: String,
    pub outcome: String,
    pub fingerprint: Option<Hash>,
}

impl PastInstance {
    /// Whether the instance had a result when the run ended.
    pub fn is_done(&self) -> bool {
        ["ran", "fresh", "fetched"].contains(&self.outcome.as_str())
    }
}

/// The state of a run.
#[derive(Clone, Debug, Serialize)]
pub struct Status {
    #[serde(flatten)]
    pub run: PastRun,
    pub state: RunPhase,
    /// Seconds from the start of the run to its last event.
    pub elapsed: f64,
    /// Number of instances by outcome, including those that the plan found fresh.
    pub outcomes: BTreeMap<String, usize>,
    pub running: Vec<RunningInstance>,
    /// Instances that wait for another run.
    pub waiting: Vec<WaitingInstance>,
    /// Instances that ended although an endpoint still works on their requests.
    pub detached: Vec<WaitingInstance>,
    /// Names of the instances that failed.
    pub failed: Vec<String>,
}

/// An instance that runs, as of the last event.
#[derive(Clone, Debug, Serialize)]
pub struct RunningInstance {
    pub instance: String,
    /// Seconds since its start, as of the last event of the run.
    pub seconds: f64,
    /// Done, total and unit.
    pub progress: Option<(u64, u64, String)>,
    /// Seconds left; `None` while too little was measured.
    pub left: Option<f64>,
    pub loss: Option<f64>,
    /// Its requests to an endpoint.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub requests: Option<RequestProgress>,
}

/// An instance that waits for another run or for an endpoint, as of the last event.
#[derive(Clone, Debug, Serialize)]
pub struct WaitingInstance {
    pub instance: String,
    pub why: String,
}

impl PastRun {
    /// How the run ended; `None` if its file does not say that it ended.
    pub fn end(&self) -> Option<RunPhase> {
        if !self.ended {
            return None;
        }
        // Earlier versions did not write it.
        let any = |outcome: &str| self.instances.iter().any(|instance| instance.outcome == outcome);
        Some(match self.phase {
            Some(phase) => phase,
            None if self.interrupted => RunPhase::Interrupted,
            None if any("failed") => RunPhase::Failed,
            None if any("detached") => RunPhase::Detached,
            None if any("skipped") => RunPhase::Failed,
            None => RunPhase::Finished,
        })
    }

    /// The names of the instances that the run executed.
    pub fn ran(&self) -> BTreeSet<&str> {
        self.instances.iter().filter(|one| one.outcome == "ran").map(|one| one.name.as_str()).collect()
    }
}

fn number_or_zero<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
    Ok(Option::<u64>::deserialize(deserializer)?.unwrap_or(0))
}

/// Reads `run.json` of a run.
pub fn read(store: &Store, run: &str) -> Result<PastRun> {
    let mut past: PastRun = files::read_json(&report_path(&store.runs_path().join(run)))?;
    if past.number == 0 {
        past.number = numbers(store)?.get(run).copied().unwrap_or(0);
    }
    Ok(past)
}
