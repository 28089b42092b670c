//! `cluster-job`: runs one job of a cluster on its node.

use std::path::Path;

use anyhow::Result;

use super::shell::Shell;
use super::{session, signals};
use crate::stages::KINDS;
use ablate_engine::ProcessLauncher;
use ablate_engine::cluster::{Queue, Slurm, run_cluster_job};
use ablate_experiment::SlurmTable;

pub(super) fn cluster_job(shell: Shell, folder: &Path, index: usize) -> Result<u8> {
    ablate_engine::environment::hide_memory();
    let launcher = ProcessLauncher::current()?;
    let signals = signals::listen_in_job()?;
    let environment = Slurm::new(&SlurmTable::default()).job_environment();
    let (code, failure) = run_cluster_job(folder, index, &environment, KINDS, &launcher, &session::build, &signals);
    if let Some(causes) = failure {
        shell.error(&causes.chain.join("\n  because "));
    }
    Ok(code)
}
