//! Where the tasks of a run are executed: on this machine ([`super::workers`]) or by the jobs of a cluster
//! ([`super::cluster`]).

use super::task::{Task, TaskResult, Uncommitted};
use ablate_core::base::StageEvent;
use ablate_experiment::InstanceId;

/// Brings tasks to an end without blocking its caller. What happens to a task arrives as messages; the last one is
/// [`TaskMessage::Finished`].
pub(super) trait Executor<'a> {
    fn start(&self, task: Task<'a>);
}

/// What executors send to the scheduler.
pub(super) enum TaskMessage {
    /// The state of the task's job in the queue of a cluster.
    Queued(InstanceId, String),
    Started(InstanceId),
    Event(InstanceId, StageEvent),
    /// The outputs are in the store, but the record is not committed yet.
    Uncommitted(Box<Uncommitted>),
    Finished(InstanceId, TaskResult, f64),
    /// A problem that fails no task.
    Warning(String),
}
