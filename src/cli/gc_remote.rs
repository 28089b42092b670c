//! `gc --remote`: removes what nothing needs from a remote.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::Result;

use super::args::Global;
use super::format::{counted, human_bytes};
use super::remote::required_address;
use super::shell::Shell;
use super::signals;
use super::value_parsers::SECONDS_PER_DAY;
use ablate_remote::{GRACE, GcReport, GcRules, Remote};

pub(super) fn gc(
    shell: Shell,
    global: &Global,
    option: &str,
    grace: Option<Duration>,
    max_age: Option<Duration>,
    dry_run: bool,
) -> Result<()> {
    let address = required_address(Some(option), &global.configuration()?)?;
    let rules = GcRules { grace: grace.unwrap_or(GRACE), max_age };
    let stop = Arc::new(AtomicBool::new(false));
    let flag = stop.clone();
    signals::call_on_end(move || flag.store(true, Ordering::SeqCst))?;
    if rules.grace < GRACE / 2 && !dry_run {
        shell.warning(&format!(
            "a grace period of less than {:.0} days is safe only while no other machine pushes: a push relies on what is younger than that",
            (GRACE / 2).as_secs_f64() / SECONDS_PER_DAY
        ));
    }
    let remote = Remote::open(&address, false, stop)?;
    let report = remote.gc(&rules, dry_run)?;
    if shell.json {
        return shell.json(&report);
    }
    shell.result(&render(&address.to_string(), &report, dry_run));
    Ok(())
}

fn render(address: &str, report: &GcReport, dry_run: bool) -> String {
    let GcReport { roots, records, objects, bytes, kept_roots, kept_records, kept_objects, kept_bytes, young, .. } =
        report;
    let verb = if dry_run { "would remove" } else { "removed" };
    let line = |roots: usize, records: usize, objects: usize, bytes: u64| {
        let experiments = counted(roots as u64, "experiment", "experiments");
        let results = counted(records as u64, "result", "results");
        format!("{experiments}, {results}, {}: {}", counted(objects as u64, "object", "objects"), human_bytes(bytes))
    };
    let mut text = format!("{address}: {verb} {}\n", line(*roots, *records, *objects, *bytes));
    text.push_str(&format!("kept {}", line(*kept_roots, *kept_records, *kept_objects, *kept_bytes)));
    if *young > 0 {
        text.push_str(&format!("; {young} of them only because they are younger than the grace period"));
    }
    text.push('\n');
    if !report.unknown.is_empty() {
        let names = report.unknown.iter().take(5).map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ");
        let files = counted(report.unknown.len() as u64, "file", "files");
        text.push_str(&format!("left {files} that this program did not write or cannot read: {names}\n"));
    }
    if report.objects_kept_by_unknown {
        text.push_str("no object was removed, because a result that cannot be read may need it\n");
    }
    text
}
