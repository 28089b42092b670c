//! `status` and `diff`: runs that are under way or over. Runs nothing.

use std::time::Duration;

use anyhow::Result;
use serde_json::json;

use super::DONE;
use super::args::{DiffArgs, Global, StatusArgs};
use super::inspect::existing;
use super::shell::Shell;
use ablate_engine::history::{self, InstanceDiff, RunPhase, RunningInstance, Status};

/// How often a run is looked at with `--follow`.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// Instances of each sort that are named; more are counted.
const NAMED: usize = 12;

pub(super) fn status(shell: Shell, global: &Global, arguments: &StatusArgs) -> Result<u8> {
    let store = existing(global)?;
    let run = history::find(&store, &arguments.run)?;
    loop {
        let status = history::status(&store, &run)?;
        if shell.json {
            // One document, or one line per look.
            if arguments.follow { shell.json_line(&status) } else { shell.json(&status)? }
        } else {
            shell.result(&told(&status));
        }
        if !arguments.follow || status.state != RunPhase::Running || shell.is_closed() {
            return Ok(DONE);
        }
        std::thread::sleep(LOOK_AGAIN);
    }
}

fn told(status: &Status) -> String {
    let state = match status.state {
        RunPhase::Running => "is running",
        RunPhase::Ended => "has ended",
        RunPhase::Killed => "was killed: the same command goes on from there",
    };
    let time = clock(status.elapsed);
    let mut text = format!("{} ({}) {state}, {time}\n", status.run.run, status.run.experiment);
    let over: usize = status.outcomes.values().sum();
    let counts: Vec<String> = status.outcomes.iter().map(|(outcome, count)| format!("{count} {outcome}")).collect();
    let of =
        if status.run.selected > 0 { format!("{over} of {} instances", status.run.selected) } else { over.to_string() };
    text.push_str(&format!("  {of}: {}\n", if counts.is_empty() { "none yet".to_string() } else { counts.join(", ") }));
    for working in status.running.iter().take(NAMED) {
        text.push_str(&format!("  running {}\n", at_work(working)));
    }
    text.push_str(&rest(status.running.len(), "running"));
    for waiting in status.waiting.iter().take(NAMED) {
        text.push_str(&format!("  waiting {}: {}\n", waiting.instance, waiting.why));
    }
    text.push_str(&rest(status.waiting.len(), "waiting"));
    for failed in status.failed.iter().take(NAMED) {
        text.push_str(&format!("  failed {failed}\n"));
    }
    text.push_str(&rest(status.failed.len(), "failed"));
    text
}

fn at_work(working: &RunningInstance) -> String {
    let mut text = format!("{}, {}", working.instance, clock(working.seconds));
    if let Some((done, total, unit)) = &working.progress {
        text.push_str(&format!(", {done}/{total} {unit}"));
        if *done > 0 && total > done {
            let left = working.seconds / *done as f64 * (total - done) as f64;
            text.push_str(&format!(", about {} left", clock(left)));
        }
    }
    if let Some(loss) = working.loss {
        text.push_str(&format!(", loss {loss:.4}"));
    }
    text
}

fn rest(count: usize, what: &str) -> String {
    if count > NAMED { format!("  and {} more {what}\n", count - NAMED) } else { String::new() }
}

fn clock(seconds: f64) -> String {
    let whole = seconds.round() as u64;
    match (whole / 3600, whole / 60 % 60, whole % 60) {
        (0, 0, _) => format!("{seconds:.1} s"),
        (0, minutes, seconds) => format!("{minutes} min {seconds} s"),
        (hours, minutes, _) => format!("{hours} h {minutes} min"),
    }
}

pub(super) fn diff(shell: Shell, global: &Global, arguments: &DiffArgs) -> Result<u8> {
    let store = existing(global)?;
    let read = |name: &str| history::read(&store, &history::find(&store, name)?);
    let (first, second) = (read(&arguments.first)?, read(&arguments.second)?);
    let differences = history::diff_runs(&store, &first, &second);
    if shell.json {
        shell.json(&json!({ "first": first, "second": second, "differences": differences }))?;
        return Ok(DONE);
    }
    let mut text = format!("{} -> {}\n", first.run, second.run);
    for difference in &differences {
        text.push_str(&line(difference));
    }
    if differences.is_empty() {
        text.push_str("  no difference: the same instances with the same results\n");
    }
    shell.result(&text);
    Ok(DONE)
}

fn line(difference: &InstanceDiff) -> String {
    let InstanceDiff { instance, outcomes, reasons, outputs } = difference;
    let mut text = match outcomes {
        (None, Some(after)) => format!("  {instance}: only in the second ({after})\n"),
        (Some(before), None) => format!("  {instance}: only in the first ({before})\n"),
        (Some(before), Some(after)) if before == after => format!("  {instance}\n"),
        (before, after) => {
            let word = |outcome: &Option<String>| outcome.clone().unwrap_or_default();
            format!("  {instance}: {} -> {}\n", word(before), word(after))
        }
    };
    for reason in reasons {
        text.push_str(&format!("    {reason}\n"));
    }
    if !outputs.is_empty() {
        text.push_str(&format!("    other content: {}\n", outputs.join(", ")));
    } else if !reasons.is_empty() {
        text.push_str("    the outputs are the same all the same\n");
    }
    text
}
