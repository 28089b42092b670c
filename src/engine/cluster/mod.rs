//! The executor of a cluster: stages run as jobs of its queue, and the driver follows them.
//!
//! ```text
//! scheduler -Task-> driver -Submission-> Queue ... node: job -> task -> commit
//!               <-TaskMessage-  <-entries, files, records-
//! ```
//!
//! A job does everything from the lock to the commit ([`job`]), so the driver can end, or be killed, at any time. Its
//! memory is the store: the last job of each fingerprint ([`ablate_store::JobNote`]) is noted before it is submitted.

mod command;
mod detach;
mod driver;
pub mod job;
mod judge;
mod live_job;
mod probe;
pub mod queue;
pub mod slurm;
mod submission;

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use anyhow::{Context, Result};

pub(super) use detach::{DetachContext, detach};
pub(super) use driver::ClusterExecutor;
pub use job::{JobSignals, run_cluster_job};
pub use probe::{NodeReport, PROBE_SUBCOMMAND, answer_probe, probe};
pub use queue::{JobEnd, JobState, Partition, Queue, QueueEntry, Submitted};
pub use slurm::Slurm;

use ablate_core::stage::Pool;
use ablate_experiment::{Instance, JobResources, SlurmTable};
use ablate_store::{JobNote, Store};

/// The hidden subcommand that runs one job.
pub const SUBCOMMAND: &str = "cluster-job";

/// The jobs of a run whose end no run has seen, with their states; `None` for one that the queue does not know.
pub fn jobs_of_run(store: &Store, queue: &dyn Queue, run: &str) -> Result<Vec<(JobNote, Option<JobState>)>> {
    let notes = store.all_jobs()?.into_iter().map(|(_, note)| note);
    let notes: Vec<JobNote> = notes.filter(|note| note.run == run && !note.ended).collect();
    if notes.is_empty() {
        return Ok(Vec::new());
    }
    let names: BTreeSet<String> = notes.iter().map(|note| note.name.clone()).collect();
    let mut entries = queue.entries(&names.into_iter().collect::<Vec<_>>())?;
    let mut state = |note: &JobNote| {
        let at = entries.iter().position(|entry| entry.name == note.name && entry.index == note.index)?;
        Some(entries.swap_remove(at).state)
    };
    Ok(notes.into_iter().map(|note| (state(&note), note)).map(|(state, note)| (note, state)).collect())
}

/// A cluster with its configuration.
pub struct Cluster {
    pub queue: Arc<dyn Queue>,
    pub table: SlurmTable,
    /// This program, as the nodes see it.
    program: PathBuf,
    /// Set if a run that is stopped cancels its jobs. Otherwise they go on.
    pub cancel: AtomicBool,
}

impl Cluster {
    /// The Slurm cluster that the commands of this machine belong to.
    pub fn slurm(table: &SlurmTable) -> Result<Cluster> {
        Cluster::new(Arc::new(Slurm::new(table)), table)
    }

    /// A cluster with this queue.
    pub fn new(queue: Arc<dyn Queue>, table: &SlurmTable) -> Result<Cluster> {
        let program = std::env::current_exe().context("cannot find the path of the running program")?;
        Ok(Cluster { queue, table: table.clone(), program, cancel: AtomicBool::new(false) })
    }

    /// Whether the driver runs an instance itself: nodes often have no network and get no API keys, so stages that ask an
    /// endpoint always do.
    pub fn is_local(&self, instance: &Instance) -> bool {
        let is_named = |name: &String| *name == instance.stage || name == instance.kind.name;
        instance.pool == Pool::Teacher || self.table.local.iter().any(is_named)
    }

    /// The resources of an instance's job.
    pub fn resources(&self, instance: &Instance) -> JobResources {
        self.table.resources(&instance.stage, instance.kind.name, &instance.limits)
    }
}
