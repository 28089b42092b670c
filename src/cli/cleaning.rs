//! `gc` and `forget`: take away what nothing needs, and say what that costs. Run nothing.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::Args;

use super::DONE;
use super::args::Global;
use super::inspect::{bytes, existing};
use super::shell::Shell;
use ablate_core::base::diagnostic::nearest;
use ablate_store::{ExperimentId, GcReport, GcRules, InterruptedStage};

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
    /// Results that were neither made nor asked for within so many days go too, unless they are pinned.
    #[arg(long, value_name = "DAYS")]
    max_age: Option<f64>,
    /// The oldest results go until all that stay take no more than this (`500MB`, `20GiB`), unless they are pinned.
    #[arg(long, value_name = "SIZE")]
    max_size: Option<String>,
}

#[derive(Debug, Args)]
pub(super) struct ForgetArgs {
    /// The experiment's file, which need not exist any more, or its name.
    #[arg(value_name = "FILE|NAME")]
    experiment: String,
    /// Stages or instances to forget: `dpo`, `eval@model=dpo`, `sft*`. All when none is named.
    #[arg(value_name = "TARGET")]
    targets: Vec<String>,
}

pub(super) fn gc(shell: Shell, global: &Global, arguments: &GcArgs) -> Result<u8> {
    let store = existing(global)?;
    let interrupted = days("--keep-interrupted", arguments.keep_interrupted)?;
    let age = arguments.max_age.map(|count| days("--max-age", count)).transpose()?;
    let size = arguments.max_size.as_deref().map(size).transpose()?;
    let rules = GcRules { runs: arguments.keep_runs, interrupted, age, size };
    let freed = store.gc(&store.gc_roots(&rules)?, arguments.dry_run)?;
    if shell.json {
        shell.json(&freed)?;
    } else {
        shell.result(&told(&freed, arguments));
    }
    Ok(DONE)
}

fn told(freed: &GcReport, arguments: &GcArgs) -> String {
    let verb = if arguments.dry_run { "would remove" } else { "removed" };
    let (records, objects, left) = (freed.records, freed.objects, freed.leftovers);
    let mut text = format!("{verb} {records} records, {objects} objects, {left} leftovers: {}\n", bytes(freed.bytes));
    if freed.forgotten > 0 {
        let verb = if arguments.dry_run { "would forget" } else { "forgot" };
        text.push_str(&format!("{verb} {} instances that no experiment has any more\n", freed.forgotten));
    }
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
fn line(one: &InterruptedStage) -> String {
    let name = one.fingerprint.short();
    let mut text = match &one.work_done {
        Some(spent) if spent.total > 0 => {
            format!("  {} ({}): {} of {} {}, ", spent.instance, spent.kind, spent.done, spent.total, spent.unit)
        }
        Some(spent) => format!("  {} ({}): ", spent.instance, spent.kind),
        None => format!("  {name}: "),
    };
    text.push_str(&bytes(one.bytes));
    if let Some(spent) = one.work_done.as_ref().filter(|spent| spent.seconds > 0.0) {
        text.push_str(&format!(", {:.1} s of work", spent.seconds));
    }
    text.push_str(&format!(", last written {:.1} days ago\n", one.age as f64 / DAY));
    text
}

pub(super) fn forget(shell: Shell, global: &Global, arguments: &ForgetArgs) -> Result<u8> {
    let store = existing(global)?;
    let path = std::path::absolute(&arguments.experiment).unwrap_or_default();
    let path = std::fs::canonicalize(&path).unwrap_or(path);
    let mut all = store.noted_experiments()?;
    let names: Vec<String> = all.iter().map(|id| id.name.clone()).collect();
    let by_file = |id: &ExperimentId| !id.file.is_empty() && store.experiment_file(id) == path;
    if all.iter().any(by_file) {
        all.retain(by_file);
    } else {
        all.retain(|id| id.name == arguments.experiment);
    }
    let id = match all.as_slice() {
        [id] => id,
        [] => {
            let near = nearest(&arguments.experiment, names.iter().map(String::as_str));
            let help = near.map(|near| format!("\nhelp: a similar name exists: `{near}`")).unwrap_or_default();
            bail!("no experiment `{}` has results in this store{help}", arguments.experiment)
        }
        several => {
            let files: Vec<&str> = several.iter().map(|id| id.file.as_str()).collect();
            bail!(
                "`{}` stands for several experiments: name one of the files {}",
                arguments.experiment,
                files.join(", ")
            )
        }
    };
    let is_named = |instance: &str| {
        arguments.targets.is_empty()
            || arguments.targets.iter().any(|target| ablate_engine::select::matches_name(target, instance))
    };
    let forgotten = store.forget_results(&|other, instance| other == id && is_named(instance))?;
    if forgotten.instances.is_empty() {
        bail!("`{}` has no results of {}", arguments.experiment, arguments.targets.join(", "));
    }
    if shell.json {
        shell.json(&forgotten)?;
    } else {
        let (instances, records, kept) = (forgotten.instances.len(), forgotten.records, forgotten.kept);
        let rest =
            if kept > 0 { format!("; {kept} stay, which a pin or another instance needs") } else { String::new() };
        shell.result(&format!("forgot {instances} instances and {records} results{rest}\n`gc` frees their space"));
    }
    Ok(DONE)
}

/// Bytes, such as `500MB` (powers of 1000) or `20GiB` (powers of 1024).
fn size(text: &str) -> Result<u64> {
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
    bytes.with_context(|| format!("`{text}` is no size: write a number and a unit, such as `500MB` or `20GiB`"))
}

/// A number of days as a time.
fn days(flag: &str, count: f64) -> Result<Duration> {
    let time = Duration::try_from_secs_f64(count * DAY);
    time.with_context(|| format!("`{flag} {count}`: give a number of days, at least 0"))
}

#[cfg(test)]
mod tests {
    use super::size;

    #[test]
    fn sizes_have_units_of_1000_and_of_1024() {
        let sizes = ["0", "12", "12B", "1.5kB", "500MB", "500 MB", "20GiB", "2T"].map(|text| size(text).unwrap());
        assert_eq!(sizes, [0, 12, 12, 1500, 500_000_000, 500_000_000, 20 << 30, 2_000_000_000_000]);
        for wrong in ["", "GB", "-1MB", "1XB", "1e", "infGB"] {
            let error = size(wrong).unwrap_err().to_string();
            assert!(error.ends_with("is no size: write a number and a unit, such as `500MB` or `20GiB`"), "{error}");
        }
    }
}
