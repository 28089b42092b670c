//! `ls`: lists the instances of an experiment with their state.

use anyhow::Result;
use clap::Args;

use super::args::{ExperimentArgs, Global, Targets};
use super::format::human_bytes;
use super::session::{Need, Session};
use super::shell::Shell;

#[derive(Debug, Args)]
pub(super) struct LsArgs {
    #[command(flatten)]
    pub(super) experiment: ExperimentArgs,
    #[command(flatten)]
    pub(super) targets: Targets,
}

pub(super) fn ls(shell: Shell, global: &Global, arguments: &LsArgs) -> Result<()> {
    let session = Session::read(global, &arguments.experiment, Need::Instances)?;
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
