//! The driver: a thread that submits the tasks of a run as jobs, follows them, and reports to the scheduler.
//!
//! It can be killed at any time. Everything that it must not forget is noted in the store before it happens, and whatever
//! it finds there on its next start, it follows further.

mod submit;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::Ordering;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::thread::Scope;
use std::time::{Duration, Instant};

use crate::capped_log::LOG_END;
use crate::cluster::Cluster;
use crate::cluster::job::memory_help;
use crate::cluster::judge::{Observation, Patience, Verdict, judge};
use crate::cluster::live_job::Live;
use crate::cluster::queue::{JobState, QueueEntry, output_path};
use crate::cluster::submission::{JobResult, end_path};
use crate::executor::{Executor, TaskMessage};
use crate::plan::missing_outputs;
use crate::task::{Task, TaskResult};
use ablate_core::base::escape::clean_log;
use ablate_core::base::{ErrorChain, StageEvent, files};
use ablate_store::{ExperimentId, SlimRecord, StageRecord, Store};

/// How long the driver collects ready tasks before it submits them together.
const COLLECT: Duration = Duration::from_millis(300);

/// The shortest and the longest time between two questions to the queue.
const POLL_INTERVALS: [Duration; 2] = [Duration::from_secs(2), Duration::from_secs(15)];

/// How often the files of running jobs are looked at.
const FILES_INTERVAL: Duration = Duration::from_secs(1);

/// The shortest and the longest pause before the queue is asked again to accept jobs.
const FULL_PAUSES: [Duration; 2] = [Duration::from_secs(5), Duration::from_secs(60)];

/// How long a job may take to end after it was cancelled.
const CANCEL_WITHIN: Duration = Duration::from_secs(90);

/// How long a job is missing in the queue before its accounting is asked.
const ASK_ACCOUNTING_AFTER: Duration = Duration::from_secs(5);

/// What stands in the output of a job that was killed because of its memory, where the queue only says that it failed.
const OUT_OF_MEMORY: &[&str] =
    &["exceeded memory limit", "Exceeded job memory limit", "oom-kill event", "oom_kill event"];

/// The lines of a job's output that an error quotes.
const QUOTED_LINES: usize = 10;

/// The handle of the driver's thread, which ends when this value is dropped.
pub(crate) struct ClusterExecutor<'a> {
    tasks: Sender<Task<'a>>,
}

impl<'a> ClusterExecutor<'a> {
    /// Starts the driver of the run called `run`.
    pub(crate) fn new<'scope>(
        scope: &'scope Scope<'scope, '_>,
        store: &'a Store,
        cluster: &'a Cluster,
        experiment: &'a ExperimentId,
        run: String,
        messages: Sender<TaskMessage>,
    ) -> ClusterExecutor<'a>
    where
        'a: 'scope,
    {
        let (tasks, received) = mpsc::channel();
        scope.spawn(move || {
            let mut driver = Driver {
                store,
                cluster,
                experiment,
                run,
                messages,
                waiting: Vec::new(),
                live: Vec::new(),
                next_submission: Instant::now(),
                full_pause: FULL_PAUSES[0],
                next_poll: Instant::now(),
                poll_interval: POLL_INTERVALS[0],
                is_silent: false,
            };
            driver.follow(&received);
        });
        ClusterExecutor { tasks }
    }
}

impl<'a> Executor<'a> for ClusterExecutor<'a> {
    fn start(&self, task: Task<'a>) {
        // The driver ends only after this sender.
        self.tasks.send(task).ok();
    }
}

struct Driver<'a> {
    store: &'a Store,
    cluster: &'a Cluster,
    experiment: &'a ExperimentId,
    run: String,
    messages: Sender<TaskMessage>,
    /// Tasks without a job.
    waiting: Vec<Waiting<'a>>,
    live: Vec<Live<'a>>,
    next_submission: Instant,
    full_pause: Duration,
    next_poll: Instant,
    poll_interval: Duration,
    /// Whether the queue gave no answer, which was said.
    is_silent: bool,
}

/// A task that needs a job.
struct Waiting<'a> {
    task: Task<'a>,
    /// How many jobs of it ended without a result.
    resumes: u32,
    /// Whether a job of an earlier run may be in the queue.
    may_have_job: bool,
}

impl<'a> Driver<'a> {
    fn follow(&mut self, tasks: &Receiver<Task<'a>>) {
        loop {
            match tasks.recv_timeout(FILES_INTERVAL) {
                Ok(task) => {
                    self.take(task);
                    while let Ok(task) = tasks.recv_timeout(COLLECT) {
                        self.take(task);
                    }
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
            self.stop();
            if !self.waiting.is_empty() && Instant::now() >= self.next_submission {
                self.submit();
            }
            let is_due = Instant::now() >= self.next_poll;
            if is_due && !self.live.is_empty() {
                self.poll();
            }
            self.look_at_files(is_due);
        }
    }

    fn take(&mut self, task: Task<'a>) {
        self.waiting.push(Waiting { task, resumes: 0, may_have_job: true });
        self.next_submission = self.next_submission.min(Instant::now());
    }

    fn send(&self, message: TaskMessage) {
        // The scheduler lives until all threads have ended.
        self.messages.send(message).ok();
    }

    fn finish(&self, task: &Task<'a>, result: TaskResult, seconds: f64) {
        self.send(TaskMessage::Finished(task.id, result, seconds));
    }

    /// Ends what was stopped. Jobs are cancelled if their instance was stopped, or if the run cancels its jobs; after Ctrl-C they
    /// go on.
    fn stop(&mut self) {
        let cancels = self.cluster.cancel.load(Ordering::Relaxed);
        let (stopped, waiting) = std::mem::take(&mut self.waiting).into_iter().partition(|one| one.task.stop.is_set());
        self.waiting = waiting;
        let stopped: Vec<Waiting<'a>> = stopped;
        for one in &stopped {
            self.finish(&one.task, TaskResult::Interrupted, 0.0);
        }
        let (left, live): (Vec<Live<'a>>, Vec<Live<'a>>) = std::mem::take(&mut self.live)
            .into_iter()
            .partition(|one| one.task.stop.is_set() && !cancels && !one.task.stop.is_instance_stopped());
        self.live = live;
        for one in &left {
            self.finish(&one.task, TaskResult::Interrupted, one.seconds());
        }
        if !left.is_empty() {
            let (count, queue) = (left.len(), self.cluster.queue.name());
            let jobs = if count == 1 { "1 job stays".to_string() } else { format!("{count} jobs stay") };
            self.send(TaskMessage::Warning(format!(
                "{jobs} in the queue of {queue}\nhelp: the same command follows them again, and `ablate stop latest` cancels them"
            )));
        }
        let mut ids = Vec::new();
        for one in self.live.iter_mut().filter(|one| one.task.stop.is_set() && one.cancelled.is_none()) {
            // A job whose submission was not answered has an id when the queue lists it.
            if let Some(id) = &one.note.id {
                one.cancelled = Some(Instant::now());
                ids.push(id.clone());
            }
        }
        if !ids.is_empty() {
            if let Err(error) = self.cluster.queue.cancel(&ids) {
                self.send(TaskMessage::Warning(format!("{} jobs may not be cancelled: {error:#}", ids.len())));
            }
            self.poll_soon();
        }
    }

    fn poll_soon(&mut self) {
        self.poll_interval = POLL_INTERVALS[0];
        self.next_poll = self.next_poll.min(Instant::now() + self.poll_interval);
    }

    /// Says once that the queue does not answer.
    fn silent(&mut self, error: &anyhow::Error) {
        if !std::mem::replace(&mut self.is_silent, true) {
            let queue = self.cluster.queue.name();
            self.send(TaskMessage::Warning(format!("{queue} does not answer, and is asked again: {error:#}")));
        }
    }

    /// Asks the queue for the state of all jobs.
    fn poll(&mut self) {
        let names: BTreeSet<String> = self.live.iter().map(|one| one.note.name.clone()).collect();
        let entries = match self.cluster.queue.entries(&names.into_iter().collect::<Vec<_>>()) {
            Ok(entries) => entries,
            Err(error) => {
                self.next_poll = Instant::now() + self.poll_interval;
                return self.silent(&error);
            }
        };
        if std::mem::take(&mut self.is_silent) {
            self.send(TaskMessage::Warning(format!("{} answers again", self.cluster.queue.name())));
        }
        let mut entries: BTreeMap<(String, usize), QueueEntry> =
            entries.into_iter().map(|entry| ((entry.name.clone(), entry.index), entry)).collect();
        let (mut changed, mut notes, mut messages) = (false, Vec::new(), Vec::new());
        for one in &mut self.live {
            let entry = entries.remove(&(one.note.name.clone(), one.note.index));
            if let Some(entry) = &entry
                && one.note.id.as_ref() != Some(&entry.id)
            {
                one.note.id = Some(entry.id.clone());
                notes.push((one.key, one.note.clone()));
            }
            let state = entry.map(|entry| entry.state);
            changed |= one.state != state;
            one.state = state;
            match &one.state {
                Some(JobState::Pending { .. } | JobState::Running { .. }) => {
                    one.ended = None;
                    one.asked_accounting = false;
                }
                Some(JobState::Ended(_)) | None => drop(one.ended.get_or_insert_with(Instant::now)),
            }
            if one.state.is_none()
                && !one.asked_accounting
                && one.ended.is_some_and(|since| since.elapsed() >= ASK_ACCOUNTING_AFTER)
                && let Some(id) = &one.note.id
            {
                one.asked_accounting = true;
                one.past_end = self.cluster.queue.past_end(id);
            }
            let text = one.describe();
            if one.started.is_none() && !text.is_empty() && text != one.shown {
                one.shown.clone_from(&text);
                messages.push(TaskMessage::Queued(one.task.id, text));
            }
        }
        for message in messages {
            self.send(message);
        }
        if let Err(error) = self.store.note_jobs(&notes) {
            self.send(TaskMessage::Warning(format!("the ids of {} jobs could not be noted: {error:#}", notes.len())));
        }
        self.poll_interval =
            if changed { POLL_INTERVALS[0] } else { (self.poll_interval * 3 / 2).min(POLL_INTERVALS[1]) };
        self.next_poll = Instant::now() + self.poll_interval;
    }

    /// Reads what jobs wrote, and ends those that have ended. With `all`, jobs that do not seem to run are looked at, too.
    fn look_at_files(&mut self, all: bool) {
        let patience =
            Patience { files_within: self.cluster.table.files_within, lost_after: self.cluster.table.lost_after };
        let (mut notes, mut again) = (Vec::new(), Vec::new());
        for mut one in std::mem::take(&mut self.live) {
            if !all && one.ended.is_none() && !matches!(one.state, Some(JobState::Running { .. })) {
                self.live.push(one);
                continue;
            }
            for message in one.read_events() {
                self.send(message);
            }
            let verdict = self.judge(&mut one, patience);
            if verdict == Verdict::Wait && one.cancelled.is_none_or(|since| since.elapsed() < CANCEL_WITHIN) {
                self.live.push(one);
                continue;
            }
            one.note.ended = true;
            notes.push((one.key, one.note.clone()));
            again.extend(self.conclude(one, verdict));
        }
        if let Err(error) = self.store.note_jobs(&notes) {
            self.send(TaskMessage::Warning(format!("the end of {} jobs could not be noted: {error:#}", notes.len())));
        }
        if !again.is_empty() {
            self.waiting.extend(again);
            self.next_submission = self.next_submission.min(Instant::now());
        }
    }

    fn judge(&self, one: &mut Live<'a>, patience: Patience) -> Verdict {
        let result: Option<JobResult> = files::read_json(&end_path(&one.folder, one.note.index)).ok();
        if result == Some(JobResult::Done) {
            one.ended.get_or_insert_with(Instant::now);
        }
        let past = one.past_end.map(JobState::Ended);
        // Reading the record is not free, so it is done when the job looks ended.
        let is_committed = one.ended.is_some()
            && (!one.task.forced || result == Some(JobResult::Done))
            && self.record(&one.task).is_some();
        judge(
            &Observation {
                state: one.state.as_ref().or(past.as_ref()),
                result: result.as_ref(),
                is_committed,
                ended_for: one.ended.map(|since| since.elapsed()).unwrap_or_default(),
            },
            patience,
        )
    }

    /// The record of a task whose outputs are all in the store.
    fn record(&self, task: &Task<'a>) -> Option<StageRecord> {
        self.slim_record(task).and_then(|slim| self.store.record(slim.fingerprint))
    }

    /// As [`Driver::record`], without manifest and summary.
    fn slim_record(&self, task: &Task<'a>) -> Option<SlimRecord> {
        let slim = self.store.slim_record(task.identity.fingerprint)?;
        let missing = missing_outputs(task.instance, &slim, self.store);
        missing.is_ok_and(|missing| missing.is_empty()).then_some(slim)
    }

    /// Reports the end of a job, or returns its task for a new job.
    fn conclude(&self, mut one: Live<'a>, verdict: Verdict) -> Option<Waiting<'a>> {
        let id = one.note.id.clone().unwrap_or_else(|| one.note.name.clone());
        let failed = |cause: String| TaskResult::Failed(ErrorChain::system(cause));
        let result = match verdict {
            Verdict::Committed => match self.record(&one.task) {
                Some(record) => {
                    let seconds = record.provenance.seconds;
                    self.finish(&one.task, TaskResult::Ran(Box::new(record)), seconds);
                    return None;
                }
                None => failed(format!("the result of its job {id} was removed from the store")),
            },
            _ if one.task.stop.is_set() => TaskResult::Interrupted,
            // The job of a detached run read the experiment's file as it was then, and its inputs may have changed.
            _ if one.key != one.task.identity.fingerprint => {
                return Some(Waiting { task: one.task, resumes: 0, may_have_job: false });
            }
            Verdict::Failed(causes) => TaskResult::Failed(causes),
            Verdict::Wait | Verdict::Cancelled => {
                let text = format!("its job {id} was cancelled");
                self.send(TaskMessage::Event(one.task.id, StageEvent::Choice { text }));
                TaskResult::Interrupted
            }
            Verdict::OutOfMemory => failed(format!("its job {id} ran out of memory; {}", memory_help(one.memory))),
            Verdict::DiedEarly => {
                let output = files::read_text(&output_path(&one.folder, one.note.index)).unwrap_or_default();
                let ran_out = OUT_OF_MEMORY.iter().any(|words| output.contains(words));
                let mut chain = vec![if ran_out {
                    format!("its job {id} ran out of memory; {}", memory_help(one.memory))
                } else {
                    format!("its job {id} ended before its stage did")
                }];
                let lines: Vec<&str> = output.lines().collect();
                let end = lines[lines.len().saturating_sub(QUOTED_LINES)..].join("\n");
                if !end.is_empty() {
                    chain.push(format!("{LOG_END}{}", clean_log(&end)));
                }
                TaskResult::Failed(ErrorChain { chain, input: false })
            }
            Verdict::Resume(why) if one.note.resumes < self.cluster.table.resumes => {
                let resumes = one.note.resumes + 1;
                let text =
                    format!("its job {id} {why}: it is submitted again ({resumes} of {})", self.cluster.table.resumes);
                self.send(TaskMessage::Event(one.task.id, StageEvent::Choice { text }));
                one.task.forced &= self.store.slim_record(one.task.identity.fingerprint).is_some();
                return Some(Waiting { task: one.task, resumes, may_have_job: false });
            }
            Verdict::Resume(why) => failed(format!(
                "its job {id} {why} after {} resumes, and `executor.slurm.resumes` allows no more: the same command continues its work",
                one.note.resumes
            )),
        };
        self.finish(&one.task, result, one.seconds());
        None
    }
}
