//! `status`: prints the progress or the result of a run.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::Result;
use clap::Args;
use serde::Serialize;

use super::args::Global;
use super::format::{duration, request_details};
use super::job_lists::count_states;
use super::session::open_existing_store;
use super::shell::Shell;
use ablate_engine::cluster::{Cluster, jobs_of_run};
use ablate_engine::history::{self, RunningInstance, Status, WaitingInstance};
use ablate_engine::{RunPhase, waits_for_job};
use ablate_store::{JobNote, Store};

#[derive(Debug, Args)]
pub(super) struct StatusArgs {
    /// A run: its number in `ablate runs`, `latest`, `latest~1`, or the beginning of its name. Default: the runs that are
    /// going on, or else the latest.
    #[arg(value_name = "RUN")]
    pub(super) run: Option<String>,
    /// Update the output until the runs end.
    #[arg(short, long)]
    pub(super) follow: bool,
}

/// Interval of `--follow`.
const FOLLOW_INTERVAL: Duration = Duration::from_secs(1);

/// Number of instances listed per state; the rest is counted.
const MAX_LISTED: usize = 12;

pub(super) fn status(shell: Shell, global: &Global, arguments: &StatusArgs) -> Result<()> {
    let store = open_existing_store(global)?;
    let mut runs = match &arguments.run {
        Some(run) => vec![history::find(&store, run)?],
        None => history::running(&store)?,
    };
    if runs.is_empty() {
        runs.push(history::find(&store, "latest")?);
    }
    loop {
        let states: Vec<Status> = runs.iter().map(|run| history::status(&store, run)).collect::<Result<_>>()?;
        for status in &states {
            let jobs = queue_states(&store, global, status)?;
            // One document, or one line per run and update.
            match (shell.json, arguments.follow || states.len() > 1) {
                (true, true) => shell.json_line(&WithJobs { status, jobs }),
                (true, false) => shell.json(&WithJobs { status, jobs })?,
                (false, _) => shell.result(&(render(status) + &render_jobs(&jobs))),
            }
        }
        // A run that has ended is shown once more with its end.
        let going_on = states.into_iter().zip(runs).filter(|(status, _)| status.state == RunPhase::Running);
        runs = going_on.map(|(_, run)| run).collect();
        if !arguments.follow || runs.is_empty() || shell.is_closed() {
            return Ok(());
        }
        std::thread::sleep(FOLLOW_INTERVAL);
    }
}

/// The state of a run, and the number of its jobs in the queue of a cluster by their state.
#[derive(Serialize)]
struct WithJobs<'a> {
    #[serde(flatten)]
    status: &'a Status,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    jobs: BTreeMap<String, usize>,
}

/// Asks the queue for the jobs that no run follows. A run that goes on writes their states itself.
fn queue_states(store: &Store, global: &Global, status: &Status) -> Result<BTreeMap<String, usize>> {
    let run = &status.run.run;
    let has_jobs = || store.all_jobs().is_ok_and(|jobs| jobs.iter().any(|(_, note)| note.run == *run && !note.ended));
    if status.state == RunPhase::Running || !has_jobs() {
        return Ok(BTreeMap::new());
    }
    let cluster = Cluster::slurm(&global.configuration()?.executor.slurm)?;
    Ok(match jobs_of_run(store, &*cluster.queue, run) {
        Ok(jobs) => count_states(&jobs, &|job| has_result(store, status, job)),
        Err(error) => BTreeMap::from([(format!("unknown, because the queue does not answer: {error:#}"), 1)]),
    })
}

/// Whether a job of a run has put its result into the store.
fn has_result(store: &Store, status: &Status, job: &JobNote) -> bool {
    let note = store.latest(&status.run.experiment, &job.instance);
    !note.failed && note.log.is_some_and(|log| log.contains(&status.run.run))
}

fn render_jobs(jobs: &BTreeMap<String, usize>) -> String {
    if jobs.is_empty() {
        return String::new();
    }
    let counts: Vec<String> = jobs.iter().map(|(state, count)| format!("{count} {state}")).collect();
    format!("  jobs: {}\n", counts.join(", "))
}

fn render(status: &Status) -> String {
    let state = match status.state {
        RunPhase::Running => "is running",
        RunPhase::Finished => "has finished",
        RunPhase::Failed => "has failed; the same command continues it",
        RunPhase::Interrupted => "was interrupted; the same command resumes it",
        RunPhase::Detached if status.detached.iter().any(|one| waits_for_job(&one.why)) => {
            "is submitted; `ablate run` without `--detach` follows its jobs"
        }
        RunPhase::Detached => "waits for an endpoint; the same command continues it",
        RunPhase::Killed => "was killed; the same command resumes it",
    };
    let time = duration(status.elapsed);
    let run = &status.run;
    let mut text = format!("run {}, {} ({}) {state}, {time}\n", run.number, run.run, run.experiment.name);
    if !run.overrides.is_empty() {
        text.push_str(&format!("  changed keys: {}\n", run.overrides.join("; ")));
    }
    let finished: usize = status.outcomes.values().sum();
    let counts: Vec<String> = status.outcomes.iter().map(|(outcome, count)| format!("{count} {outcome}")).collect();
    let selected = status.run.selected;
    let of = if selected > 0 { format!("{finished} of {selected} instances") } else { finished.to_string() };
    text.push_str(&format!("  {of}: {}\n", if counts.is_empty() { "none yet".to_string() } else { counts.join(", ") }));
    text.push_str(&list("running", &status.running, render_running));
    text.push_str(&list("waiting", &status.waiting, |waiting| format!("{}: {}", waiting.instance, waiting.why)));
    let detached = |waiting: &WaitingInstance| {
        let what = if waits_for_job(&waiting.why) { "" } else { "waits for its endpoint, " };
        format!("{}: {what}{}", waiting.instance, waiting.why)
    };
    text.push_str(&list("detached", &status.detached, detached));
    text.push_str(&list("failed", &status.failed, Clone::clone));
    text
}

/// One line per instance, or a count of the instances beyond the limit.
fn list<T>(what: &str, instances: &[T], render: impl Fn(&T) -> String) -> String {
    let mut text = String::new();
    for instance in instances.iter().take(MAX_LISTED) {
        text.push_str(&format!("  {what} {}\n", render(instance)));
    }
    if instances.len() > MAX_LISTED {
        text.push_str(&format!("  and {} more {what}\n", instances.len() - MAX_LISTED));
    }
    text
}

fn render_running(running: &RunningInstance) -> String {
    let mut text = format!("{}, {}", running.instance, duration(running.seconds));
    if let Some((done, total, unit)) = &running.progress {
        text.push_str(&format!(", {done}/{total} {unit}"));
        for detail in running.requests.iter().flat_map(|requests| request_details(requests, running.seconds)) {
            text.push_str(&format!(", {detail}"));
        }
        text.push_str(&running.left.map(|left| format!(", about {} left", duration(left))).unwrap_or_default());
    }
    if let Some(loss) = running.loss {
        text.push_str(&format!(", loss {loss:.4}"));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use ablate_core::base::{Money, RequestProgress};

    #[test]
    fn a_running_stage_shows_its_requests() {
        let cost = Some(Money { amount: 0.5, currency: "EUR".to_string() });
        let requests = RequestProgress { received: 20, tokens: 900, cost, ..RequestProgress::default() };
        let running = RunningInstance {
            instance: "teach".to_string(),
            seconds: 10.0,
            progress: Some((20, 40, "requests".to_string())),
            left: Some(10.0),
            loss: None,
            requests: Some(requests),
        };
        assert_eq!(
            render_running(&running),
            "teach, 10.0 s, 20/40 requests, 0.50 EUR, 2.0 requests/s, 900 tokens, about 10.0 s left"
        );
        let running = RunningInstance { requests: None, ..running };
        assert_eq!(render_running(&running), "teach, 10.0 s, 20/40 requests, about 10.0 s left");
    }
}
