//! Checks that a node sees the store's folder, and that its locks exclude those of this machine.

use std::path::Path;

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

use super::Cluster;
use super::submission::command;
use ablate_core::base::{Hash, files};
use ablate_experiment::JobResources;
use ablate_store::{Build, Lock, Store};

/// The hidden subcommand that answers on the node.
pub const PROBE_SUBCOMMAND: &str = "cluster-probe";

const TEXT: &str = "text";
const LOCK: &str = "lock";

/// What a node says about itself and the store.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeReport {
    pub host: String,
    pub build: Build,
    /// The text in the folder; `None` if the node does not see it.
    text: Option<String>,
    /// Whether a lock that this machine holds is free there.
    lock_is_free: bool,
}

/// Runs a job that looks at the store. Waits for it in the queue.
///
/// Errors: the queue gives no node, the node does not see the store, has another build, or its locks do not exclude others.
pub fn probe(cluster: &Cluster, store: &Store, resources: &JobResources, build: &Build) -> Result<NodeReport> {
    let folder = store.jobs_path().join(format!("probe-{}", std::process::id()));
    files::create_private_dir(&folder)?;
    let outcome = probe_in(cluster, &folder, resources, build);
    files::remove_dir(&folder).ok();
    outcome
}

fn probe_in(cluster: &Cluster, folder: &Path, resources: &JobResources, build: &Build) -> Result<NodeReport> {
    let text = Hash::of_bytes(folder.as_os_str().as_encoded_bytes()).to_string();
    files::write_atomic(&folder.join(TEXT), text.as_bytes())?;
    let _lock = Lock::take(&folder.join(LOCK))?;
    let command = command(cluster, PROBE_SUBCOMMAND, folder);
    let answer = cluster.queue.run_on_node(resources, &command)?;
    let line = answer.lines().last().unwrap_or_default();
    let report: NodeReport = serde_json::from_str(line).with_context(|| format!("the node printed `{line}`"))?;
    let host = &report.host;
    if report.text.as_deref() != Some(text.as_str()) {
        bail!(
            "the node {host} does not see `{}`: the store must be on a file system that all nodes share",
            folder.display()
        );
    }
    if report.lock_is_free {
        bail!(
            "locks of this machine are free on the node {host}: the file system of the store does not pass locks to other \
             machines, so two jobs could run the same stage"
        );
    }
    if report.build != *build {
        bail!("the node {host} has another build of ablate: {} and not {build}", report.build);
    }
    Ok(report)
}

/// The answer of a node.
pub fn answer_probe(folder: &Path, build: Build) -> NodeReport {
    let text = files::read_text(&folder.join(TEXT)).ok();
    let lock_is_free = text.is_some() && Lock::try_take(&folder.join(LOCK)).is_ok_and(|lock| lock.is_some());
    NodeReport { host: ablate_store::host(), build, text, lock_is_free }
}
