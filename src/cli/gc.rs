//! `gc`: removes results that nothing needs any more, or stored replies of endpoints.

use std::time::Duration;

use anyhow::Result;
use clap::Args;
use serde::Serialize;

use super::args::Global;
use super::format::{counted, human_bytes};
use super::gc_remote;
use super::replies;
use super::session::open_existing_store;
use super::shell::Shell;
use super::value_parsers::{SECONDS_PER_DAY, bytes, days};
use ablate_store::{GcReport, GcRules, InterruptedStage, Replies};

#[derive(Debug, Args)]
pub(super) struct GcArgs {
    /// Only show what would be removed.
    #[arg(long)]
    dry_run: bool,
    /// Keep results of this many latest runs.
    #[arg(long, value_name = "N", default_value_t = 10)]
    keep_runs: usize,
    /// Keep interrupted stages (responses of a teacher, training states) for this many days after their last write. 0
    /// removes them now.
    #[arg(long, value_name = "DAYS", default_value = "14", value_parser = days, allow_negative_numbers = true)]
    keep_interrupted: Duration,
    /// Remove results that were neither made nor used within this many days, except pinned ones. With `--replies`: delete
    /// only replies that are older.
    #[arg(long, value_name = "DAYS", value_parser = days, allow_negative_numbers = true)]
    max_age: Option<Duration>,
    /// Remove the oldest results until the rest fits into this size (`500MB`, `20GiB`), except pinned ones.
    #[arg(long, value_name = "SIZE", value_parser = bytes, allow_negative_numbers = true)]
    max_size: Option<u64>,
    /// Delete the stored replies of endpoints, and nothing else. A stage that needs one requests it again.
    #[arg(long, conflicts_with_all = ["keep_runs", "keep_interrupted", "max_size"])]
    replies: bool,
    /// Clean a remote instead of the store. Without URL: that of `ABLATE_REMOTE` or `.ablate.toml`. With `--max-age`: forget
    /// experiments that were not pushed for this many days.
    #[arg(long, value_name = "URL", num_args = 0..=1, default_missing_value = "")]
    #[arg(conflicts_with_all = ["keep_runs", "keep_interrupted", "max_size", "replies"])]
    remote: Option<String>,
    /// With `--remote`: keep everything that was written within this many days [default: 14].
    #[arg(long, value_name = "DAYS", value_parser = days, allow_negative_numbers = true, requires = "remote")]
    grace: Option<Duration>,
}

/// What `gc` prints with `--json`.
#[derive(Serialize)]
struct GcJson<'a> {
    #[serde(flatten)]
    report: &'a GcReport,
    /// Number of stored replies of endpoints, which are kept; `None` if they cannot be read.
    replies: Option<u64>,
}

pub(super) fn gc(shell: Shell, global: &Global, arguments: &GcArgs) -> Result<()> {
    let GcArgs { dry_run, keep_runs: runs, keep_interrupted: interrupted, max_age: age, max_size: size, .. } =
        *arguments;
    if let Some(remote) = &arguments.remote {
        return gc_remote::gc(shell, global, remote, arguments.grace, age, dry_run);
    }
    if arguments.replies {
        return replies::delete(shell, global, age, dry_run);
    }
    let store = open_existing_store(global)?;
    let rules = GcRules { runs, interrupted, age, size };
    let report = store.gc(&store.gc_roots(&rules)?, dry_run)?;
    let replies = match Replies::open(&store.replies_path()).totals() {
        Ok(totals) => Some(replies::sum(&totals)),
        Err(error) => {
            shell.warning(&format!("the stored replies cannot be counted: {error:#}"));
            None
        }
    };
    if shell.json {
        return shell.json(&GcJson { report: &report, replies: replies.map(|replies| replies.replies) });
    }
    let mut text = render_report(&report, arguments);
    if let Some(replies) = replies.filter(|replies| replies.replies > 0) {
        let (count, size) = (counted(replies.replies, "reply", "replies"), human_bytes(replies.bytes));
        text.push_str(&format!("kept {count} of endpoints, {size} (`ablate gc --replies` deletes them)\n"));
    }
    shell.result(&text);
    Ok(())
}

fn render_report(report: &GcReport, arguments: &GcArgs) -> String {
    let verb = if arguments.dry_run { "would remove" } else { "removed" };
    let (records, objects, leftovers) = (report.records, report.objects, report.leftovers);
    let size = human_bytes(report.bytes);
    let mut text = format!("{verb} {records} records, {objects} objects, {leftovers} leftovers: {size}\n");
    if report.forgotten > 0 {
        let verb = if arguments.dry_run { "would forget" } else { "forgot" };
        text.push_str(&format!("{verb} {} instances that are not in their experiment any more\n", report.forgotten));
    }
    if !report.interrupted.is_empty() {
        text.push_str(&format!("{verb} interrupted stages, which will start from the beginning:\n"));
        text.extend(report.interrupted.iter().map(interrupted_line));
    }
    if !report.resumable.is_empty() {
        let limit = arguments.keep_interrupted.as_secs_f64() / SECONDS_PER_DAY;
        text.push_str(&format!(
            "kept interrupted stages, for {limit} days after their last write (--keep-interrupted):\n"
        ));
        text.extend(report.resumable.iter().map(interrupted_line));
    }
    text
}

/// One line about an interrupted stage and the work it has done.
fn interrupted_line(one: &InterruptedStage) -> String {
    let name = one.fingerprint.short();
    let mut text = match &one.work_done {
        Some(work) if work.total > 0 => {
            format!("  {} ({}): {} of {} {}, ", work.instance, work.kind, work.done, work.total, work.unit)
        }
        Some(work) => format!("  {} ({}): ", work.instance, work.kind),
        None => format!("  {name}: "),
    };
    text.push_str(&human_bytes(one.bytes));
    if let Some(work) = one.work_done.as_ref().filter(|work| work.seconds > 0.0) {
        text.push_str(&format!(", {:.1} s of work", work.seconds));
    }
    text.push_str(&format!(", last written {:.1} days ago\n", one.age as f64 / SECONDS_PER_DAY));
    text
}
