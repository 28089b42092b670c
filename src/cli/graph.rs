//! `graph`: prints the graph of stages.

use anyhow::Result;
use clap::{Args, ValueEnum};

use super::args::ExperimentArgs;
use super::session;
use super::shell::Shell;
use ablate_engine::Graph;

#[derive(Debug, Args)]
pub(super) struct GraphArgs {
    #[command(flatten)]
    pub(super) experiment: ExperimentArgs,
    /// Output format.
    #[arg(long, value_enum, default_value_t = GraphFormat::Dot)]
    pub(super) format: GraphFormat,
    /// Print one node per instance instead of one per stage.
    #[arg(long)]
    pub(super) expanded: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum GraphFormat {
    Dot,
    Mermaid,
    Json,
}

pub(super) fn graph(shell: Shell, arguments: &GraphArgs) -> Result<()> {
    let (_, expansion) = session::load(&arguments.experiment)?;
    let format = match arguments.format {
        _ if shell.json => ablate_engine::GraphFormat::Json,
        GraphFormat::Dot => ablate_engine::GraphFormat::Dot,
        GraphFormat::Mermaid => ablate_engine::GraphFormat::Mermaid,
        GraphFormat::Json => ablate_engine::GraphFormat::Json,
    };
    shell.result(&Graph::new(&expansion).render(&expansion, format, arguments.expanded));
    Ok(())
}
