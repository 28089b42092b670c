//! The command line: reads arguments, calls the layers below, prints. Knows no tensor.

mod args;
mod asking;
mod checking;
mod cleaning;
mod doctor;
#[cfg(test)]
mod fuzz;
mod history;
mod inspect;
mod outside;
mod planning;
mod progress;
mod report;
mod running;
mod session;
mod shell;
mod signals;
mod starting;
mod suggest;
mod values;

use std::io::ErrorKind;
use std::process::ExitCode;

use clap::Parser;

use crate::stages::KINDS;
use ablate_core::base::escape::indented;
use args::{Cli, Command, Global};
use shell::Shell;

/// Done.
const DONE: u8 = 0;
/// The result could not be written.
const NOT_WRITTEN: u8 = 1;
/// The input is wrong: arguments, the experiment, the store.
const WRONG_INPUT: u8 = 2;
/// Stopped by a signal.
const INTERRUPTED: u8 = 130;

/// The program: from the process's arguments to its exit code.
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(said) => return answer(&said),
    };
    let shell = Shell::new(&cli.global);
    start_log(&cli.global, shell);
    let result = match &cli.command {
        Command::Run(arguments) => running::run(shell, &cli.global, arguments),
        Command::Plan(arguments) => planning::plan(shell, &cli.global, arguments),
        Command::Why(arguments) => planning::why(shell, &cli.global, arguments),
        Command::Status(arguments) => history::status(shell, &cli.global, arguments),
        Command::Diff(arguments) => history::diff(shell, &cli.global, arguments),
        Command::Pin(arguments) => inspect::pin(shell, &cli.global, arguments),
        Command::Unpin { name } => inspect::unpin(shell, &cli.global, name.as_deref()),
        Command::Check(arguments) => checking::check(shell, arguments),
        Command::Graph(arguments) => inspect::graph(shell, arguments),
        Command::Report(arguments) => report::report(shell, &cli.global, arguments),
        Command::Suggest(arguments) => suggest::suggest(shell, &cli.global, arguments),
        Command::Ls(arguments) => inspect::list(shell, &cli.global, arguments),
        Command::Show(arguments) => inspect::show(shell, &cli.global, arguments),
        Command::Logs(arguments) => inspect::logs(shell, &cli.global, arguments),
        Command::Verify => inspect::verify(shell, &cli.global),
        Command::Gc(arguments) => cleaning::gc(shell, &cli.global, arguments),
        Command::Forget(arguments) => cleaning::forget(shell, &cli.global, arguments),
        Command::New(arguments) => starting::new(shell, arguments),
        Command::Generate(arguments) => asking::generate(shell, arguments),
        Command::Doctor(arguments) => doctor::doctor(shell, arguments),
        Command::Schema => starting::schema(shell),
        Command::Supervisor => return ablate_engine::supervisor::serve(),
        Command::StageJob { job } => return ablate_engine::run_job(job, KINDS),
    };
    let code = result.unwrap_or_else(|error| {
        tell(shell, &error);
        WRONG_INPUT
    });
    ExitCode::from(shell.settle(code))
}

/// Help and version on stdout, or what is wrong with the arguments.
fn answer(said: &clap::Error) -> ExitCode {
    match said.print() {
        Err(error) if error.kind() != ErrorKind::BrokenPipe && !said.use_stderr() => ExitCode::from(NOT_WRITTEN),
        _ => ExitCode::from(said.exit_code() as u8),
    }
}

/// Says what is wrong: at its places, if it is an experiment.
fn tell(shell: Shell, error: &anyhow::Error) {
    match error.downcast_ref::<ablate_experiment::LoadError>() {
        Some(failure) => shell.diagnostics(&failure.render(shell.error_color)),
        None => shell.error(&told(error)),
    }
}

/// An error with its causes, one line each.
fn told(error: &anyhow::Error) -> String {
    let mut text = indented(&error.to_string(), "  ");
    for cause in error.chain().skip(1) {
        text.push_str("\n  because ");
        text.push_str(&indented(&cause.to_string(), "    "));
    }
    text
}

/// Debug output goes to stderr, and only when asked for.
fn start_log(global: &Global, shell: Shell) {
    let default = if global.verbose > 1 { "ablate=debug" } else { "warn" };
    let filter = std::env::var("ABLATE_LOG").unwrap_or_else(|_| default.to_string());
    let filter = tracing_subscriber::EnvFilter::try_new(filter).unwrap_or_else(|_| default.into());
    let subscriber = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).without_time();
    subscriber.with_target(false).with_ansi(shell.error_color).try_init().ok();
}
