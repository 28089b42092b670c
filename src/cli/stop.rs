//! `stop`: stops a run that is going on, or some of its instances, from another terminal.

use anyhow::{Result, bail};
use clap::Args;
use serde_json::json;

use super::args::Global;
use super::session::open_existing_store;
use super::shell::Shell;
use ablate_engine::history;
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

fn only_running(store: &Store) -> Result<String> {
    let mut running = history::running(store)?;
    match (running.pop(), running.len()) {
        (Some(run), 0) => Ok(run),
        (Some(run), others) => {
            bail!("{} runs are going on: name one, such as `{run}`", others + 1)
        }
        (None, _) => bail!("no run is going on in the store `{}`", store.root().display()),
    }
}
