//! `stop`: stops a run that is going on, or some of its instances, from another terminal.

use anyhow::{Result, bail};
use clap::Args;
use serde_json::json;

use super::args::Global;
use super::session::open_existing_store;
use super::shell::Shell;
use ablate_engine::cluster::{Cluster, JobState, jobs_of_run};
use ablate_engine::history;
use ablate_engine::select::matches_name;
use ablate_engine::stop::request_stop;
use ablate_store::Store;

#[derive(Debug, Args)]
pub(super) struct StopArgs {
    /// A run that is going on: its number in `ablate runs`, `latest`, or the beginning of its name. Default: the only one.
    #[arg(value_name = "RUN")]
    run: Option<String>,
    /// Stages or instances of the run: `dpo`, `eval@model=dpo`, `sft*`. Default: the whole run.
    #[arg(value_name = "TARGET")]
    targets: Vec<String>,
}

pub(super) fn stop(shell: Shell, global: &Global, arguments: &StopArgs) -> Result<()> {
    let store = open_existing_store(global)?;
    let run = match &arguments.run {
        Some(run) => history::find(&store, run)?,
        None => only_running(&store)?,
    };
    if !history::running(&store)?.contains(&run) && has_jobs(&store, &run)? {
        return cancel_jobs(shell, global, &store, &run, &arguments.targets);
    }
    let instances = request_stop(&store, &run, &arguments.targets)?;
    let number = history::read(&store, &run)?.number;
    if shell.json {
        return shell.json(&json!({ "run": run, "number": number, "instances": instances }));
    }
    if arguments.targets.is_empty() {
        shell.result(&format!("run {number} stops; the same command resumes it"));
    } else {
        let names: Vec<String> = instances.iter().map(|name| format!("`{name}`")).collect();
        shell.result(&format!("run {number} stops {}; the same command resumes them", names.join(", ")));
    }
    Ok(())
}

fn has_jobs(store: &Store, run: &str) -> Result<bool> {
    Ok(store.all_jobs()?.iter().any(|(_, note)| note.run == run && !note.ended))
}

/// Cancels the jobs of a run that no process follows.
fn cancel_jobs(shell: Shell, global: &Global, store: &Store, run: &str, targets: &[String]) -> Result<()> {
    let cluster = Cluster::slurm(&global.configuration()?.executor.slurm)?;
    let number = history::read(store, run)?.number;
    let mut jobs = jobs_of_run(store, &*cluster.queue, run)?;
    jobs.retain(|(note, state)| {
        let is_target = targets.is_empty() || targets.iter().any(|pattern| matches_name(pattern, &note.instance));
        is_target && matches!(state, Some(JobState::Pending { .. } | JobState::Running { .. }))
    });
    if jobs.is_empty() {
        bail!("no job of run {number} is in the queue{}", if targets.is_empty() { "" } else { " for these targets" });
    }
    let ids: Vec<String> = jobs.iter().filter_map(|(note, _)| note.id.clone()).collect();
    cluster.queue.cancel(&ids)?;
    let names: Vec<&str> = jobs.iter().map(|(note, _)| note.instance.as_str()).collect();
    if shell.json {
        return shell.json(&json!({ "run": run, "number": number, "instances": names, "jobs": ids }));
    }
    let count = if ids.len() == 1 { "1 job".to_string() } else { format!("{} jobs", ids.len()) };
    shell.result(&format!("{count} of run {number} cancelled; the same `ablate run` submits them again"));
    Ok(())
}

fn only_running(store: &Store) -> Result<String> {
    let mut running = history::running(store)?;
    match (running.pop(), running.len()) {
        (Some(run), 0) => Ok(run),
        (Some(run), others) => {
            bail!("{} runs are going on: name one, such as `{run}`", others + 1)
        }
        (None, _) => {
            let notes = store.all_jobs()?.into_iter().map(|(_, note)| note).filter(|note| !note.ended);
            let help = notes.max_by_key(|note| note.submitted).map(|note| {
                format!("\nhelp: jobs of the run `{0}` may be in the queue: `ablate stop {0}` cancels them", note.run)
            });
            bail!("no run is going on in the store `{}`{}", store.root().display(), help.unwrap_or_default())
        }
    }
}
