//! What runs a job: the contract, and the executor that uses this very process. Knows no plan and no store.

use std::path::Path;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::job::{self, Job};
use super::room::Room;
use ablate_core::base::{ErrorChain, Progress, StageEvent};
use ablate_core::stage::{Registry, Summary};

/// How the execution of a job ended.
#[derive(Clone, Debug, PartialEq)]
pub enum Ended {
    Done(Summary),
    Failed(ErrorChain),
    /// Stopped because it was asked to.
    Interrupted,
}

/// What is to be executed.
#[derive(Debug)]
pub enum Work {
    /// A stage of a kind of our own.
    Own(Box<Job>),
    /// A program of the user's.
    Program(Room),
}

impl Work {
    /// Where its outputs will be, each under its name.
    pub fn out(&self) -> &Path {
        match self {
            Work::Own(job) => &job.out,
            Work::Program(room) => &room.out,
        }
    }
}

/// Where work is done and watched.
pub struct Desk<'a> {
    /// Where a job is written for its child.
    pub job: &'a Path,
    /// Takes the child's words for people.
    pub log: &'a Path,
    /// Set when the run is to stop.
    pub stop: &'a AtomicBool,
    pub events: &'a (dyn Fn(StageEvent) + Sync),
    /// How long it may take.
    pub time: Option<Duration>,
}

/// Does one piece of work to its end. Called from many threads.
pub trait Executor: Send + Sync {
    fn execute(&self, work: &Work, desk: &Desk) -> Ended;
}

/// Runs stages on a thread of this process: for tests and for library users who bring their own kinds.
/// A stage that aborts takes the process with it, none can be stopped, and time limits do not hold.
pub struct InProcess {
    registry: Arc<Registry>,
}

impl InProcess {
    pub fn new(registry: &Registry) -> InProcess {
        InProcess { registry: registry.into() }
    }
}

impl Executor for InProcess {
    fn execute(&self, work: &Work, desk: &Desk) -> Ended {
        let Work::Own(job) = work else {
            return Ended::Failed(ErrorChain::system("programs are run by the process executor only"));
        };
        match job::perform(job, &self.registry, &Relay(desk.events, Mutex::new(()))) {
            Ok(summary) => Ended::Done(summary),
            Err(error) => Ended::Failed(ErrorChain::of(&error)),
        }
    }
}

/// Hands events on, one at a time.
struct Relay<'a>(&'a (dyn Fn(StageEvent) + Sync), Mutex<()>);

impl Progress for Relay<'_> {
    fn emit(&self, event: StageEvent) {
        let _one = self.1.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        (self.0)(event);
    }
}
