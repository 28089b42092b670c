//! `ls`: lists the instances of an experiment with their state, or the stored replies of endpoints.

use anyhow::Result;
use clap::Args;

use super::args::{ExperimentArgs, Global, Targets};
use super::format::human_bytes;
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
    /// List the stored replies of endpoints instead, by model and address: their number, bad ones, tokens and cost.
    #[arg(long, conflicts_with_all = ["file", "overrides", "targets"])]
    pub(super) replies: bool,
}

pub(super) fn ls(shell: Shell, global: &Global, arguments: &LsArgs) -> Result<()> {
    let Some(experiment) = &arguments.experiment else { return replies::list(shell, global) };
    let session = Session::read(global, experiment, Need::Instances)?;
    let selected = session.selected(&arguments.targets.targets)?;
    let plan = session.plan()?;
    let listed = session.query(&plan).list();
    let listed: Vec<_> = listed.into_iter().filter(|line| selected.contains(&line.id)).collect();
    if shell.json {
        return shell.json(&listed);
    }
    let width = listed.iter().map(|line| line.name.chars().count()).max().unwrap_or(0);
    let mut text = String::new();
    for line in &listed {
        let size = line.size.map(human_bytes).unwrap_or_default();
        let seconds = line.seconds.map(|seconds| format!("{seconds:.1} s")).unwrap_or_default();
        let record = line.record.map(|hash| hash.short()).unwrap_or_default();
        let columns = format!("{:width$}  {:6}  {size:>9}  {seconds:>8}  {record}", line.name, line.state);
        text.push_str(columns.trim_end());
        text.push('\n');
    }
    shell.result(&text);
    Ok(())
}
