//! The [`Launcher`] trait, and the launcher that runs stages in this process.

use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::job::{self, Job};
use super::sandbox::Sandbox;
use super::stop::StopFlag;
use ablate_core::base::{Detached, ErrorChain, Progress, StageEvent};
use ablate_core::stage::{Registry, Summary};

/// How an execution ended.
#[derive(Clone, Debug, PartialEq)]
pub enum ExecutionResult {
    Done(Summary),
    Failed(ErrorChain),
    /// Stopped on request.
    Interrupted,
    /// The stage ended although an endpoint still works on its requests: on what.
    Detached(String),
}

/// What to execute.
#[derive(Debug)]
pub enum Work {
    /// A stage of a built-in kind.
    BuiltIn(Box<Job>),
    /// A program of the user.
    Program(Sandbox),
}

impl Work {
    /// The folder where the outputs appear, each under its name.
    pub fn out(&self) -> &Path {
        match self {
            Work::BuiltIn(job) => &job.out,
            Work::Program(sandbox) => &sandbox.out,
        }
    }
}

pub struct ExecutionContext<'a> {
    /// The file that passes the job to the child process.
    pub job: &'a Path,
    /// Receives the output of the child process.
    pub log: &'a Path,
    /// Set to stop the execution.
    pub stop: &'a StopFlag,
    pub events: &'a (dyn Fn(StageEvent) + Sync),
    /// Time limit.
    pub time: Option<Duration>,
}

/// Executes work and returns when it has ended. Called on several threads at the same time.
pub trait Launcher: Send + Sync {
    fn execute(&self, work: &Work, context: &ExecutionContext) -> ExecutionResult;
}

/// Runs stages on threads of this process, for tests and for library users with their own kinds. A stage that aborts
/// ends the process. Stages cannot be stopped, and time limits have no effect.
pub struct InProcess {
    registry: Arc<Registry>,
}

impl InProcess {
    pub fn new(registry: &Registry) -> InProcess {
        InProcess { registry: registry.into() }
    }
}

impl Launcher for InProcess {
    fn execute(&self, work: &Work, context: &ExecutionContext) -> ExecutionResult {
        let Work::BuiltIn(job) = work else {
            return ExecutionResult::Failed(ErrorChain::system("only the process launcher runs programs"));
        };
        match job::perform(job, &self.registry, &SerialEvents(context.events, Mutex::new(()))) {
            Ok(summary) => ExecutionResult::Done(summary),
            Err(error) => match Detached::find(&error) {
                Some(Detached(waits_for)) => ExecutionResult::Detached(waits_for.clone()),
                None => ExecutionResult::Failed(ErrorChain::of(&error)),
            },
        }
    }
}

/// Passes events on, one at a time.
struct SerialEvents<'a>(&'a (dyn Fn(StageEvent) + Sync), Mutex<()>);

impl Progress for SerialEvents<'_> {
    fn emit(&self, event: StageEvent) {
        let _guard = self.1.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        (self.0)(event);
    }
}
