//! `status`: prints the progress or the result of a run.

use std::time::Duration;

use anyhow::Result;
use clap::Args;

use super::args::Global;
use super::format::{duration, request_details};
use super::session::open_existing_store;
use super::shell::Shell;
use ablate_engine::history::{self, RunPhase, RunningInstance, Status, WaitingInstance};

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

pub(super) fn status(shell: Shell, global: &Global, arguments: &StatusArgs) -> Result<()> {
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
            return Ok(());
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
    let selected = status.run.selected;
    let of = if selected > 0 { format!("{finished} of {selected} instances") } else { finished.to_string() };
    text.push_str(&format!("  {of}: {}\n", if counts.is_empty() { "none yet".to_string() } else { counts.join(", ") }));
    text.push_str(&list("running", &status.running, render_running));
    text.push_str(&list("waiting", &status.waiting, |waiting| format!("{}: {}", waiting.instance, waiting.why)));
    let detached = |waiting: &WaitingInstance| format!("{}: waits for its endpoint, {}", waiting.instance, waiting.why);
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
