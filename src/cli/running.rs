//! `run`: brings an experiment up to date, then prints its reports.

use std::mem::ManuallyDrop;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::available_parallelism;

use anyhow::{Context, Result, bail};

use super::args::{ExperimentArgs, Global, RunArgs};
use super::progress::Display;
use super::report;
use super::session::{Need, Session};
use super::shell::Shell;
use super::{DONE, WRONG_INPUT, signals, tell};
use ablate_core::stage::Pool;
use ablate_engine::{self, Outcome, ProcessExecutor, RunOptions, RunReport};
use ablate_experiment::Settings;
use ablate_nn::device::{Device, DeviceChoice, listed};

pub(super) fn run(shell: Shell, global: &Global, arguments: &RunArgs) -> Result<u8> {
    // Programs of stages run as this user, and this environment may hold keys.
    ablate_engine::environment::hide_memory();
    let executor = Arc::new(ProcessExecutor::current()?);
    let interrupt = signals::listen(executor.clone())?;
    let experiments = arguments.scope.experiments(&arguments.experiment);
    // A mistake in the last file is told before the first one takes its hours.
    if experiments.len() > 1 {
        let opened = experiments.iter().map(|experiment| Session::open(global, experiment, Need::Instances));
        let wrong: Vec<anyhow::Error> = opened.filter_map(Result::err).collect();
        for error in &wrong {
            tell(shell, error);
        }
        if !wrong.is_empty() {
            return Ok(WRONG_INPUT);
        }
    }
    let mut worst = DONE;
    for experiment in &experiments {
        if experiments.len() > 1 {
            shell.status(&format!("\n{}", experiment.file.display()));
        }
        let code = run_one(shell, global, experiment, arguments, &executor, &interrupt)?;
        worst = worst.max(code);
        if interrupt.load(Ordering::SeqCst) || (code != DONE && arguments.fail_fast) {
            break;
        }
    }
    Ok(worst)
}

/// Brings one experiment up to date and prints its reports.
fn run_one(
    shell: Shell,
    global: &Global,
    experiment: &ExperimentArgs,
    arguments: &RunArgs,
    executor: &Arc<ProcessExecutor>,
    interrupt: &Arc<AtomicBool>,
) -> Result<u8> {
    // The process ends soon: to take ten thousand instances apart one by one would be for nothing.
    let session = ManuallyDrop::new(Session::open(global, experiment, Need::Instances)?);
    let settings = &session.experiment.settings;
    let models = session.expansion.instances.iter().any(|instance| instance.pool == Pool::Model);
    let (device, gpus) = devices(models, arguments, settings)?;
    if arguments.rehash {
        session.store.clear_memo();
    }
    let cores = available_parallelism().map_or(1, usize::from);
    let slots = settings.jobs.or(settings.pools.get("cpu").copied());
    let selection = arguments.scope.selection();
    let options = RunOptions {
        jobs: arguments.jobs.or(slots).unwrap_or(cores),
        threads: arguments.threads,
        teachers: settings.pools.get("teacher").copied().unwrap_or(4),
        pools: settings.pools.clone(),
        gpus,
        retries: arguments.retries,
        time: arguments.timeout,
        keep_going: !arguments.fail_fast,
        force: arguments.force.clone(),
        selection: selection.clone(),
        device,
        interrupt: interrupt.clone(),
        out: Some(arguments.out.clone()),
        noop_cache: Some(session.noop_cache.clone()),
        as_written: experiment.overrides.is_empty(),
        command: std::env::args().collect(),
        ..RunOptions::new(executor.clone())
    };
    if let Some(other) = session.store.experiment_sharing_links(&session.id, &arguments.out) {
        shell.status(&format!(
            "warning: `{}` is named `{}` too: each run of one replaces links of the other in `{}`\n\
             help: give one of them another `name`, or another `--out`",
            other.display(),
            session.experiment.name,
            arguments.out.join(&session.experiment.name).display(),
        ));
    }
    let display = Display::new(shell);
    let report = ablate_engine::run(session.id.clone(), &session.expansion, &session.store, &options, &display)?;
    for failure in report.failures() {
        shell.error(&failure.to_string());
    }
    // The tables come last, where the eye is. A run for a part of the graph has no table to show yet, and one that
    // ran nothing has nothing new to show.
    if report.exit_code() == 0 && !shell.json {
        if report.count(|outcome| *outcome == Outcome::Ran) == 0 && session.has_reports {
            shell.status(&format!(
                "nothing to run: `ablate report {}` prints the tables",
                session.experiment.path.display()
            ));
        } else if selection.until.is_empty() && selection.only.is_empty() && session.has_reports {
            let file = session.experiment.path.display();
            let told = Session::open(global, experiment, Need::All).and_then(|session| {
                let folder = arguments.out.join(&session.experiment.name);
                report::print(shell, &session, &folder, Some(&report), None)
            });
            if let Err(error) = told {
                tell(shell, &error.context(format!("the report failed; what ran is kept: try `ablate report {file}`")));
                shell.status(&summary(&report));
                return Ok(WRONG_INPUT);
            }
        }
    }
    shell.status(&summary(&report));
    Ok(report.exit_code())
}

/// The devices of model stages, as the engine names them, and the GPUs that only programs may be given. Where models run
/// on GPUs, programs get the same ones. Without models nobody asks the driver.
fn devices(models: bool, arguments: &RunArgs, settings: &Settings) -> Result<(String, Vec<String>)> {
    let asked = arguments.device.as_deref().unwrap_or(&settings.device);
    let most = settings.pools.get("gpu").copied();
    if let Some(id) =
        arguments.gpus.iter().enumerate().find_map(|(at, id)| arguments.gpus[..at].contains(id).then_some(id))
    {
        bail!("`--gpus` names `{id}` twice");
    }
    let mut devices = if models || asked != "auto" { DeviceChoice::devices(asked)? } else { vec![Device::Cpu] };
    if devices[0] == Device::Cpu {
        let first = || (0..most.unwrap_or(0)).map(|number| number.to_string()).collect();
        let programs = if arguments.gpus.is_empty() { first() } else { arguments.gpus.clone() };
        return Ok((listed(&devices), programs));
    }
    if asked != "auto" {
        if !arguments.gpus.is_empty() {
            bail!("`--gpus` and device `{asked}` both name GPUs: leave one of them out");
        }
    } else if !arguments.gpus.is_empty() {
        let named: Vec<String> = arguments.gpus.iter().map(|id| format!("cuda:{id}")).collect();
        devices = DeviceChoice::devices(&named.join(",")).context("`--gpus`: models know GPUs by their numbers")?;
    } else if let Some(most) = most {
        devices.truncate(most);
    }
    devices.iter().try_for_each(|device| device.check())?;
    Ok((listed(&devices), Vec::new()))
}

/// `12 ran, 40 fresh, 1 failed, 3 skipped in 81.2 s`, and how to go on if something is left to do.
fn summary(report: &RunReport) -> String {
    let counted = [
        (report.count(|outcome| *outcome == Outcome::Ran), "ran"),
        (report.count(|outcome| *outcome == Outcome::Fresh), "fresh"),
        (report.count(|outcome| matches!(outcome, Outcome::Failed(_))), "failed"),
        (report.count(|outcome| matches!(outcome, Outcome::Skipped { .. })), "skipped"),
        (report.count(|outcome| *outcome == Outcome::Interrupted), "interrupted"),
    ];
    let words: Vec<String> =
        counted.iter().filter(|(count, _)| *count > 0).map(|(count, word)| format!("{count} {word}")).collect();
    let words = if words.is_empty() { "nothing to do".to_string() } else { words.join(", ") };
    let mut text = format!("{words} in {:.1} s", report.seconds);
    if report.interrupted {
        text.push_str("\nhelp: the same command goes on from here");
    }
    text
}
