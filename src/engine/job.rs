//! A job: all that a child process needs to run one stage, and the child's side of it. Knows no store and no plan.
//!
//! The child holds its own lock while it lives and says what happens as JSON lines on stdout.

use std::collections::BTreeMap;
use std::io::{IsTerminal, Write};
use std::panic::AssertUnwindSafe;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Mutex;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::confine;
use ablate_core::base::{ErrorChain, Hash, Progress, Seed, StageEvent, files};
use ablate_core::stage::{InputPath, Registry, StageContext, Summary, find_kind};
use ablate_store::Lock;

/// One stage to run. Everything in it but `kind`, `config`, `seed` and the inputs' content is circumstance.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Job {
    /// Name of the instance, for messages.
    pub instance: String,
    pub kind: String,
    pub config: Value,
    pub inputs: BTreeMap<String, InputPath>,
    pub images: BTreeMap<Hash, PathBuf>,
    pub out: PathBuf,
    pub scratch: PathBuf,
    pub seed: u64,
    pub threads: usize,
    pub device: String,
    /// The lock that the child holds while it lives.
    pub lock: PathBuf,
    /// The variables of the environment that the stage may read. They may hold secrets: they reach the child through a
    /// pipe, and no file.
    #[serde(skip)]
    pub variables: BTreeMap<String, String>,
}

/// Runs a job in this process: parses its table again, runs the stage, turns a panic into an error.
pub fn perform(job: &Job, registry: &Registry, progress: &dyn Progress) -> Result<Summary> {
    let Some(kind) = find_kind(registry, &job.kind) else { bail!("this program knows no kind `{}`", job.kind) };
    let stage = kind.build(&job.instance, &job.config)?;
    let context = StageContext {
        inputs: job.inputs.clone(),
        images: job.images.clone(),
        out: job.out.clone(),
        scratch: job.scratch.clone(),
        seed: Seed(job.seed),
        threads: job.threads,
        device: job.device.clone(),
        variables: job.variables.clone(),
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

/// The child's side: runs the job in a file and reports on stdout. What else is printed goes to the log.
pub fn run_job(path: &Path, registry: &Registry) -> ExitCode {
    let lines = Lines(Mutex::new(std::io::stdout()));
    let result = files::read_json::<Job>(path).and_then(|job| {
        let job = Job { variables: read_variables()?, ..job };
        let pause = Duration::from_millis(20);
        let Some(lock) = Lock::take_within(&job.lock, 500, pause)? else {
            bail!("another process still works on this stage: it holds `{}`", job.lock.display())
        };
        let result = perform(&job, registry, &lines);
        drop(lock);
        result
    });
    match result {
        Ok(Summary(summary)) => {
            lines.emit(StageEvent::Done { summary });
            ExitCode::SUCCESS
        }
        Err(error) => {
            lines.emit(StageEvent::Failed(ErrorChain::of(&error)));
            ExitCode::FAILURE
        }
    }
}

/// The variables that the engine has written on stdin; none where nobody has.
fn read_variables() -> Result<BTreeMap<String, String>> {
    let stdin = std::io::stdin();
    if stdin.is_terminal() {
        return Ok(BTreeMap::new());
    }
    let text = std::io::read_to_string(stdin).context("cannot read the stage's variables")?;
    if text.is_empty() {
        return Ok(BTreeMap::new());
    }
    confine::hide_memory();
    serde_json::from_str(&text).context("the stage's variables are not the JSON they should be")
}

/// Events as lines of JSON.
struct Lines(Mutex<std::io::Stdout>);

impl Progress for Lines {
    fn emit(&self, event: StageEvent) {
        let mut line =
            serde_json::to_string(&event).unwrap_or_else(|error| panic!("BUG: an event is plain data: {error}"));
        line.push('\n');
        let mut out = self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        // A parent that no longer listens is dead, and this process is about to be.
        out.write_all(line.as_bytes()).and_then(|()| out.flush()).ok();
    }
}
