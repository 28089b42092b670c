//! What the driver does with a job, from what the queue, the store and the job itself say about it.
//!
//! The record in the store is the truth. The queue may forget a job, repeat it, or not answer; a file of a job may appear late.

use std::time::Duration;

use super::queue::{JobEnd, JobState};
use super::submission::JobResult;
use ablate_core::base::ErrorChain;

/// What is known about a job. The queue has answered.
#[derive(Debug)]
pub(super) struct Observation<'a> {
    /// `None` if the queue does not know the job.
    pub(super) state: Option<&'a JobState>,
    /// What the job itself said about its end.
    pub(super) result: Option<&'a JobResult>,
    /// Whether the store has a record that this job can have written.
    pub(super) is_committed: bool,
    /// For how long the job has looked ended.
    pub(super) ended_for: Duration,
}

/// How long to wait for what may still appear.
#[derive(Clone, Copy, Debug)]
pub(super) struct Patience {
    pub(super) files_within: Duration,
    pub(super) lost_after: Duration,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Wait,
    /// The result is in the store.
    Committed,
    Failed(ErrorChain),
    /// A person or the cluster cancelled it.
    Cancelled,
    /// It ended without a result and without a fault of the stage: why. A new job continues its work.
    Resume(&'static str),
    /// It needed more memory than it asked for.
    OutOfMemory,
    /// The job ended before the stage could say anything.
    DiedEarly,
}

pub(super) fn judge(seen: &Observation<'_>, patience: Patience) -> Verdict {
    match seen.result {
        Some(JobResult::Failed(causes)) => return Verdict::Failed(causes.clone()),
        Some(JobResult::Done) if seen.is_committed => return Verdict::Committed,
        Some(JobResult::Done) if seen.ended_for < patience.files_within => return Verdict::Wait,
        Some(JobResult::Done) => {
            let seconds = patience.files_within.as_secs_f64();
            return Verdict::Failed(ErrorChain::system(format!(
                "its job has ended well, but its record did not appear in the store within {seconds} s: do all nodes see the \
                 store's folder?"
            )));
        }
        Some(JobResult::Interrupted { .. }) | None => {}
    }
    let end = match seen.state {
        // A job that was put into the queue again also leaves the result of its last attempt.
        Some(JobState::Pending { .. } | JobState::Running { .. }) => return Verdict::Wait,
        Some(JobState::Ended(end)) => Some(*end),
        None => None,
    };
    if seen.is_committed {
        return Verdict::Committed;
    }
    let time_limit = seen.result == Some(&JobResult::Interrupted { time_limit: true });
    match end {
        Some(JobEnd::Cancelled) => Verdict::Cancelled,
        Some(JobEnd::OutOfMemory) => Verdict::OutOfMemory,
        _ if time_limit => Verdict::Resume("reached its time limit"),
        Some(JobEnd::TimeLimit) => Verdict::Resume("reached its time limit"),
        Some(JobEnd::Preempted) => Verdict::Resume("was preempted"),
        Some(JobEnd::NodeFailed) => Verdict::Resume("lost its node"),
        Some(JobEnd::Completed | JobEnd::Failed) if seen.result.is_some() => Verdict::Cancelled,
        Some(JobEnd::Completed | JobEnd::Failed) if seen.ended_for < patience.files_within => Verdict::Wait,
        Some(JobEnd::Completed | JobEnd::Failed) => Verdict::DiedEarly,
        None if seen.ended_for < patience.lost_after => Verdict::Wait,
        None => Verdict::Resume("is not in the queue any more and left no result"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: Patience = Patience { files_within: Duration::from_secs(60), lost_after: Duration::from_secs(120) };

    fn verdict(state: Option<&JobState>, result: Option<&JobResult>, is_committed: bool, seconds: u64) -> Verdict {
        judge(&Observation { state, result, is_committed, ended_for: Duration::from_secs(seconds) }, PATIENCE)
    }

    fn running() -> JobState {
        JobState::Running { nodes: "n1".to_string() }
    }

    fn pending() -> JobState {
        JobState::Pending { why: "Priority".to_string(), start: None }
    }

    fn ended(end: JobEnd) -> JobState {
        JobState::Ended(end)
    }

    const INTERRUPTED: JobResult = JobResult::Interrupted { time_limit: false };
    const TIME_LIMIT: JobResult = JobResult::Interrupted { time_limit: true };

    #[test]
    fn the_record_is_the_truth() {
        assert_eq!(verdict(Some(&running()), Some(&JobResult::Done), true, 0), Verdict::Committed);
        assert_eq!(verdict(None, None, true, 0), Verdict::Committed, "the files of the job are not needed");
        assert_eq!(verdict(Some(&ended(JobEnd::Failed)), None, true, 0), Verdict::Committed);
        assert_eq!(verdict(None, Some(&JobResult::Done), false, 59), Verdict::Wait, "a slow file system");
        assert!(matches!(verdict(None, Some(&JobResult::Done), false, 60), Verdict::Failed(_)));
        assert_eq!(
            verdict(Some(&running()), None, true, 0),
            Verdict::Wait,
            "another job was faster, and this one still runs"
        );
    }

    #[test]
    fn a_job_in_the_queue_is_waited_for() {
        assert_eq!(verdict(Some(&running()), None, false, 0), Verdict::Wait);
        assert_eq!(
            verdict(Some(&pending()), Some(&INTERRUPTED), false, 999),
            Verdict::Wait,
            "preempted and queued again"
        );
    }

    #[test]
    fn work_without_a_fault_is_resumed() {
        let resumed = |state: Option<JobState>, result: Option<&JobResult>| {
            matches!(verdict(state.as_ref(), result, false, 0), Verdict::Resume(_))
        };
        assert!(resumed(Some(ended(JobEnd::Failed)), Some(&TIME_LIMIT)), "it saved its state in time");
        assert!(resumed(None, Some(&TIME_LIMIT)), "and the queue has forgotten it");
        for end in [JobEnd::TimeLimit, JobEnd::Preempted, JobEnd::NodeFailed] {
            assert!(resumed(Some(ended(end)), None), "{end:?}");
        }
        assert_eq!(verdict(None, None, false, 119), Verdict::Wait);
        assert!(matches!(verdict(None, None, false, 120), Verdict::Resume(_)));
    }

    #[test]
    fn what_needs_a_person_ends() {
        assert_eq!(verdict(Some(&ended(JobEnd::Cancelled)), None, false, 0), Verdict::Cancelled);
        assert_eq!(verdict(Some(&ended(JobEnd::Failed)), Some(&INTERRUPTED), false, 0), Verdict::Cancelled);
        assert_eq!(verdict(Some(&ended(JobEnd::OutOfMemory)), None, false, 0), Verdict::OutOfMemory);
        assert_eq!(verdict(Some(&ended(JobEnd::Failed)), None, false, 59), Verdict::Wait);
        assert_eq!(verdict(Some(&ended(JobEnd::Failed)), None, false, 60), Verdict::DiedEarly);
    }
}
