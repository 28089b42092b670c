//! What a run reports: the outcome of every instance, and the run as a whole.

use std::fmt;
use std::path::PathBuf;

use anyhow::Result;
use serde::{Deserialize, Serialize};

use super::dirty::DirtyReason;
use super::git::GitState;
use super::run_folder::report_path;
use super::select::Selection;
use ablate_core::base::escape::indented;
use ablate_core::base::{ErrorChain, Hash, files};
use ablate_experiment::InstanceId;
use ablate_store::{Build, ExperimentId};

/// The exit code of a run that has to be continued when an endpoint has answered: `EX_TEMPFAIL` of BSD.
pub const DETACHED: u8 = 75;

/// The outcome of an instance in a run.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "snake_case", tag = "outcome")]
pub enum Outcome {
    Ran,
    /// Its result was in the store already, from an earlier run or from another one.
    Fresh,
    /// Its result was made on another machine and fetched for this run.
    Fetched,
    Failed(Failure),
    /// Not run, for this reason.
    Skipped {
        because: String,
    },
    /// Stopped by the user. The next run resumes it.
    Interrupted,
    /// Ended although an endpoint still works on its requests. The next run continues it.
    Detached {
        /// What it waits for.
        waits_for: String,
    },
}

impl Outcome {
    /// The name of the variant, as in JSON.
    pub fn name(&self) -> &'static str {
        match self {
            Outcome::Ran => "ran",
            Outcome::Fresh => "fresh",
            Outcome::Fetched => "fetched",
            Outcome::Failed(_) => "failed",
            Outcome::Skipped { .. } => "skipped",
            Outcome::Interrupted => "interrupted",
            Outcome::Detached { .. } => "detached",
        }
    }
}

/// Whether a detached instance waits for a job in the queue of a cluster, and not for an endpoint.
pub fn waits_for_job(waits_for: &str) -> bool {
    waits_for.starts_with(JOB)
}

/// What an instance waits for that has a job.
pub(super) fn job_text(id: &str) -> String {
    format!("{JOB}{id}")
}

const JOB: &str = "job ";

/// Why an instance failed, and where its files are.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Failure {
    pub instance: String,
    #[serde(flatten)]
    pub causes: ErrorChain,
    pub log: Option<PathBuf>,
    /// The work folder that the next attempt resumes from, or the sandbox of a program.
    pub work: Option<PathBuf>,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut causes = self.causes.chain.iter().map(|cause| indented(cause, "    "));
        let first = causes.next().unwrap_or_else(|| "it reported no cause".to_string());
        write!(f, "`{}` failed: {first}", self.instance)?;
        for cause in causes {
            write!(f, "\n  because {cause}")?;
        }
        if let Some(log) = &self.log {
            write!(f, "\n  log: {}", log.display())?;
        }
        let help = "help: fix the cause and run the same command again: finished stages are kept";
        match &self.work {
            // The sandbox of a program has a dot in its name. A program cannot be resumed.
            Some(work) if work.extension().is_some() => {
                write!(f, "\n  its folder, deleted by the next run: {}\n  {help}", work.display())?;
            }
            Some(_) => write!(f, "\n  {help}, this one resumes from its last checkpoint if it wrote one")?,
            None => {}
        }
        Ok(())
    }
}

/// Where a run is, or how it ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RunPhase {
    Running,
    /// Every selected instance is up to date.
    Finished,
    /// An instance failed, or could not run because its input is not up to date.
    Failed,
    /// Stopped by the user.
    Interrupted,
    /// No instance failed, and an endpoint still works on requests.
    Detached,
    /// It has not ended, and its process is gone.
    Killed,
}

impl RunPhase {
    /// The name of the variant, as in JSON.
    pub fn name(self) -> &'static str {
        match self {
            RunPhase::Running => "running",
            RunPhase::Finished => "finished",
            RunPhase::Failed => "failed",
            RunPhase::Interrupted => "interrupted",
            RunPhase::Detached => "detached",
            RunPhase::Killed => "killed",
        }
    }
}

/// The number by which a run is remembered: of its first report, the first contrast, or else the row with the highest
/// mean. Values are shares from 0 to 1.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Headline {
    /// Name of the report.
    pub report: String,
    pub metric: String,
    /// The name of the contrast, or the label of the row.
    pub label: String,
    /// Whether the value is a difference.
    pub is_contrast: bool,
    pub value: f64,
    /// Whether some of its instances have not run.
    #[serde(default)]
    pub partial: bool,
    /// The 95 % confidence interval; `None` if it has no bounds.
    #[serde(default)]
    pub interval: Option<(f64, f64)>,
}

/// `main: dpo 71.2 % [66.0, 75.9]`, or `main: dpo_gain +1.2 points [0.1, 2.3]`.
impl fmt::Display for Headline {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Headline { report, label, is_contrast, value, partial, interval, metric: _ } = self;
        let partial = if *partial { " (some instances have not run)" } else { "" };
        let sign = if *is_contrast && *value >= 0.0 { "+" } else { "" };
        let interval = interval.map(|(low, high)| format!(" [{:.1}, {:.1}]", 100.0 * low, 100.0 * high));
        let unit = if *is_contrast { "points" } else { "%" };
        write!(f, "{report}: {label} {sign}{:.1} {unit}{}{partial}", 100.0 * value, interval.unwrap_or_default())
    }
}

/// What a run did. Written to `run.json`.
#[derive(Clone, Debug, Serialize)]
pub struct RunReport {
    /// Name of the run: `<time>-<id>`.
    pub run: String,
    /// Its number in the store; `None` for a no-op run.
    pub number: Option<u64>,
    /// Folder of its report and logs; `None` for a no-op run, which writes nothing.
    pub folder: Option<PathBuf>,
    #[serde(flatten)]
    pub experiment: ExperimentId,
    /// The values of `--set`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub overrides: Vec<String>,
    #[serde(skip_serializing_if = "Selection::is_all")]
    pub selection: Selection,
    /// Stages and instances that ran although they were fresh.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub force: Vec<String>,
    /// The files that the experiment was read from, with the hashes of their contents.
    pub files: Vec<(PathBuf, Hash)>,
    /// The working tree of the experiment's file.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub git: Option<GitState>,
    pub build: Build,
    pub host: String,
    pub command: Vec<String>,
    pub started: String,
    pub seconds: f64,
    pub interrupted: bool,
    /// Whether the run has ended. In the file of a running or killed run this is false.
    pub ended: bool,
    pub phase: RunPhase,
    /// Written when the tables are computed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub headline: Option<Headline>,
    /// Number of selected instances.
    pub selected: usize,
    /// How many of them the plan found fresh.
    pub fresh: usize,
    pub instances: Vec<InstanceReport>,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct InstanceReport {
    #[serde(skip)]
    pub id: InstanceId,
    pub name: String,
    #[serde(flatten)]
    pub outcome: Outcome,
    pub seconds: f64,
    pub fingerprint: Option<Hash>,
    pub reasons: Vec<DirtyReason>,
}

impl RunReport {
    /// The number of instances whose outcome `accept` accepts.
    pub fn count(&self, accept: impl Fn(&Outcome) -> bool) -> usize {
        self.instances.iter().filter(|instance| accept(&instance.outcome)).count()
    }

    pub fn failures(&self) -> impl Iterator<Item = &Failure> {
        self.instances.iter().filter_map(|instance| match &instance.outcome {
            Outcome::Failed(failure) => Some(failure),
            _ => None,
        })
    }

    /// How the run ends.
    pub fn end(&self) -> RunPhase {
        match self.exit_code() {
            0 => RunPhase::Finished,
            130 => RunPhase::Interrupted,
            DETACHED => RunPhase::Detached,
            _ => RunPhase::Failed,
        }
    }

    /// Writes `run.json`. A no-op run writes nothing.
    pub fn write(&self) -> Result<()> {
        self.folder.as_ref().map_or(Ok(()), |folder| files::write_json(&report_path(folder), self))
    }

    /// 130 after an interruption; 1 after a failure, or 2 if wrong input caused every failure; [`DETACHED`] if an instance
    /// waits for its endpoint; 0 if every selected instance is up to date.
    pub fn exit_code(&self) -> u8 {
        let incomplete = |outcome: &Outcome| !matches!(outcome, Outcome::Ran | Outcome::Fresh | Outcome::Fetched);
        if self.interrupted {
            130
        } else if self.failures().any(|failure| !failure.causes.input) {
            1
        } else if self.failures().next().is_some() {
            2
        } else if self.count(|outcome| matches!(outcome, Outcome::Detached { .. })) > 0 {
            DETACHED
        } else if self.count(incomplete) > 0 {
            // An instance reads one that is not selected and not up to date.
            2
        } else {
            0
        }
    }
}
