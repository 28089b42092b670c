//! A job: what a child process needs to run one stage of a built-in kind, and the code of that child process.
//!
//! The child holds a lock while it lives and writes events as JSON lines to stdout.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{IsTerminal, Write};
use std::panic::AssertUnwindSafe;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Mutex;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::environment;
use ablate_core::base::{Detached, ErrorChain, Hash, Progress, STOP, Seed, StageEvent, files};
use ablate_core::stage::{InputPath, Registry, StageContext, Summary, find_kind};
use ablate_store::Lock;

/// One stage to run. Only `kind`, `config`, `seed` and the content of the inputs may influence its results.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Job {
    /// The name of the instance, for messages.
    pub instance: String,
    pub kind: String,
    pub config: Value,
    pub inputs: BTreeMap<String, InputPath>,
    pub images: BTreeMap<Hash, PathBuf>,
    /// The checkpoints that inputs build on.
    #[serde(default)]
    pub bases: BTreeMap<Hash, PathBuf>,
    pub out: PathBuf,
    pub scratch: PathBuf,
    pub seed: u64,
    pub threads: usize,
    pub device: String,
    /// Folder of the replies of endpoints.
    pub replies: PathBuf,
    /// Kinds of bad replies that are requested again.
    #[serde(default)]
    pub retry: BTreeSet<String>,
    /// Whether the stage may end while an endpoint still works on its requests.
    #[serde(default)]
    pub detach: bool,
    /// The lock that the child holds while it lives.
    pub lock: PathBuf,
    /// The environment variables that the stage declares. They may hold secrets, so they go to the child through a pipe
    /// and never into a file.
    #[serde(skip)]
    pub variables: BTreeMap<String, String>,
}

/// Runs a job in this process. A panic of the stage becomes an error.
pub fn perform(job: &Job, registry: &Registry, progress: &dyn Progress) -> Result<Summary> {
    let Some(kind) = find_kind(registry, &job.kind) else { bail!("this program has no kind `{}`", job.kind) };
    let stage = kind.build(&job.instance, &job.config)?;
    let context = StageContext {
        inputs: job.inputs.clone(),
        images: job.images.clone(),
        bases: job.bases.clone(),
        out: job.out.clone(),
        scratch: job.scratch.clone(),
        seed: Seed(job.seed),
        threads: job.threads,
        device: job.device.clone(),
        variables: job.variables.clone(),
        replies: job.replies.clone(),
        retry: job.retry.clone(),
        detach: job.detach,
        progress,
    };
    match std::panic::catch_unwind(AssertUnwindSafe(|| stage.run(&context))) {
        Ok(result) => result,
        Err(payload) => {
            let text = payload.downcast_ref::<&str>().map(ToString::to_string);
            let text = text.or_else(|| payload.downcast_ref::<String>().cloned()).unwrap_or_default();
            bail!("the stage panicked: {text}")
        }
    }
}

/// The child process: runs the job in a file and writes its events to stdout.
pub fn run_job(path: &Path, registry: &Registry) -> ExitCode {
    let events = EventWriter(Mutex::new(std::io::stdout()));
    let result = files::read_json::<Job>(path).and_then(|job| {
        let job = Job { variables: read_variables()?, ..job };
        let pause = Duration::from_millis(20);
        let Some(_lock) = Lock::take_within(&job.lock, 500, pause)? else {
            bail!("another process is still working on this stage: it holds `{}`", job.lock.display())
        };
        perform(&job, registry, &events)
    });
    match result {
        Ok(Summary(summary)) => {
            events.emit(StageEvent::Done { summary });
            ExitCode::SUCCESS
        }
        Err(error) => {
            if let Some(Detached(waits_for)) = Detached::find(&error) {
                events.emit(StageEvent::Detached { waits_for: waits_for.clone() });
                return ExitCode::SUCCESS;
            }
            events.emit(StageEvent::Failed(ErrorChain::of(&error)));
            ExitCode::FAILURE
        }
    }
}

/// Reads the variables that the engine writes to stdin; none if stdin is empty or a terminal.
fn read_variables() -> Result<BTreeMap<String, String>> {
    let stdin = std::io::stdin();
    if stdin.is_terminal() {
        return Ok(BTreeMap::new());
    }
    let text = std::io::read_to_string(stdin).context("cannot read the stage's variables")?;
    if text.is_empty() {
        return Ok(BTreeMap::new());
    }
    environment::hide_memory();
    serde_json::from_str(&text).context("the stage's variables are not valid JSON")
}

/// Writes events as lines of JSON.
struct EventWriter(Mutex<std::io::Stdout>);

impl Progress for EventWriter {
    fn stop_requested(&self) -> bool {
        STOP.is_made()
    }

    fn allow_time_to_stop(&self, time: Duration) {
        STOP.allow(time);
    }

    fn emit(&self, event: StageEvent) {
        let line = serde_json::to_string(&event);
        let line = line.unwrap_or_else(|error| panic!("BUG: an event is plain data: {error}")) + "\n";
        let mut out = self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        // An error means that the supervisor is dead. The kernel then kills this process too.
        out.write_all(line.as_bytes()).and_then(|()| out.flush()).ok();
    }
}
