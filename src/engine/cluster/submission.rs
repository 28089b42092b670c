//! The files of a submission, through which the driver and its jobs talk: both see the store's folder.
//!
//! ```text
//! cache/jobs/<name>/
//!   script.sh        what the queue got
//!   <index>.json     the task of a job
//!   <index>.out      what the job printed
//!   <index>.events   the events of the stage, one JSON line each
//!   <index>.end      how the last attempt of the job ended
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use super::Cluster;
use super::queue::output_path;
use ablate_core::base::{ErrorChain, Hash, StageEvent, files};
use ablate_core::stage::Artifact;
use ablate_experiment::{Instance, PortableInstance};
use ablate_store::ExperimentId;

/// What a job runs.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct TaskFile {
    pub(super) work: TaskWork,
    pub(super) experiment: ExperimentId,
    /// Folder of the store.
    pub(super) store: PathBuf,
    /// The log of the stage.
    pub(super) log: PathBuf,
    /// Runs even if a record exists.
    pub(super) forced: bool,
    /// The bad replies that it requests again.
    pub(super) retry: BTreeSet<String>,
    /// Time limit of the attempt, if the instance has none of its own.
    pub(super) time: Option<Duration>,
    /// GPUs of the job on each node.
    pub(super) gpu: usize,
    /// The memory of the job in MiB, for messages.
    pub(super) memory: Option<u64>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum TaskWork {
    /// The inputs are in the store.
    Ready {
        instance: Box<PortableInstance>,
        /// Content hashes of its inputs.
        inputs: Vec<Hash>,
        fingerprint: Hash,
        /// The inputs that other instances produced, by role.
        artifacts: BTreeMap<String, Artifact>,
    },
    /// The job looks for the inputs in the store when it starts.
    Planned {
        /// The file with all instances of the experiment.
        instances: PathBuf,
        instance: String,
    },
}

/// A line of the events of a job.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum JobEvent {
    /// The stage starts, on a machine.
    Started {
        host: String,
    },
    Stage(StageEvent),
}

/// How an attempt of a job ended.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum JobResult {
    /// The record is in the store.
    Done,
    Failed(ErrorChain),
    /// The queue asked it to end; its work is kept. `time_limit`: because its time is nearly up.
    Interrupted {
        time_limit: bool,
    },
}

/// The most jobs of one submission: Slurm's default `MaxArraySize` is 1001.
pub(super) const MAX_ARRAY: usize = 1000;

pub(super) fn task_path(folder: &Path, index: usize) -> PathBuf {
    folder.join(format!("{index}.json"))
}

pub(super) fn events_path(folder: &Path, index: usize) -> PathBuf {
    folder.join(format!("{index}.events"))
}

pub(super) fn end_path(folder: &Path, index: usize) -> PathBuf {
    folder.join(format!("{index}.end"))
}

/// A new name of a submission. Nothing else in the queue has it.
pub(super) fn submission_name(run: &str) -> String {
    static COUNTER: AtomicU64 = AtomicU64::new(0);
    let count = COUNTER.fetch_add(1, Ordering::Relaxed);
    let now = jiff::Timestamp::now().as_nanosecond();
    let hash = Hash::of_bytes(format!("{run} {now} {} {count}", std::process::id()).as_bytes());
    format!("ablate-{}", &hash.to_string()[..12])
}

/// The command of a submission's jobs, without their number.
pub(super) fn command(cluster: &Cluster, subcommand: &str, folder: &Path) -> [String; 3] {
    [cluster.program.display().to_string(), subcommand.to_string(), folder.display().to_string()]
}

/// What people see of a submission in the queue.
pub(super) fn comment<'i>(title: &str, instances: impl Iterator<Item = &'i Instance>) -> String {
    let names: Vec<&str> = instances.map(|instance| instance.name.as_str()).collect();
    match names.as_slice() {
        [one] => format!("{title}: {one}"),
        [first, ..] => format!("{title}: {first} and {} more", names.len() - 1),
        [] => title.to_string(),
    }
}

/// Writes the task of a job, and creates the file of its output, which the queue would make readable for others.
pub(super) fn write_task(folder: &Path, index: usize, file: &TaskFile) -> Result<()> {
    files::append_private(&output_path(folder, index))?;
    let text = serde_json::to_vec(file).context("the stage has a path that is not UTF-8")?;
    files::write_private_unsynced(&task_path(folder, index), &text)
}

/// The key of a job whose fingerprint is not known yet.
pub(super) fn detached_key(experiment: &ExperimentId, instance: &str) -> Hash {
    let ExperimentId { name, file } = experiment;
    Hash::of_bytes(format!("detached\0{name}\0{file}\0{instance}").as_bytes())
}
