//! The launcher that runs each stage in its own process, so that a crash, a panic or an out-of-memory kill fails only
//! that stage.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use super::capped_log::AttemptLog;
use super::environment;
use super::launcher::{ExecutionContext, ExecutionResult, Launcher, Work};
use super::supervisor::{self, ExitReason, SpawnRequest, SpawnResult, TERMINATE};
use super::supervisor_pool::{POLL_INTERVAL, ReadResult, Supervisor, SupervisorPool};
use ablate_core::base::{ErrorChain, StageEvent, files};
use ablate_core::stage::Summary;

/// The hidden subcommand that runs one job.
pub const SUBCOMMAND: &str = "stage-job";

/// How much longer a supervisor may take to end its program than the delay after which it kills it.
const SUPERVISOR_DELAY: Duration = Duration::from_secs(5);

/// The longest line of events in bytes. Events of built-in kinds are much shorter.
const MAX_LINE: usize = 256 << 20;

/// What a cause says of a process that may have been killed because memory ran out.
pub(super) const MEMORY: &str = ", as the kernel does when memory runs out";

/// Runs jobs as child processes of the same executable, and the user's programs directly. Each of them runs under a
/// [`supervisor`], which is reused for the next stage.
#[derive(Debug)]
pub struct ProcessLauncher {
    program: PathBuf,
    job_arguments: Vec<String>,
    supervisors: Arc<SupervisorPool>,
}

impl ProcessLauncher {
    /// Uses the current executable with its hidden subcommands. From now on this process kills every child that is not a
    /// supervisor, so nothing else in it may start children.
    pub fn current() -> Result<ProcessLauncher> {
        let program = std::env::current_exe().context("cannot find the path of the running program")?;
        let subcommand = |name: &str| vec![name.to_string()];
        let supervisors = SupervisorPool::new(program.clone(), subcommand(supervisor::SUBCOMMAND), true);
        Ok(ProcessLauncher { program, job_arguments: subcommand(SUBCOMMAND), supervisors })
    }

    /// Uses `program`. With the arguments `job` and the path of a job it must run that job; with the arguments
    /// `supervisor` it must be a supervisor.
    pub fn new(program: PathBuf, job: Vec<String>, supervisor: Vec<String>) -> ProcessLauncher {
        let supervisors = SupervisorPool::new(program.clone(), supervisor, false);
        ProcessLauncher { program, job_arguments: job, supervisors }
    }

    fn try_execute(&self, work: &Work, context: &ExecutionContext) -> Result<ExecutionResult> {
        let request = self.request(work, context)?;
        let mut line = serde_json::to_vec(&request).context("the stage has a path that is not UTF-8")?;
        line.push(b'\n');
        let log = AttemptLog::from_end_of(context.log);
        let mut supervisor = self.supervisors.submit(&line)?;
        let result = follow(&mut supervisor, context, request.events, &log);
        if supervisor.is_usable {
            self.supervisors.put_back(supervisor);
        }
        Ok(result)
    }

    fn request(&self, work: &Work, context: &ExecutionContext) -> Result<SpawnRequest> {
        let (log, time) = (context.log.to_path_buf(), context.time);
        let job = match work {
            Work::BuiltIn(job) => job,
            Work::Program(sandbox) => {
                let (argv, env, dir) = (sandbox.argv.clone(), sandbox.env.clone(), sandbox.dir.clone());
                return Ok(SpawnRequest { argv, env, input: None, dir, log, time, events: false });
            }
        };
        let text = serde_json::to_vec(job).context("the stage has a path that is not UTF-8")?;
        files::write_unsynced(context.job, &text)?;
        let [program, path] = [self.program.as_path(), context.job].map(|path| path.display().to_string());
        let argv = [program].into_iter().chain(self.job_arguments.iter().cloned()).chain([path]).collect();
        let env = environment::for_job(job.threads);
        let input = (!job.variables.is_empty()).then(|| serde_json::to_string(&job.variables)).transpose()?;
        let dir = std::env::current_dir().context("the working directory does not exist any more")?;
        Ok(SpawnRequest { argv, env, input, dir, log, time, events: true })
    }

    /// Pauses all running programs while `act` runs.
    pub fn while_paused(&self, act: &dyn Fn()) {
        let guard = self.supervisors.pause();
        act();
        SupervisorPool::resume(&guard);
    }
}

impl Drop for ProcessLauncher {
    fn drop(&mut self) {
        self.supervisors.end_idle();
    }
}

impl Launcher for ProcessLauncher {
    fn execute(&self, work: &Work, context: &ExecutionContext) -> ExecutionResult {
        self.try_execute(work, context).unwrap_or_else(|error| ExecutionResult::Failed(ErrorChain::of(&error)))
    }
}

/// Passes events on until the program has ended. Ends the program if the run is to stop.
fn follow(supervisor: &mut Supervisor, context: &ExecutionContext, events: bool, log: &AttemptLog) -> ExecutionResult {
    let mut result = None;
    let mut line = Vec::new();
    // Elapsed time without the time in which this process itself was stopped.
    let (mut last, mut elapsed) = (Instant::now(), Duration::ZERO);
    let mut stop_sent: Option<Duration> = None;
    let timeout = supervisor::kill_delay(events) + SUPERVISOR_DELAY;
    loop {
        elapsed += last.elapsed().min(4 * POLL_INTERVAL);
        last = Instant::now();
        if stop_sent.is_none() && context.stop.is_set() {
            stop_sent = Some(elapsed);
            supervisor.is_usable = supervisor.send(format!("{TERMINATE}\n").as_bytes()).is_ok();
        }
        // A supervisor that does not answer is killed. The kernel then kills its program.
        supervisor.is_usable &= stop_sent.is_none_or(|sent| elapsed < sent.saturating_add(timeout));
        if !supervisor.is_usable {
            return ExecutionResult::Interrupted;
        }
        if context.time.is_some_and(|time| elapsed > time.saturating_add(timeout)) {
            supervisor.is_usable = false;
            return classify_exit(None, &ExitReason::TimedOut, context, events, log);
        }
        let read = supervisor.read_line(&mut line, MAX_LINE);
        match read {
            ReadResult::Nothing if supervisor.continue_if_stopped() => continue,
            ReadResult::Bytes { complete: false } => continue,
            ReadResult::Bytes { complete: true } => {}
            ReadResult::Nothing | ReadResult::Closed => {
                supervisor.is_usable = false;
                let cause = match read {
                    ReadResult::Closed => "the supervisor process of the stage was killed",
                    _ => "its program keeps stopping the supervisor process of the stage",
                };
                let causes = log.append_end_to(ErrorChain::system(cause));
                return match stop_sent {
                    Some(_) => ExecutionResult::Interrupted,
                    None => ExecutionResult::Failed(causes),
                };
            }
        }
        if line.len() >= MAX_LINE {
            let cause = format!("the stage wrote a line of more than {} MiB to stdout", MAX_LINE >> 20);
            result = Some(ExecutionResult::Failed(ErrorChain::system(cause)));
        } else if let Ok(event) = serde_json::from_slice(&line) {
            match event {
                StageEvent::Done { summary } => result = result.or(Some(ExecutionResult::Done(Summary(summary)))),
                StageEvent::Detached { waits_for } => result = Some(ExecutionResult::Detached(waits_for)),
                StageEvent::Failed(causes) => result = Some(ExecutionResult::Failed(causes)),
                event => (context.events)(event),
            }
        } else if let Ok(SpawnResult { ended }) = serde_json::from_slice(&line) {
            return classify_exit(result, &ended, context, events, log);
        }
        line.clear();
    }
}

/// The result of a stage, from its last event and from the end of its process.
fn classify_exit(
    result: Option<ExecutionResult>,
    reason: &ExitReason,
    context: &ExecutionContext,
    events: bool,
    log: &AttemptLog,
) -> ExecutionResult {
    let failed = |cause: String| ExecutionResult::Failed(log.append_end_to(ErrorChain::system(cause)));
    match (result, reason) {
        (_, ExitReason::Terminated) => ExecutionResult::Interrupted,
        (_, ExitReason::TimedOut) => {
            let limit = context.time.unwrap_or_default().as_secs_f64();
            failed(format!("it took longer than its limit of {limit} s"))
        }
        (Some(failed @ ExecutionResult::Failed(_)), _) => failed,
        (Some(done), ExitReason::Exited { code: 0 }) => done,
        (None, ExitReason::Exited { code: 0 }) if !events => ExecutionResult::Done(Summary::default()),
        (_, ExitReason::Exited { code }) if events => {
            failed(format!("the child process ended with exit code {code} and without a result"))
        }
        (_, ExitReason::Exited { code }) => failed(format!("its program ended with exit code {code}")),
        (_, ExitReason::Killed { signal }) => {
            let memory = if *signal == 9 { MEMORY } else { "" };
            failed(format!("the child process was killed by signal {signal}{memory}"))
        }
        (_, ExitReason::NotStarted { cause }) => ExecutionResult::Failed(ErrorChain::system(cause.clone())),
    }
}
