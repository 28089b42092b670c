//! `gc`: removes results that nothing needs any more.

use std::time::Duration;

use anyhow::{Context, Result};
use clap::Args;

use super::SUCCESS;
use super::args::Global;
use super::format::human_bytes;
use super::session::open_existing_store;
use super::shell::Shell;
use ablate_store::{GcReport, GcRules, InterruptedStage};

const DAY: f64 = 24.0 * 3600.0;

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
    #[arg(long, value_name = "DAYS", default_value_t = 14.0)]
    keep_interrupted: f64,
    /// Remove results that were neither made nor used within this many days, except pinned ones.
    #[arg(long, value_name = "DAYS")]
    max_age: Option<f64>,
    /// Remove the oldest results until the rest fits into this size (`500MB`, `20GiB`), except pinned ones.
    #[arg(long, value_name = "SIZE")]
    max_size: Option<String>,
}

pub(super) fn gc(shell: Shell, global: &Global, arguments: &GcArgs) -> Result<u8> {
    let store = open_existing_store(global)?;
    let interrupted = days("--keep-interrupted", arguments.keep_interrupted)?;
    let age = arguments.max_age.map(|count| days("--max-age", count)).transpose()?;
    let size = arguments.max_size.as_deref().map(parse_size).transpose()?;
    let rules = GcRules { runs: arguments.keep_runs, interrupted, age, size };
    let report = store.gc(&store.gc_roots(&rules)?, arguments.dry_run)?;
    if shell.json {
        shell.json(&report)?;
    } else {
        shell.result(&render_report(&report, arguments));
    }
    Ok(SUCCESS)
}

fn render_report(report: &GcReport, arguments: &GcArgs) -> String {
    let verb = if arguments.dry_run { "would remove" } else { "removed" };
    let (records, objects, leftovers) = (report.records, report.objects, report.leftovers);
    let mut text =
        format!("{verb} {records} records, {objects} objects, {leftovers} leftovers: {}\n", human_bytes(report.bytes));
    if report.forgotten > 0 {
        let verb = if arguments.dry_run { "would forget" } else { "forgot" };
        text.push_str(&format!("{verb} {} instances that are not in their experiment any more\n", report.forgotten));
    }
    if !report.interrupted.is_empty() {
        text.push_str(&format!("{verb} interrupted stages, which will start from the beginning:\n"));
        text.extend(report.interrupted.iter().map(interrupted_line));
    }
    if !report.resumable.is_empty() {
        let limit = arguments.keep_interrupted;
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
    text.push_str(&format!(", last written {:.1} days ago\n", one.age as f64 / DAY));
    text
}

/// Parses a size in bytes: `500MB` (powers of 1000) or `20GiB` (powers of 1024).
fn parse_size(text: &str) -> Result<u64> {
    let digits = text.trim_end_matches(|letter: char| letter.is_ascii_alphabetic());
    let unit = text[digits.len()..].to_ascii_lowercase();
    let letters = ["", "k", "m", "g", "t", "p"];
    let power =
        |base: f64, rest: &str| letters.iter().position(|letter| *letter == rest).map(|power| base.powi(power as i32));
    let factor = match unit.strip_suffix("ib") {
        Some(rest) => power(1024.0, rest),
        None => power(1000.0, unit.strip_suffix('b').unwrap_or(&unit)),
    };
    let count = digits.trim().parse::<f64>().ok().filter(|count| count.is_finite() && *count >= 0.0);
    let bytes = count.zip(factor).map(|(count, factor)| (count * factor) as u64);
    bytes.with_context(|| format!("`{text}` is not a size: write a number and a unit, such as `500MB` or `20GiB`"))
}

/// A number of days as a time.
fn days(flag: &str, count: f64) -> Result<Duration> {
    let time = Duration::try_from_secs_f64(count * DAY);
    time.with_context(|| format!("`{flag} {count}`: give a number of days, at least 0"))
}

#[cfg(test)]
mod tests {
    use super::parse_size;

    #[test]
    fn sizes_have_decimal_and_binary_units() {
        let sizes = ["0", "12", "12B", "1.5kB", "500MB", "500 MB", "20GiB", "2T"].map(|text| parse_size(text).unwrap());
        assert_eq!(sizes, [0, 12, 12, 1500, 500_000_000, 500_000_000, 20 << 30, 2_000_000_000_000]);
        for wrong in ["", "GB", "-1MB", "1XB", "1e", "infGB"] {
            let error = parse_size(wrong).unwrap_err().to_string();
            assert!(error.ends_with("is not a size: write a number and a unit, such as `500MB` or `20GiB`"), "{error}");
        }
    }
}
