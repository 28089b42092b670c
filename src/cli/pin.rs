//! `pin` and `unpin`: protect results from `gc`.

use std::collections::BTreeSet;

use anyhow::{Result, bail};
use clap::Args;
use serde_json::json;

use super::args::{ExperimentArgs, Global, Targets};
use super::session::{Need, Session, open_existing_store};
use super::shell::Shell;
use ablate_core::base::Hash;
use ablate_experiment::InstanceId;
use ablate_store::Pin;

#[derive(Debug, Args)]
pub(super) struct PinArgs {
    #[command(flatten)]
    pub(super) experiment: ExperimentArgs,
    #[command(flatten)]
    pub(super) targets: Targets,
    /// Name of the pin [default: the experiment's name].
    #[arg(long, value_name = "NAME")]
    pub(super) name: Option<String>,
}

pub(super) fn pin(shell: Shell, global: &Global, arguments: &PinArgs) -> Result<()> {
    let session = Session::read(global, &arguments.experiment, Need::Instances)?;
    let selected = session.selected(&arguments.targets.targets)?;
    let plan = session.plan()?;
    let record = |id: &InstanceId| plan.get(*id).record.as_ref().map(|record| record.fingerprint);
    let fingerprints: BTreeSet<Hash> = selected.iter().filter_map(record).collect();
    if fingerprints.is_empty() {
        bail!("`{}` has no fresh result to pin", session.experiment.name);
    }
    let pin = Pin {
        name: arguments.name.clone().unwrap_or_else(|| session.experiment.name.clone()),
        made: jiff::Timestamp::now().to_string(),
        experiment: session.experiment.name.clone(),
        fingerprints,
    };
    session.store.pin(&pin)?;
    let missing = selected.iter().filter(|id| record(id).is_none()).count();
    if shell.json {
        return shell.json(&json!({ "pin": pin, "not_up_to_date": missing }));
    }
    let rest = if missing > 0 { format!("; {missing} more instances have no fresh result") } else { String::new() };
    shell.result(&format!("`{}` keeps {} results{rest}", pin.name, pin.fingerprints.len()));
    Ok(())
}

pub(super) fn unpin(shell: Shell, global: &Global, name: Option<&str>) -> Result<()> {
    let store = open_existing_store(global)?;
    if let Some(name) = name {
        store.unpin(name)?;
    }
    let pins = store.pins()?;
    if shell.json {
        return shell.json(&pins);
    }
    if name.is_none() {
        let line = |pin: &Pin| {
            format!("{}  {} results of `{}`, {}\n", pin.name, pin.fingerprints.len(), pin.experiment, pin.made)
        };
        shell.result(&pins.iter().map(line).collect::<String>());
    }
    Ok(())
}
