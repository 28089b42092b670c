//! `logs`: prints the latest log of an instance, also while it runs.

use std::path::PathBuf;

use anyhow::{Result, bail};
use serde_json::json;

use super::args::{Global, InstanceArgs};
use super::session::{Need, Session};
use super::shell::Shell;
use ablate_engine::cluster::queue::output_path;
use ablate_engine::history;
use ablate_store::JobNote;

pub(super) fn logs(shell: Shell, global: &Global, arguments: &InstanceArgs) -> Result<()> {
    let session = Session::read(global, &arguments.experiment, Need::Instances)?;
    let id = session.one(&arguments.instance)?;
    let name = &session.expansion.get(id).name;
    let last = ablate_engine::query::last_log(&session.id, &session.expansion, &session.store, id);
    let job = live_job(&session, name)?;
    let Some(log) = current_log(&session, name, job.as_ref())?.or(last) else {
        match job {
            Some(job) => bail!("`{name}` has no log yet: its job is {}", job.id.unwrap_or(job.name)),
            None => bail!("`{name}` has no log: it has not run in this store"),
        }
    };
    let text = ablate_engine::query::read_log(&log)?;
    if shell.json {
        return shell.json(&json!({ "path": log, "text": text }));
    }
    shell.status(&log.display().to_string());
    shell.log(&text);
    Ok(())
}

/// The last job of an instance whose end no run has seen.
fn live_job(session: &Session, name: &str) -> Result<Option<JobNote>> {
    let is_own = |note: &JobNote| {
        let experiment = || history::read(&session.store, &note.run).map(|run| run.experiment);
        !note.ended && note.instance == name && experiment().is_ok_and(|experiment| experiment == session.id)
    };
    let notes = session.store.all_jobs()?.into_iter().map(|(_, note)| note);
    Ok(notes.filter(is_own).max_by_key(|note| note.submitted))
}

/// The log of the instance in a run that goes on, or what its job has printed.
fn current_log(session: &Session, name: &str, job: Option<&JobNote>) -> Result<Option<PathBuf>> {
    let mut runs = history::running(&session.store)?;
    runs.retain(|run| history::read(&session.store, run).is_ok_and(|run| run.experiment == session.id));
    runs.extend(job.map(|job| job.run.clone()));
    let logs = runs.iter().rev().map(|run| history::log(&session.store, run, name));
    let printed = job.map(|job| output_path(&session.store.jobs_path().join(&job.name), job.index));
    let has_text = |path: &PathBuf| std::fs::metadata(path).is_ok_and(|file| file.len() > 0);
    Ok(logs.chain(printed).find(has_text))
}
