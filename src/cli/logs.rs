//! `logs`: prints the latest log of an instance.

use anyhow::{Result, bail};
use serde_json::json;

use super::args::{Global, InstanceArgs};
use super::session::{Need, Session};
use super::shell::Shell;

pub(super) fn logs(shell: Shell, global: &Global, arguments: &InstanceArgs) -> Result<()> {
    let session = Session::read(global, &arguments.experiment, Need::Instances)?;
    let id = session.one(&arguments.instance)?;
    let Some(log) = ablate_engine::query::last_log(&session.id, &session.expansion, &session.store, id) else {
        bail!("`{}` has no log: it has not run in this store", session.expansion.get(id).name)
    };
    let text = ablate_engine::query::read_log(&log)?;
    if shell.json {
        return shell.json(&json!({ "path": log, "text": text }));
    }
    shell.status(&log.display().to_string());
    shell.log(&text);
    Ok(())
}
