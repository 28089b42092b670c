//! `push`: sends the current results of an experiment to a remote.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::Result;
use serde_json::json;

use super::args::Global;
use super::format::{counted, human_bytes};
use super::remote::{TransferArgs, required_address, root, with_progress};
use super::session::{Need, Session};
use super::shell::Shell;
use super::{INTERRUPTED, SUCCESS, signals};
use ablate_core::base::Hash;
use ablate_engine::{Plan, PlanState};
use ablate_experiment::InstanceId;
use ablate_remote::{PushReport, Remote, is_stopped};

pub(super) fn push(shell: Shell, global: &Global, arguments: &TransferArgs) -> Result<u8> {
    let address = required_address(arguments.remote.as_deref(), &global.configuration()?)?;
    let session = Session::read(global, &arguments.experiment, Need::Instances)?;
    // Excludes `gc`, which would remove what is being sent.
    let _shared = session.store.lock_shared()?;
    let selected = session.selected(&arguments.targets.targets)?;
    let plan = session.plan()?;
    let fresh: Vec<Hash> =
        selected.iter().filter_map(|id| plan.get(*id).record.as_ref()).map(|record| record.fingerprint).collect();
    let stale = selected.iter().filter(|id| plan.get(**id).state != PlanState::Fresh).count();
    let stop = Arc::new(AtomicBool::new(false));
    let flag = stop.clone();
    signals::call_on_end(move || flag.store(true, Ordering::SeqCst))?;
    session.store.check_writable()?;
    let remote = Remote::open(&address, true, stop)?;
    let sent = with_progress(shell, remote.meter(), "sending", || -> Result<PushReport> {
        let report = remote.push(&session.store, &fresh)?;
        remote.put_root(&root(&session, &arguments.experiment.overrides)?)?;
        Ok(report)
    });
    session.store.save_memo();
    let report = match sent {
        Err(error) if is_stopped(&error) => {
            shell.status(&format!("{error:#}"));
            return Ok(INTERRUPTED);
        }
        sent => sent?,
    };
    let different = names(&session, &plan, &selected, &report.records_different);
    if shell.json {
        shell
            .json(&json!({ "remote": address.to_string(), "sent": report, "different": different, "stale": stale }))?;
        return Ok(SUCCESS);
    }
    let mut text = format!("{address}: {}\n", render(&report));
    if stale > 0 {
        let stages = counted(stale as u64, "stage is", "stages are");
        text.push_str(&format!("{stages} not fresh, so there is nothing to send: `ablate run` makes the results\n"));
    }
    shell.result(&text);
    warn_of_differences(shell, &different);
    Ok(SUCCESS)
}

/// The instances of some fingerprints.
pub(super) fn names<'a>(session: &'a Session, plan: &Plan, ids: &[InstanceId], of: &[Hash]) -> Vec<&'a str> {
    let is_one =
        |id: &&InstanceId| plan.get(**id).record.as_ref().is_some_and(|record| of.contains(&record.fingerprint));
    ids.iter().filter(is_one).map(|id| session.expansion.get(*id).name.as_str()).collect()
}

/// Says which results the remote has with other outputs.
pub(super) fn warn_of_differences(shell: Shell, names: &[&str]) {
    if names.is_empty() {
        return;
    }
    let count = counted(names.len() as u64, "result", "results");
    let listed = if shell.verbose > 0 { format!(": {}", names.join(", ")) } else { String::new() };
    let help = if shell.verbose > 0 { "" } else { "\nhelp: `-v` lists them" };
    shell.warning(&format!(
        "the remote has {count} with other outputs, and keeps them{listed}: the stages are not deterministic, or another machine computes other bits{help}"
    ));
}

/// `sent 3 results (7 objects, 1.2 MiB); 2 results (4 objects, 80 KiB) were there already`.
pub(super) fn render(report: &PushReport) -> String {
    let of = |records: usize, objects: usize, bytes: u64| {
        let records = counted(records as u64, "result", "results");
        format!("{records} ({}, {})", counted(objects as u64, "object", "objects"), human_bytes(bytes))
    };
    let mut text = format!("sent {}", of(report.records, report.objects, report.bytes));
    if report.records_there + report.objects_there > 0 {
        let there = of(report.records_there, report.objects_there, report.bytes_there);
        text.push_str(&format!("; {there} were there already"));
    }
    if report.renewed > 0 {
        text.push_str(&format!("; {} of the objects sent were there and had to be renewed", report.renewed));
    }
    text
}
