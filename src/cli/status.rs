//! `status`: prints the progress or the result of a run.

use std::time::Duration;

use anyhow::Result;
use clap::Args;

use super::SUCCESS;
use super::args::Global;
use super::format::duration;
use super::session::open_existing_store;
use super::shell::Shell;
use ablate_engine::history::{self, RunPhase, RunningInstance, Status};

#[derive(Debug, Args)]
pub(super) struct StatusArgs {
    /// A run: `latest`, `latest~1`, or the beginning of its name.
    #[arg(value_name = "RUN", default_value = "latest")]
    pub(super) run: String,
    /// Update the output until the run ends.
    #[arg(short, long)]
    pub(super) follow: bool,
}

/// Interval of `--follow`.
const FOLLOW_INTERVAL: Duration = Duration::from_secs(1);

/// Number of instances listed per state; the rest is counted.
const MAX_LISTED: usize = 12;

pub(super) fn status(shell: Shell, global: &Global, arguments: &StatusArgs) -> Result<u8> {
    let store = open_existing_store(global)?;
    let run = history::find(&store, &arguments.run)?;
    loop {
        let status = history::status(&store, &run)?;
        if shell.json {
            // One document, or one line per update.
            if arguments.follow { shell.json_line(&status) } else { shell.json(&status)? }
        } else {
            shell.result(&render(&status));
        }
        if !arguments.follow || status.state != RunPhase::Running || shell.is_closed() {
            return Ok(SUCCESS);
        }
        std::thread::sleep(FOLLOW_INTERVAL);
    }
}

fn render(status: &Status) -> String {
    let state = match status.state {
        RunPhase::Running => "is running",
        RunPhase::Ended => "has ended",
        RunPhase::Killed => "was killed; the same command resumes it",
    };
    let time = duration(status.elapsed);
    let mut text = format!("{} ({}) {state}, {time}\n", status.run.run, status.run.experiment);
    let finished: usize = status.outcomes.values().sum();
    let counts: Vec<String> = status.outcomes.iter().map(|(outcome, count)| format!("{count} {outcome}")).collect();
    let of = if status.run.selected > 0 {
        format!("{finished} of {} instances", status.run.selected)
    } else {
        finished.to_string()
    };
    text.push_str(&format!("  {of}: {}\n", if counts.is_empty() { "none yet".to_string() } else { counts.join(", ") }));
    for running in status.running.iter().take(MAX_LISTED) {
        text.push_str(&format!("  running {}\n", render_running(running)));
    }
    text.push_str(&more_line(status.running.len(), "running"));
    for waiting in status.waiting.iter().take(MAX_LISTED) {
        text.push_str(&format!("  waiting {}: {}\n", waiting.instance, waiting.why));
    }
    text.push_str(&more_line(status.waiting.len(), "waiting"));
    for failed in status.failed.iter().take(MAX_LISTED) {
        text.push_str(&format!("  failed {failed}\n"));
    }
    text.push_str(&more_line(status.failed.len(), "failed"));
    text
}

fn render_running(running: &RunningInstance) -> String {
    let mut text = format!("{}, {}", running.instance, duration(running.seconds));
    if let Some((done, total, unit)) = &running.progress {
        text.push_str(&format!(", {done}/{total} {unit}"));
        if *done > 0 && total > done {
            let left = running.seconds / *done as f64 * (total - done) as f64;
            text.push_str(&format!(", about {} left", duration(left)));
        }
    }
    if let Some(loss) = running.loss {
        text.push_str(&format!(", loss {loss:.4}"));
    }
    text
}

fn more_line(count: usize, what: &str) -> String {
    if count > MAX_LISTED { format!("  and {} more {what}\n", count - MAX_LISTED) } else { String::new() }
}
