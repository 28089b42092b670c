//! The command line: reads arguments, calls the other crates, prints. One file per command.

mod args;
mod bar_layout;
mod check;
mod cluster_job;
mod compare;
mod completions;
mod doctor;
mod doctor_cluster;
mod export;
mod forget;
mod format;
mod gc;
mod gc_remote;
mod generate;
mod graph;
mod inspect;
mod job_lists;
mod logs;
mod ls;
mod ls_table;
mod man;
mod new;
mod pin;
mod plan;
mod progress;
mod progress_lines;
mod pull;
mod push;
mod remote;
mod replies;
mod report;
mod report_files;
mod request_estimates;
mod resources;
mod results;
mod retry;
mod run;
mod run_limits;
mod runs;
mod schema;
mod serve;
mod session;
mod shell;
mod show;
mod signals;
mod status;
mod stop;
mod suggest;
#[cfg(test)]
mod tests;
mod time_estimates;
mod value_parsers;
mod verify;
mod why;

use std::io::ErrorKind;
use std::process::ExitCode;

use clap::Parser;

use crate::stages::KINDS;
use ablate_core::base::escape::indented;
use args::{Cli, Command, Global};
use shell::Shell;

// Exit codes.
const SUCCESS: u8 = 0;
/// The result could not be written.
const OUTPUT_FAILED: u8 = 1;
/// The arguments, the experiment or the store are wrong.
const WRONG_INPUT: u8 = 2;
/// Stopped by a signal.
const INTERRUPTED: u8 = 130;

/// Runs the program and returns its exit code.
pub fn main() -> ExitCode {
    completions::answer_shell();
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(message) => return print_clap_message(&message),
    };
    let shell = Shell::new(&cli.global);
    start_log(&cli.global, shell);
    let global = &cli.global;
    let done = |result: anyhow::Result<()>| result.map(|()| SUCCESS);
    let result = match &cli.command {
        Command::Run(arguments) => run::run(shell, global, arguments),
        Command::Retry(arguments) => retry::retry(shell, global, arguments),
        Command::Plan(arguments) => done(plan::plan(shell, global, arguments)),
        Command::Why(arguments) => done(why::why(shell, global, arguments)),
        Command::Runs(arguments) => done(runs::runs(shell, global, arguments)),
        Command::Status(arguments) => done(status::status(shell, global, arguments)),
        Command::Stop(arguments) => done(stop::stop(shell, global, arguments)),
        Command::Serve(arguments) => done(serve::serve(shell, global, arguments)),
        Command::Compare(arguments) => done(compare::compare(shell, global, arguments)),
        Command::Pin(arguments) => done(pin::pin(shell, global, arguments)),
        Command::Unpin { name } => done(pin::unpin(shell, global, name.as_deref())),
        Command::Check(arguments) => check::check(shell, arguments),
        Command::Graph(arguments) => done(graph::graph(shell, arguments)),
        Command::Report(arguments) => done(report::report(shell, global, arguments)),
        Command::Results(arguments) => done(results::results(shell, global, arguments)),
        Command::Suggest(arguments) => done(suggest::suggest(shell, global, arguments)),
        Command::Ls(arguments) => done(ls::ls(shell, global, arguments)),
        Command::Show(arguments) => done(show::show(shell, global, arguments)),
        Command::Logs(arguments) => done(logs::logs(shell, global, arguments)),
        Command::Verify => verify::verify(shell, global),
        Command::Gc(arguments) => done(gc::gc(shell, global, arguments)),
        Command::Forget(arguments) => done(forget::forget(shell, global, arguments)),
        Command::New(arguments) => done(new::new(shell, arguments)),
        Command::Generate(arguments) => done(generate::generate(shell, arguments)),
        Command::Doctor(arguments) => done(doctor::doctor(shell, global, arguments)),
        Command::Push(arguments) => push::push(shell, global, arguments),
        Command::Pull(arguments) => pull::pull(shell, global, arguments),
        Command::Export(arguments) => done(export::export(shell, global, arguments)),
        Command::Completions(arguments) => done(completions::completions(shell, arguments)),
        Command::Man(arguments) => done(man::man(shell, arguments)),
        Command::Schema { output } => done(schema::schema(shell, *output)),
        Command::ClusterProbe { folder } => done(doctor_cluster::answer_probe(shell, folder)),
        Command::ClusterJob { folder, index } => cluster_job::cluster_job(shell, folder, *index),
        Command::Supervisor => {
            if let Err(error) = signals::outlive_terminate() {
                print_error(shell, &error);
            }
            return ablate_engine::supervisor::serve();
        }
        Command::StageJob { job } => {
            if let Err(error) = signals::save_on_terminate() {
                print_error(shell, &error);
            }
            return ablate_engine::run_job(job, KINDS);
        }
    };
    let code = result.unwrap_or_else(|error| {
        print_error(shell, &error);
        WRONG_INPUT
    });
    ExitCode::from(shell.exit_code(code))
}

/// Prints help and version on stdout, or an error in the arguments on stderr.
fn print_clap_message(message: &clap::Error) -> ExitCode {
    match message.print() {
        Err(error) if error.kind() != ErrorKind::BrokenPipe && !message.use_stderr() => ExitCode::from(OUTPUT_FAILED),
        _ => ExitCode::from(message.exit_code() as u8),
    }
}

/// Prints an error; errors of an experiment file with their source locations.
fn print_error(shell: Shell, error: &anyhow::Error) {
    match error.downcast_ref::<ablate_experiment::LoadError>() {
        Some(failure) => shell.diagnostics(&failure.render(shell.error_color)),
        None => shell.error(&render_error(error)),
    }
}

/// An error with its causes, one line each.
fn render_error(error: &anyhow::Error) -> String {
    let mut text = indented(&error.to_string(), "  ");
    for cause in error.chain().skip(1) {
        text.push_str("\n  because ");
        text.push_str(&indented(&cause.to_string(), "    "));
    }
    text
}

/// Sends debug output to stderr if it is enabled.
fn start_log(global: &Global, shell: Shell) {
    let default = if global.verbose > 1 { "ablate=debug" } else { "warn" };
    let filter = std::env::var("ABLATE_LOG").unwrap_or_else(|_| default.to_string());
    let filter = tracing_subscriber::EnvFilter::try_new(filter).unwrap_or_else(|_| default.into());
    let subscriber = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).without_time();
    subscriber.with_target(false).with_ansi(shell.error_color).try_init().ok();
}
