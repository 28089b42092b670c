//! `diff`: prints the differences between two runs.

use anyhow::Result;
use clap::Args;
use serde_json::json;

use super::args::Global;
use super::session::open_existing_store;
use super::shell::Shell;
use ablate_engine::history::{self, InstanceDiff};

#[derive(Debug, Args)]
pub(super) struct DiffArgs {
    /// The older run: `latest~1`, or the beginning of its name.
    #[arg(value_name = "RUN")]
    pub(super) first: String,
    /// The newer run.
    #[arg(value_name = "RUN", default_value = "latest")]
    pub(super) second: String,
}

pub(super) fn diff(shell: Shell, global: &Global, arguments: &DiffArgs) -> Result<()> {
    let store = open_existing_store(global)?;
    let read = |name: &str| history::read(&store, &history::find(&store, name)?);
    let (first, second) = (read(&arguments.first)?, read(&arguments.second)?);
    let differences = history::diff_runs(&store, &first, &second);
    if shell.json {
        return shell.json(&json!({ "first": first, "second": second, "differences": differences }));
    }
    let mut text = format!("{} -> {}\n", first.run, second.run);
    text.extend(differences.iter().map(render_difference));
    if differences.is_empty() {
        text.push_str("  no difference: the same instances with the same results\n");
    }
    shell.result(&text);
    Ok(())
}

fn render_difference(difference: &InstanceDiff) -> String {
    let InstanceDiff { instance, outcomes, reasons, outputs } = difference;
    let mut text = match outcomes {
        (None, Some(after)) => format!("  {instance}: only in the second ({after})\n"),
        (Some(before), None) => format!("  {instance}: only in the first ({before})\n"),
        (Some(before), Some(after)) if before == after => format!("  {instance}\n"),
        (before, after) => {
            let name = |outcome: &Option<String>| outcome.clone().unwrap_or_default();
            format!("  {instance}: {} -> {}\n", name(before), name(after))
        }
    };
    for reason in reasons {
        text.push_str(&format!("    {reason}\n"));
    }
    if !outputs.is_empty() {
        text.push_str(&format!("    changed outputs: {}\n", outputs.join(", ")));
    } else if !reasons.is_empty() {
        text.push_str("    the outputs are equal\n");
    }
    text
}
