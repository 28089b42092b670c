//! `serve`: shows runs and reports in a browser.

use std::net::IpAddr;
use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::Args;
use serde_json::json;

use super::args::{ExperimentArgs, Global};
use super::session::{Need, Session, open_existing_store};
use super::shell::Shell;
use super::{render_error, report, signals};
use crate::serve::{DEFAULT_PORT, LoadedReport, Options, ReportKey, Server};
use ablate_experiment::{LoadError, Upstream};

#[derive(Debug, Args)]
pub(super) struct ServeArgs {
    /// Show only these experiments. Default: all that ran in the store.
    #[arg(value_name = "FILE")]
    experiments: Vec<PathBuf>,
    /// The port; 0 takes any free one [default: 8765, or the next free one].
    #[arg(long, value_name = "PORT")]
    port: Option<u16>,
    /// The address to listen on. Another one than that of this machine itself needs a token, which is made if none is given.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1")]
    bind: IpAddr,
    /// The secret that a browser must show once, at least 16 characters. Without a value: a random one. Also needed on
    /// 127.0.0.1 if other users of this machine must not see the runs.
    #[arg(long, value_name = "TOKEN", env = "ABLATE_SERVE_TOKEN", hide_env_values = true, num_args = 0..=1, default_missing_value = "")]
    token: Option<String>,
}

pub(super) fn serve(shell: Shell, global: &Global, arguments: &ServeArgs) -> Result<()> {
    // Programs of stages run as the same user, and this process holds the token.
    ablate_engine::environment::hide_memory();
    let store = open_existing_store(global)?;
    let experiment = |file: &PathBuf| ExperimentArgs { file: file.clone(), overrides: Vec::new() };
    let opened = |file: &PathBuf| Session::read(global, &experiment(file), Need::Instances);
    let experiments = arguments.experiments.iter().map(|file| Ok(opened(file)?.id)).collect::<Result<_>>()?;
    let shared = global.clone();
    let server = Server::bind(Options {
        store,
        experiments,
        address: arguments.bind,
        port: arguments.port,
        token: arguments.token.clone(),
        reports: Box::new(move |key| load_report(&shared, key).map_err(|error| render(&error))),
        program: std::env::current_exe().context("cannot find the path of the running program")?,
    })?;
    let (url, end) = (server.url(), server.end());
    signals::call_on_end(move || end.notify_one())?;
    if shell.json {
        shell.json_line(&json!({ "url": url }));
    } else {
        shell.result(&url);
    }
    let moved = arguments.port.is_none() && !url.contains(&format!(":{DEFAULT_PORT}/"));
    let why = if moved { format!(" (port {DEFAULT_PORT} is used by another program)") } else { String::new() };
    shell.status(&format!("serving the store `{}`{why}; Ctrl-C ends the server, and no run", global.store().display()));
    server.run()
}

fn load_report(global: &Global, key: &ReportKey) -> Result<LoadedReport> {
    let (session, report) = report::load(global, &key.file, key.run.as_deref())?;
    let inputs = session.expansion.instances.iter().flat_map(|instance| &instance.inputs);
    let external = inputs.filter_map(|input| match &input.upstream {
        Upstream::External { path } => Some(path.clone()),
        Upstream::Output { .. } | Upstream::Environment { .. } => None,
    });
    let mut files: Vec<PathBuf> =
        session.experiment.texts.iter().map(|(path, _)| path.clone()).chain(external).collect();
    files.sort();
    files.dedup();
    Ok(LoadedReport { report, files })
}

fn render(error: &anyhow::Error) -> String {
    match error.downcast_ref::<LoadError>() {
        Some(failure) => failure.render(false),
        None => render_error(error),
    }
}
