//! `man`: writes manual pages.

use std::path::{Path, PathBuf};

use anyhow::Result;
use clap::{Args, CommandFactory};
use clap_mangen::Man;
use serde_json::json;

use super::args::Cli;
use super::shell::Shell;
use ablate_core::base::files;

#[derive(Debug, Args)]
pub(super) struct ManArgs {
    /// The folder of the pages, such as `~/.local/share/man/man1`.
    #[arg(value_name = "DIR")]
    pub(super) folder: PathBuf,
}

/// Writes one page for the program and one per command.
pub(super) fn man(shell: Shell, arguments: &ManArgs) -> Result<()> {
    let mut program = Cli::command().disable_help_subcommand(true);
    program.build();
    let mut pages = Vec::new();
    for command in program.get_subcommands().filter(|command| !command.is_hide_set()) {
        pages.push(write_page(command.clone(), &arguments.folder)?);
    }
    pages.push(write_page(program, &arguments.folder)?);
    if shell.json {
        return shell.json(&json!({ "pages": pages }));
    }
    shell.result(&format!("wrote {} manual pages into {}", pages.len(), arguments.folder.display()));
    Ok(())
}

fn write_page(command: clap::Command, folder: &Path) -> Result<PathBuf> {
    let page = Man::new(command).source(concat!("ablate ", env!("CARGO_PKG_VERSION")));
    let mut text = Vec::new();
    page.render(&mut text)?;
    let path = folder.join(page.get_filename());
    files::write_atomic(&path, &text)?;
    Ok(path)
}
