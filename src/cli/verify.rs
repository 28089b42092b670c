//! `verify`: checks the store, and quarantines what is damaged.

use anyhow::Result;

use super::args::Global;
use super::format::human_bytes;
use super::session::open_existing_store;
use super::shell::Shell;
use super::{SUCCESS, WRONG_INPUT};
use ablate_core::base::Hash;

pub(super) fn verify(shell: Shell, global: &Global) -> Result<u8> {
    let store = open_existing_store(global)?;
    let report = store.verify(true, &|_, _| {})?;
    store.save_memo();
    if shell.json {
        shell.json(&report)?;
    } else {
        for problem in &report.problems {
            let producer = |(kind, hash): &(String, Hash)| format!("{kind} {}", hash.short());
            let producers = problem.producers.iter().map(producer).collect::<Vec<_>>().join(", ");
            let rerun = if producers.is_empty() { producers } else { format!("; to run again: {producers}") };
            shell.result(&format!("{}: {}{rerun}", problem.path.display(), problem.what));
        }
        let (records, objects, problems) = (report.records, report.objects, report.problems.len());
        let size = human_bytes(report.bytes);
        shell.result(&format!("{records} records, {objects} objects, {size}: {problems} problems"));
    }
    Ok(if report.problems.is_empty() { SUCCESS } else { WRONG_INPUT })
}
