//! `run`: runs the stages of experiments that are not fresh, then prints the reports.

use std::collections::BTreeSet;
use std::mem::ManuallyDrop;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::Result;
use clap::Args;

use super::args::{ExperimentArgs, Global, Scope};
use super::progress::ProgressDisplay;
use super::pull::pull_results;
use super::push::{names, render, warn_of_differences};
use super::remote::{RemoteArgs, SharedRemote, open_if_reachable, root, with_progress};
use super::report;
use super::resources::ResourceArgs;
use super::run_limits::LimitArgs;
use super::session::{self, Need, Session};
use super::shell::Shell;
use super::value_parsers::seconds;
use super::{SUCCESS, WRONG_INPUT, print_error, signals};
use ablate_core::base::Hash;
use ablate_engine::links::output_folder;
use ablate_engine::notify::{self, notify};
use ablate_engine::select::matching;
use ablate_engine::{
    self, DETACHED, Failure, Outcome, ProcessLauncher, RunOptions, RunReport, Selection, SharedResults, waits_for_job,
};
use ablate_experiment::{Configuration, InstanceId};
use ablate_remote::{Remote, is_stopped};

#[derive(Debug, Args)]
pub(super) struct RunArgs {
    #[command(flatten)]
    experiment: ExperimentArgs,
    #[command(flatten)]
    scope: Scope,
    /// Run this stage or instance again although it is fresh. Repeatable.
    #[arg(long, value_name = "TARGET")]
    force: Vec<String>,
    #[command(flatten)]
    execution: ExecutionArgs,
}

/// Options of the commands that run stages.
#[expect(clippy::struct_excessive_bools, reason = "independent switches")]
#[derive(Debug, Args)]
pub(super) struct ExecutionArgs {
    #[command(flatten)]
    pub(super) resources: ResourceArgs,
    #[command(flatten)]
    limits: LimitArgs,
    #[command(flatten)]
    remote: RemoteArgs,
    /// After a failure, continue with every stage that does not depend on it. This is the default.
    #[arg(short, long, conflicts_with = "fail_fast")]
    keep_going: bool,
    /// Start no more stages after the first failure.
    #[arg(long)]
    fail_fast: bool,
    /// Retry a failed stage up to N times. Wrong input is not retried.
    #[arg(long, value_name = "N", default_value_t = 0)]
    retries: u32,
    /// Time limit of an attempt in seconds, for stages without their own limit.
    #[arg(long, value_name = "SECONDS", value_parser = seconds)]
    timeout: Option<Duration>,
    /// End stages whose endpoint works on a batch of requests for hours, instead of waiting. The same command continues
    /// them. The exit code is then 75. With a cluster, submit all jobs with their dependencies and end.
    #[arg(long)]
    detach: bool,
    /// Read external inputs again, whatever their time and size.
    #[arg(long)]
    rehash: bool,
    /// Folder for links to the outputs.
    #[arg(long, value_name = "DIR", default_value = "out")]
    out: PathBuf,
}

/// The stages that a command runs.
#[derive(Debug, Default)]
pub(super) struct Choice {
    pub(super) selection: Selection,
    /// Stages or instances that run although they are fresh.
    pub(super) force: Vec<String>,
    /// The bad replies that these request again.
    pub(super) retry: BTreeSet<String>,
}

pub(super) fn run(shell: Shell, global: &Global, arguments: &RunArgs) -> Result<u8> {
    let experiments = arguments.scope.experiments(&arguments.experiment);
    let (selection, force) = (arguments.scope.selection(), arguments.force.clone());
    run_experiments(
        shell,
        global,
        &experiments,
        &Choice { selection, force, ..Choice::default() },
        &arguments.execution,
    )
}

/// Runs experiments one after another and prints their reports.
pub(super) fn run_experiments(
    shell: Shell,
    global: &Global,
    experiments: &[ExperimentArgs],
    choice: &Choice,
    arguments: &ExecutionArgs,
) -> Result<u8> {
    // Programs of stages run as the same user, and this environment may hold secrets.
    ablate_engine::environment::hide_memory();
    let launcher = Arc::new(ProcessLauncher::current()?);
    let interrupt = signals::listen(launcher.clone())?;
    // Check all files first, so that an error in the last file is reported immediately.
    if experiments.len() > 1 {
        let opened = experiments.iter().map(|experiment| Session::open(global, experiment, Need::Instances));
        let wrong: Vec<anyhow::Error> = opened.filter_map(Result::err).collect();
        for error in &wrong {
            print_error(shell, error);
        }
        if !wrong.is_empty() {
            return Ok(WRONG_INPUT);
        }
    }
    if arguments.limits.any() {
        arguments.limits.check(shell, global, experiments, &choice.selection, &choice.force, &arguments.resources)?;
    }
    let configuration = global.configuration()?;
    if let Some(cluster) = arguments.resources.cluster(&configuration)? {
        cluster.queue.version()?;
    }
    let remote = match arguments.remote.address(&configuration)? {
        Some(address) => open_if_reachable(shell, &address, true, interrupt.clone())?,
        None => None,
    };
    let runner = Runner { shell, global, configuration, choice, arguments, launcher, interrupt, remote };
    let mut worst = SUCCESS;
    for experiment in experiments {
        if experiments.len() > 1 {
            shell.status(&format!("\n{}", experiment.file.display()));
        }
        let code = runner.run(experiment)?;
        worst = std::cmp::max_by_key(worst, code, |code| severity(*code));
        if runner.interrupt.load(Ordering::SeqCst) || (severity(code) > severity(DETACHED) && arguments.fail_fast) {
            break;
        }
    }
    Ok(worst)
}

/// The order of exit codes: the worst one of several experiments is that of the command.
fn severity(code: u8) -> (bool, u8) {
    (code != SUCCESS && code != DETACHED, code)
}

/// What the runs of several experiments share.
struct Runner<'a> {
    shell: Shell,
    global: &'a Global,
    configuration: Configuration,
    choice: &'a Choice,
    arguments: &'a ExecutionArgs,
    launcher: Arc<ProcessLauncher>,
    interrupt: Arc<AtomicBool>,
    /// Where results are shared with other machines.
    remote: Option<Arc<Remote>>,
}

impl Runner<'_> {
    /// Runs one experiment and prints its reports.
    fn run(&self, experiment: &ExperimentArgs) -> Result<u8> {
        let Runner { shell, global, configuration, choice, arguments, launcher, interrupt, remote } = self;
        let (shell, selection) = (*shell, &choice.selection);
        // Not dropped: the process ends soon, and dropping ten thousand instances takes time.
        let session = ManuallyDrop::new(Session::open(global, experiment, Need::Instances)?);
        if arguments.rehash {
            session.store.clear_memo();
        }
        let options = RunOptions {
            retries: arguments.retries,
            time: arguments.timeout,
            keep_going: !arguments.fail_fast,
            force: choice.force.clone(),
            retry: choice.retry.clone(),
            detach: arguments.detach,
            selection: selection.clone(),
            interrupt: interrupt.clone(),
            out: Some(arguments.out.clone()),
            noop_cache: Some(session.noop_cache.clone()),
            overrides: experiment.overrides.clone(),
            files: session.experiment.texts.clone(),
            build: session::build(&session.store),
            command: std::env::args().collect(),
            ..RunOptions::new(launcher.clone())
        };
        let options =
            arguments.resources.apply(&session.expansion, &session.experiment.settings, configuration, options)?;
        if let Some(other) = session.store.experiment_sharing_links(&session.id, &arguments.out) {
            shell.status(&format!(
                "warning: `{}` has the same name `{}`: the two experiments overwrite each other's links in `{}`\n\
                 help: change one `name`, or use another `--out`",
                other.display(),
                session.experiment.name,
                arguments.out.join(&session.experiment.name).display(),
            ));
        }
        // Held until the run holds its own lock, so that `gc` removes nothing that was fetched.
        let lock = session.store.lock_shared();
        let shared = remote.as_ref().map(|remote| self.fetch(&session, remote.clone())).transpose()?;
        let (shared, fetched) = shared.unzip();
        let options = RunOptions {
            shared: shared.clone().map(|shared| shared as Arc<dyn SharedResults>),
            fetched: fetched.unwrap_or_default(),
            ..options
        };
        let display = ProgressDisplay::new(shell, &session, &options, interrupt);
        let mut report =
            ablate_engine::run(session.id.clone(), &session.expansion, &session.store, &options, &display)?;
        drop(lock);
        if let Some(shared) = &shared {
            self.send(&session, shared, &report, &experiment.overrides);
        }
        for failures in grouped_failures(&report) {
            shell.error(&failures);
        }
        // The tables are printed last. A run of a part of the graph prints no tables, and neither does a run in which all
        // stages were fresh.
        let (mut code, mut page) = (report.exit_code(), None);
        if code == SUCCESS && !shell.json && session.has_reports {
            let file = session.experiment.path.display();
            if report.count(|outcome| matches!(outcome, Outcome::Ran | Outcome::Fetched)) == 0 {
                shell.status(&format!("nothing to run: `ablate report {file}` prints the tables"));
            } else if selection.is_all() {
                let printed = Session::open(global, experiment, Need::All).and_then(|session| {
                    let folder = output_folder(&arguments.out, &session.experiment.name, &experiment.overrides);
                    let printed = report::print(shell, &session, &folder, &report)?;
                    report.headline = printed.headline();
                    report.write()?;
                    Ok(folder.join("report.html"))
                });
                match printed {
                    Ok(written) => page = Some(written),
                    Err(error) => {
                        let context = format!("the report failed; the results are stored: try `ablate report {file}`");
                        print_error(shell, &error.context(context));
                        code = WRONG_INPUT;
                    }
                }
            }
        }
        if let Some(command) = &session.experiment.settings.notify
            && let Err(error) = notify(command, &report, page.as_deref(), notify::TIME_LIMIT)
        {
            shell.warning(&format!("the command of `settings.notify` failed: {error:#}"));
        }
        shell.status(&summary(&report));
        Ok(code)
    }
}

impl Runner<'_> {
    /// Fetches what the remote has for the run, before it starts: also for stages that could not run on this machine. Returns the
    /// fingerprints of what was fetched.
    fn fetch(&self, session: &Session, remote: Arc<Remote>) -> Result<(Arc<SharedRemote>, BTreeSet<Hash>)> {
        let (shell, choice) = (self.shell, self.choice);
        let shared = SharedRemote::start(shell, remote, session.store.root(), self.interrupt.clone())?;
        let selected = choice.selection.resolve(&session.expansion)?;
        let force: BTreeSet<InstanceId> = matching(&session.expansion, &choice.force)?;
        let fetched = match pull_results(shell, session, &selected, &force, &shared) {
            Ok(pulled) => {
                for warning in pulled.warnings.iter().chain(&pulled.failure_warnings(session)) {
                    shell.warning(warning);
                }
                pulled.fetched
            }
            // The run ends by the same signal.
            Err(error) if is_stopped(&error) => BTreeSet::new(),
            Err(error) => {
                shell.warning(&format!("no results were fetched, and their stages run here: {error:#}"));
                BTreeSet::new()
            }
        };
        Ok((Arc::new(shared), fetched))
    }

    /// Sends the results of the run that the remote does not have, and says what was sent. A failure does not fail the run.
    fn send(&self, session: &Session, shared: &SharedRemote, report: &RunReport, overrides: &[String]) {
        let mut sent = shared.finish();
        let changed = report.count(|outcome| matches!(outcome, Outcome::Ran | Outcome::Fetched));
        if changed == 0 || self.interrupt.load(Ordering::SeqCst) {
            return;
        }
        let remote = shared.remote();
        let send = || -> Result<_> {
            let root = root(session, overrides)?;
            let report = remote.push(&session.store, &root.fingerprints)?;
            remote.put_root(&root)?;
            Ok(report)
        };
        match with_progress(self.shell, remote.meter(), "sending", send) {
            Ok(rest) => {
                // The second pass finds what the first has sent.
                sent.add_rest(rest);
                self.shell.status(&format!("{}: {}", remote.address(), render(&sent)));
                if let Ok(plan) = session.plan() {
                    let ids: Vec<InstanceId> = session.expansion.ids().collect();
                    warn_of_differences(self.shell, &names(session, &plan, &ids, &sent.records_different));
                }
            }
            Err(error) => self.shell.warning(&format!(
                "up to {changed} results of this run were not sent to the remote: {error:#}\nhelp: `ablate push` sends them"
            )),
        }
    }
}

/// The failures as messages. Instances that failed with the same causes have one message with the list of their names.
fn grouped_failures(report: &RunReport) -> Vec<String> {
    let mut groups: Vec<(&Failure, Vec<&str>)> = Vec::new();
    for failure in report.failures() {
        match groups.iter_mut().find(|(first, _)| first.causes == failure.causes) {
            Some((_, others)) => others.push(&failure.instance),
            None => groups.push((failure, Vec::new())),
        }
    }
    let render = |(first, others): (&Failure, Vec<&str>)| {
        if others.is_empty() {
            return first.to_string();
        }
        let count = others.len();
        let names: Vec<String> = others.iter().map(|name| format!("`{name}`")).collect();
        format!("{first}\n  {count} more failed with the same cause: {}", names.join(", "))
    };
    groups.into_iter().map(render).collect()
}

/// The summary line, such as `12 ran, 40 fresh, 1 failed, 3 skipped in 81.2 s`, with a hint if the same
/// command continues.
fn summary(report: &RunReport) -> String {
    let detached = report.count(|outcome| matches!(outcome, Outcome::Detached { .. }));
    // Detached instances of a cluster have a job.
    let has_jobs = report
        .instances
        .iter()
        .any(|one| matches!(&one.outcome, Outcome::Detached { waits_for } if waits_for_job(waits_for)));
    let counted = [
        (report.count(|outcome| *outcome == Outcome::Ran), "ran"),
        (report.count(|outcome| *outcome == Outcome::Fetched), "fetched"),
        (report.count(|outcome| *outcome == Outcome::Fresh), "fresh"),
        (report.count(|outcome| matches!(outcome, Outcome::Failed(_))), "failed"),
        (report.count(|outcome| matches!(outcome, Outcome::Skipped { .. })), "skipped"),
        (report.count(|outcome| *outcome == Outcome::Interrupted), "interrupted"),
        (
            detached,
            match (has_jobs, detached) {
                (true, _) => "in the queue",
                (false, 1) => "waits for its endpoint",
                (false, _) => "wait for their endpoints",
            },
        ),
    ];
    let counted = counted.iter().filter(|(count, _)| *count > 0);
    let words: Vec<String> = counted.map(|(count, word)| format!("{count} {word}")).collect();
    let words = if words.is_empty() { "nothing to do".to_string() } else { words.join(", ") };
    let help = match (report.interrupted, detached) {
        (false, 1..) if has_jobs => {
            "\nhelp: `ablate status` shows the jobs, and `ablate run` without `--detach` follows them"
        }
        (true, _) => "\nhelp: run the same command again to resume",
        (false, 1..) => "\nhelp: run the same command again to continue when the endpoint has answered",
        (false, 0) => "",
    };
    format!("{words} in {:.1} s{help}", report.seconds)
}

#[cfg(test)]
mod tests {
    use super::*;
    use ablate_core::base::ErrorChain;
    use ablate_engine::{InstanceReport, RunPhase};
    use ablate_experiment::InstanceId;
    use ablate_store::Build;
    use expect_test::expect;

    fn report(outcomes: &[Outcome]) -> RunReport {
        let instance = |outcome: &Outcome| InstanceReport {
            id: InstanceId(0),
            name: "a".to_string(),
            outcome: outcome.clone(),
            seconds: 0.0,
            fingerprint: None,
            reasons: Vec::new(),
        };
        RunReport {
            run: String::new(),
            number: None,
            folder: None,
            experiment: "test".into(),
            overrides: Vec::new(),
            selection: Selection::default(),
            force: Vec::new(),
            files: Vec::new(),
            git: None,
            build: Build::default(),
            host: String::new(),
            phase: RunPhase::Running,
            headline: None,
            command: Vec::new(),
            started: String::new(),
            seconds: 2.0,
            interrupted: outcomes.contains(&Outcome::Interrupted),
            ended: true,
            selected: outcomes.len(),
            fresh: 0,
            instances: outcomes.iter().map(instance).collect(),
        }
    }

    #[test]
    fn summary_says_how_to_continue() {
        let waits = || Outcome::Detached { waits_for: "batch 7".to_string() };
        let skipped = Outcome::Skipped { because: "`a` waits for its endpoint".to_string() };
        let reports = [
            report(&[Outcome::Ran, waits(), skipped]),
            report(&[waits(), waits()]),
            report(&[Outcome::Interrupted, waits()]),
            report(&[]),
        ];
        expect![[r#"
            1 ran, 1 skipped, 1 waits for its endpoint in 2.0 s
            help: run the same command again to continue when the endpoint has answered
            2 wait for their endpoints in 2.0 s
            help: run the same command again to continue when the endpoint has answered
            1 interrupted, 1 waits for its endpoint in 2.0 s
            help: run the same command again to resume
            nothing to do in 2.0 s"#]]
        .assert_eq(&reports.each_ref().map(summary).join("\n"));
        assert_eq!(reports.map(|report| report.exit_code()), [75, 75, 130, 0]);
    }

    #[test]
    fn equal_failures_are_one_message() {
        let failed = |instance: &str, cause: &str| {
            let causes = ErrorChain { chain: vec![cause.to_string()], input: true };
            Outcome::Failed(Failure { instance: instance.to_string(), causes, log: None, work: None })
        };
        let outcomes = [failed("a", "no disk"), failed("b", "no data"), failed("c", "no disk"), failed("d", "no disk")];
        expect![[r#"
            `a` failed: no disk
              2 more failed with the same cause: `c`, `d`
            `b` failed: no data"#]]
        .assert_eq(&grouped_failures(&report(&outcomes)).join("\n"));
    }

    #[test]
    fn a_failure_is_worse_than_waiting_for_an_endpoint() {
        let mut codes = [130, DETACHED, 2, SUCCESS, 1];
        codes.sort_by_key(|code| severity(*code));
        assert_eq!(codes, [SUCCESS, DETACHED, 1, 2, 130]);
    }
}
