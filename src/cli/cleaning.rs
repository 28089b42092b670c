//! `gc`: takes away what nothing needs, and says what that costs. Runs nothing.

use std::time::Duration;

use anyhow::{Context, Result};
use clap::Args;

use super::DONE;
use super::args::Global;
use super::inspect::{bytes, existing};
use super::shell::Shell;
use crate::store::{Freed, Interrupted, Rules};

const DAY: f64 = 24.0 * 3600.0;

#[derive(Debug, Args)]
pub(super) struct GcArgs {
    /// Only say what would go.
    #[arg(long)]
    dry_run: bool,
    /// Results of so many of the latest runs stay, whatever was changed since.
    #[arg(long, value_name = "N", default_value_t = 10)]
    keep_runs: usize,
    /// Work that was interrupted (replies of a teacher, states of a training) stays until nothing was written to it
    /// for so many days. 0 removes it now.
    #[arg(long, value_name = "DAYS", default_value_t = 14.0)]
    keep_interrupted: f64,
}

pub(super) fn gc(shell: Shell, global: &Global, arguments: &GcArgs) -> Result<u8> {
    let store = existing(global)?;
    let interrupted = days("--keep-interrupted", arguments.keep_interrupted)?;
    let rules = Rules { runs: arguments.keep_runs, interrupted };
    let freed = store.clean(&store.kept(&rules)?, arguments.dry_run)?;
    if shell.json {
        shell.json(&freed)?;
    } else {
        shell.result(&told(&freed, arguments));
    }
    Ok(DONE)
}

fn told(freed: &Freed, arguments: &GcArgs) -> String {
    let verb = if arguments.dry_run { "would remove" } else { "removed" };
    let (records, objects, left) = (freed.records, freed.objects, freed.leftovers);
    let mut text = format!("{verb} {records} records, {objects} objects, {left} leftovers: {}\n", bytes(freed.bytes));
    if !freed.interrupted.is_empty() {
        text.push_str(&format!("{verb} interrupted work, which starts anew:\n"));
        text.extend(freed.interrupted.iter().map(line));
    }
    if !freed.resumable.is_empty() {
        let limit = arguments.keep_interrupted;
        text.push_str(&format!(
            "kept interrupted work, until nothing was written to it for {limit} days (--keep-interrupted):\n"
        ));
        text.extend(freed.resumable.iter().map(line));
    }
    text
}

/// What one interrupted stage has cost.
fn line(one: &Interrupted) -> String {
    let name = one.fingerprint.short();
    let mut text = match &one.spent {
        Some(spent) if spent.total > 0 => {
            format!("  {} ({}): {} of {} {}, ", spent.instance, spent.kind, spent.done, spent.total, spent.unit)
        }
        Some(spent) => format!("  {} ({}): ", spent.instance, spent.kind),
        None => format!("  {name}: "),
    };
    text.push_str(&bytes(one.bytes));
    if let Some(spent) = &one.spent {
        text.push_str(&format!(", {:.1} s of work", spent.seconds));
    }
    text.push_str(&format!(", last written {:.1} days ago\n", one.age as f64 / DAY));
    text
}

/// A number of days as a time.
fn days(flag: &str, count: f64) -> Result<Duration> {
    let time = Duration::try_from_secs_f64(count * DAY);
    time.with_context(|| format!("`{flag} {count}`: give a number of days, at least 0"))
}
