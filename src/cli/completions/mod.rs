//! `completions`: the script that makes a shell complete commands, options and names of an experiment. The script asks this
//! program for candidates, so they are those of the experiment file on the command line.

mod bash;
mod candidates;

use anyhow::{Result, anyhow};
use clap::{Args, CommandFactory, ValueEnum};
use clap_complete::CompleteEnv;
use clap_complete::engine::ArgValueCompleter;
use clap_complete::env::{Fish, Shells, Zsh};
use serde_json::json;

use super::args::Cli;
use super::shell::Shell;
use bash::Bash;

#[derive(Debug, Args)]
pub(super) struct CompletionsArgs {
    /// The shell.
    #[arg(value_enum, value_name = "SHELL")]
    pub(super) shell: CompletedShell,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum CompletedShell {
    Bash,
    Zsh,
    Fish,
}

/// A variable with which the script asks for candidates.
const VARIABLE: &str = "ABLATE_COMPLETE";
const SHELLS: Shells<'static> = Shells(&[&Bash, &Zsh, &Fish]);
const NAME: &str = "ablate";

/// Prints the script of a shell.
pub(super) fn completions(shell: Shell, arguments: &CompletionsArgs) -> Result<()> {
    let name = arguments.shell.to_possible_value();
    let name = name.as_ref().map_or("", |value| value.get_name());
    let completer = SHELLS.completer(name).ok_or_else(|| anyhow!("BUG: no script for `{name}`"))?;
    let mut script = Vec::new();
    completer.write_registration(VARIABLE, NAME, NAME, NAME, &mut script)?;
    let script = String::from_utf8(script)?;
    if shell.json {
        return shell.json(&json!({ "script": script }));
    }
    shell.result(&script);
    Ok(())
}

/// Prints the candidates and ends the process if the script of a shell asks for them.
pub(super) fn answer_shell() {
    CompleteEnv::with_factory(completed_command).var(VARIABLE).shells(SHELLS).complete();
}

/// The command line with the completers of its arguments, which are chosen by the names that the help shows.
fn completed_command() -> clap::Command {
    Cli::command().mut_subcommands(|command| {
        let name = command.get_name().to_string();
        command.mut_args(|argument| {
            let values: Vec<String> =
                argument.get_value_names().unwrap_or_default().iter().map(ToString::to_string).collect();
            let value = values.first().filter(|value| argument.is_positional() || *value != "FILE");
            match value.and_then(|value| completer(&name, value)) {
                Some(completer) => argument.add(completer),
                None => argument,
            }
        })
    })
}

/// The completer of an argument of a command, by the name of its value.
fn completer(command: &str, value: &str) -> Option<ArgValueCompleter> {
    Some(match (command, value) {
        (_, "FILE" | "FILE|NAME") => ArgValueCompleter::new(candidates::experiment_files),
        (_, "FILE|TARGET") => ArgValueCompleter::new(candidates::files_and_instances),
        (_, "FILE|RUN|TARGET") => ArgValueCompleter::new(candidates::compared),
        (_, "TARGET" | "INSTANCE" | "STAGE") => ArgValueCompleter::new(candidates::instances),
        (_, "KEY=VALUE") => ArgValueCompleter::new(candidates::keys),
        (_, "AXIS") => ArgValueCompleter::new(candidates::axes),
        (_, "SELECTOR") => ArgValueCompleter::new(candidates::selectors),
        ("report" | "suggest", "NAME") => ArgValueCompleter::new(candidates::reports),
        ("unpin", "NAME") => ArgValueCompleter::new(candidates::pins),
        (_, "RUN") => ArgValueCompleter::new(candidates::runs),
        (_, "TYPE") => ArgValueCompleter::new(candidates::output_types),
        _ => return None,
    })
}
