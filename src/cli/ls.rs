//! `ls`: lists the instances of an experiment with their state, metrics and parameters, or the stored replies of endpoints.

use anyhow::Result;
use clap::Args;

use super::args::{ExperimentArgs, Global, Targets};
use super::compare::TextFormat;
use super::ls_table::LsTable;
use super::replies;
use super::session::{Need, Session};
use super::shell::Shell;

#[derive(Debug, Args)]
// A changed argument moves to the end, so both get their place again.
#[command(mut_arg("file", |file| file.index(1).required(false).required_unless_present("replies")))]
#[command(mut_arg("targets", |targets| targets.index(2)))]
pub(super) struct LsArgs {
    #[command(flatten)]
    pub(super) experiment: Option<ExperimentArgs>,
    #[command(flatten)]
    pub(super) targets: Targets,
    /// Show these metrics and parameters, separated by commas: `accuracy,compliance,lr,sources.cot.share`, or `all`
    /// [default: accuracy, loss and reward accuracy, where there are any].
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    pub(super) columns: Vec<String>,
    /// Sort by a column, the largest number first: a metric, a parameter, `seconds`, `size` or `name`.
    #[arg(long, value_name = "COLUMN")]
    pub(super) sort: Option<String>,
    /// Print CSV or Markdown, with all metrics and all parameters that vary.
    #[arg(long, value_enum, value_name = "FORMAT", conflicts_with = "json")]
    pub(super) format: Option<TextFormat>,
    /// List the stored replies of endpoints instead, by model and address: their number, bad ones, tokens and cost.
    #[arg(long, conflicts_with_all = ["file", "overrides", "targets", "columns", "sort", "format"])]
    pub(super) replies: bool,
}

pub(super) fn ls(shell: Shell, global: &Global, arguments: &LsArgs) -> Result<()> {
    let Some(experiment) = &arguments.experiment else { return replies::list(shell, global) };
    let session = Session::read(global, experiment, Need::Instances)?;
    let selected = session.selected(&arguments.targets.targets)?;
    let plan = session.plan()?;
    let mut table = LsTable::new(&session, &plan, &selected)?;
    if let Some(column) = &arguments.sort {
        table.sort(column)?;
    }
    if shell.json {
        return shell.json(&table.rows);
    }
    match arguments.format {
        Some(TextFormat::Csv) => shell.result(&table.csv(&arguments.columns)?),
        Some(TextFormat::Md) => shell.result(&table.markdown(&arguments.columns)?),
        None => shell.result(&table.text(&arguments.columns)?),
    }
    Ok(())
}
