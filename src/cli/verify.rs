//! `verify`: checks the store, and quarantines what is damaged.

use anyhow::Result;

use super::args::Global;
use super::format::human_bytes;
use super::session::open_existing_store;
use super::shell::Shell;
use super::{SUCCESS, WRONG_INPUT};

pub(super) fn verify(shell: Shell, global: &Global) -> Result<u8> {
    let store = open_existing_store(global)?;
    let report = store.verify(true, &|_, _| {})?;
    store.save_memo();
    if shell.json {
        shell.json(&report)?;
    } else {
        for problem in &report.problems {
            let producers: Vec<String> =
                problem.producers.iter().map(|(kind, hash)| format!("{kind} {}", hash.short())).collect();
            let rerun =
                if producers.is_empty() { String::new() } else { format!("; to run again: {}", producers.join(", ")) };
            shell.result(&format!("{}: {}{rerun}", problem.path.display(), problem.what));
        }
        shell.result(&format!(
            "{} records, {} objects, {}: {} problems",
            report.records,
            report.objects,
            human_bytes(report.bytes),
            report.problems.len()
        ));
    }
    Ok(if report.problems.is_empty() { SUCCESS } else { WRONG_INPUT })
}
