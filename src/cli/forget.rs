//! `forget`: removes the results of an experiment, or of some of its instances, from the records.

use anyhow::{Result, bail};
use clap::Args;

use super::args::Global;
use super::session::open_existing_store;
use super::shell::Shell;
use ablate_core::base::diagnostic::nearest;
use ablate_store::ExperimentId;

#[derive(Debug, Args)]
pub(super) struct ForgetArgs {
    /// The experiment's file, which may already be removed, or its name.
    #[arg(value_name = "FILE|NAME")]
    experiment: String,
    /// Stages or instances to forget: `dpo`, `eval@model=dpo`, `sft*`. Default: all.
    #[arg(value_name = "TARGET")]
    targets: Vec<String>,
}

pub(super) fn forget(shell: Shell, global: &Global, arguments: &ForgetArgs) -> Result<()> {
    let store = open_existing_store(global)?;
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
            let similar = nearest(&arguments.experiment, names.iter().map(String::as_str));
            let help = similar.map(|near| format!("\nhelp: a similar name exists: `{near}`")).unwrap_or_default();
            bail!("no experiment `{}` has results in this store{help}", arguments.experiment)
        }
        several => {
            let files: Vec<&str> = several.iter().map(|id| id.file.as_str()).collect();
            bail!("several experiments are named `{}`: use one of the files {}", arguments.experiment, files.join(", "))
        }
    };
    let matches_target = |instance: &str| {
        arguments.targets.is_empty()
            || arguments.targets.iter().any(|target| ablate_engine::select::matches_name(target, instance))
    };
    let forgotten = store.forget_results(&|other, instance| other == id && matches_target(instance))?;
    if forgotten.instances.is_empty() {
        bail!("`{}` has no results of {}", arguments.experiment, arguments.targets.join(", "));
    }
    if shell.json {
        return shell.json(&forgotten);
    }
    let (instances, records, kept) = (forgotten.instances.len(), forgotten.records, forgotten.kept);
    let rest = if kept > 0 { format!("; kept {kept} that a pin or another instance needs") } else { String::new() };
    shell.result(&format!("forgot {instances} instances and {records} results{rest}\n`ablate gc` frees their space"));
    Ok(())
}
