//! The driver: a thread that submits the tasks of a run as jobs, follows them, and reports to the scheduler.
//!
//! It can be killed at any time. Everything that it must not forget is noted in the store before it happens, and whatever
//! it finds there on its next start, it follows further.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::thread::Scope;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use super::Cluster;
use super::detach::detached_key;
use super::job::{declared_variables, memory_help};
use super::judge::{Observation, Patience, Verdict, judge};
use super::queue::{JobEnd, JobState, QueueEntry, Submission, Submitted, output_path};
use super::submission::{JobEvent, JobResult, TaskFile, TaskWork, end_path, events_path, task_path};
use crate::capped_log::LOG_END;
use crate::executor::{Executor, TaskMessage};
use crate::plan::missing_outputs;
use crate::run_folder::new_lines;
use crate::task::{Task, TaskResult};
use ablate_core::base::escape::clean_log;
use ablate_core::base::{ErrorChain, Hash, StageEvent, files};
use ablate_experiment::{Instance, JobResources, PortableInstance};
use ablate_store::{ExperimentId, JobNote, StageRecord, Store};

/// How long the driver collects ready tasks before it submits them together.
const COLLECT: Duration = Duration::from_millis(300);

/// The shortest and the longest time between two questions to the queue.
const POLL_INTERVALS: [Duration; 2] = [Duration::from_secs(2), Duration::from_secs(15)];

/// How often the files of running jobs are looked at.
const FILES_INTERVAL: Duration = Duration::from_secs(1);

/// The shortest and the longest pause before the queue is asked again to accept jobs.
const FULL_PAUSES: [Duration; 2] = [Duration::from_secs(5), Duration::from_secs(60)];

/// The most jobs of one submission: Slurm's default `MaxArraySize` is 1001.
pub(super) const MAX_ARRAY: usize = 1000;

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

/// A task with a job.
struct Live<'a> {
    task: Task<'a>,
    /// The key of the note in the store: the fingerprint, or that of an instance in a detached run.
    key: Hash,
    note: JobNote,
    folder: PathBuf,
    memory: Option<u64>,
    state: Option<JobState>,
    /// What the accounting says about a job that the queue does not know.
    past_end: Option<JobEnd>,
    asked_accounting: bool,
    /// Since when it has looked ended.
    ended: Option<Instant>,
    cancelled: Option<Instant>,
    /// Bytes of its events that were read.
    events_read: u64,
    /// When the driver saw that its stage has started.
    started: Option<Instant>,
    /// The last text about its state.
    told: String,
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
        stopped.iter().for_each(|one| self.finish(&one.task, TaskResult::Interrupted, 0.0));
        let (left, live): (Vec<Live<'a>>, Vec<Live<'a>>) = std::mem::take(&mut self.live)
            .into_iter()
            .partition(|one| one.task.stop.is_set() && !cancels && !one.task.stop.is_instance_stopped());
        self.live = live;
        for one in &left {
            let seconds = one.started.map_or(0.0, |started| started.elapsed().as_secs_f64());
            self.finish(&one.task, TaskResult::Interrupted, seconds);
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
            one.cancelled = Some(Instant::now());
            ids.extend(one.note.id.clone());
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

    /// Follows jobs of earlier runs, and submits the tasks that have none.
    fn submit(&mut self) {
        let lock = match self.store.lock_submission() {
            Ok(lock) => lock,
            Err(error) => return self.fail_waiting(&error),
        };
        if let Err(error) = self.adopt() {
            self.silent(&error);
            self.next_submission = Instant::now() + FULL_PAUSES[0];
            return;
        }
        let mut groups: BTreeMap<JobResources, Vec<Waiting<'a>>> = BTreeMap::new();
        for one in std::mem::take(&mut self.waiting) {
            groups.entry(self.cluster.resources(one.task.instance)).or_default().push(one);
        }
        for (resources, mut group) in groups {
            let mut size = MAX_ARRAY;
            while !group.is_empty() {
                let rest = group.split_off(group.len().min(size));
                match self.submit_array(&resources, group) {
                    Ok(None) => group = rest,
                    // Perhaps fewer are accepted.
                    Ok(Some((mut refused, _))) if refused.len() > 1 => {
                        size = refused.len() / 2;
                        refused.extend(rest);
                        group = refused;
                    }
                    Ok(Some((refused, words))) => {
                        self.wait_for_space(&words, refused.len() + rest.len());
                        self.waiting.extend(refused);
                        self.waiting.extend(rest);
                        break;
                    }
                    Err((failed, error)) => {
                        let causes = ErrorChain::of(&error);
                        failed.iter().for_each(|one| self.finish(&one.task, TaskResult::Failed(causes.clone()), 0.0));
                        group = rest;
                    }
                }
            }
        }
        drop(lock);
        self.poll_soon();
    }

    fn fail_waiting(&mut self, error: &anyhow::Error) {
        let causes = ErrorChain::of(error);
        for one in std::mem::take(&mut self.waiting) {
            self.finish(&one.task, TaskResult::Failed(causes.clone()), 0.0);
        }
    }

    /// The queue accepts no more jobs now.
    fn wait_for_space(&mut self, words: &str, count: usize) {
        if self.full_pause == FULL_PAUSES[0] {
            let queue = self.cluster.queue.name();
            self.send(TaskMessage::Warning(format!("{queue} accepts no more jobs now, {count} wait: {words}")));
        }
        self.next_submission = Instant::now() + self.full_pause;
        self.full_pause = (self.full_pause * 2).min(FULL_PAUSES[1]);
    }

    /// Follows the jobs of earlier runs that are still in the queue, or that may appear there.
    fn adopt(&mut self) -> Result<()> {
        let note = |one: &Waiting<'_>| {
            let keys = [one.task.identity.fingerprint, detached_key(self.experiment, &one.task.instance.name)];
            let mut notes = keys.into_iter().filter_map(|key| Some((key, self.store.job(key)?)));
            notes.find(|(_, note)| !note.ended).filter(|_| one.may_have_job)
        };
        let notes: Vec<Option<(Hash, JobNote)>> = self.waiting.iter().map(note).collect();
        let names: BTreeSet<String> = notes.iter().flatten().map(|(_, note)| note.name.clone()).collect();
        if names.is_empty() {
            return Ok(());
        }
        let names: Vec<String> = names.into_iter().collect();
        let entries = self.cluster.queue.entries(&names)?;
        let entries: BTreeMap<(&str, usize), &QueueEntry> =
            entries.iter().map(|entry| ((entry.name.as_str(), entry.index), entry)).collect();
        for (mut one, note) in std::mem::take(&mut self.waiting).into_iter().zip(notes) {
            one.may_have_job = false;
            let Some((key, note)) = note else {
                self.waiting.push(one);
                continue;
            };
            let folder = self.store.jobs_path().join(&note.name);
            let is_live = match entries.get(&(note.name.as_str(), note.index)) {
                Some(entry) => !matches!(entry.state, JobState::Ended(_)),
                // It may have been submitted just before the driver was killed.
                None => {
                    let age = jiff::Timestamp::now().as_second().saturating_sub(note.submitted);
                    age < self.cluster.table.lost_after.as_secs() as i64 && !end_path(&folder, note.index).exists()
                }
            };
            if is_live {
                self.send(TaskMessage::Event(
                    one.task.id,
                    StageEvent::Note { text: "its job is in the queue".to_string() },
                ));
                self.live.push(Live::new(one.task, key, note, folder, self.cluster));
            } else {
                self.waiting.push(one);
            }
        }
        Ok(())
    }

    /// Submits tasks with equal resources. Returns them with the queue's words if it has no space for so many, and with the
    /// error if they cannot be submitted at all.
    #[expect(clippy::type_complexity, reason = "used once")]
    fn submit_array(
        &mut self,
        resources: &JobResources,
        group: Vec<Waiting<'a>>,
    ) -> Result<Option<(Vec<Waiting<'a>>, String)>, (Vec<Waiting<'a>>, anyhow::Error)> {
        let prepared = self.prepare(resources, &group);
        let (name, folder, notes, variables) = match prepared {
            Ok(prepared) => prepared,
            Err(error) => return Err((group, error)),
        };
        let command = command(self.cluster, &folder);
        let comment = comment(&self.experiment.name, group.iter().map(|one| one.task.instance));
        let submitted = self.cluster.queue.submit(&Submission {
            name: &name,
            count: group.len(),
            resources,
            folder: &folder,
            command: &command,
            after: &[],
            requeues: 0,
            variables: &variables,
            comment: &comment,
        });
        let keys = group.iter().map(|one| one.task.identity.fingerprint);
        let mut notes: Vec<(Hash, JobNote)> = keys.zip(notes).collect();
        let accepted = matches!(submitted, Submitted::Accepted(_) | Submitted::Unknown(_));
        for (_, note) in &mut notes {
            note.ended = !accepted;
            if let Submitted::Accepted(id) = &submitted {
                note.id = Some(self.cluster.queue.job_id(id, note.index));
            }
        }
        if let Err(error) = self.store.note_jobs(&notes) {
            // The jobs are found by their name.
            self.send(TaskMessage::Warning(format!("the ids of {} jobs could not be noted: {error:#}", notes.len())));
        }
        let queue = self.cluster.queue.name();
        match submitted {
            Submitted::Full(words) => {
                files::remove_dir(&folder).ok();
                return Ok(Some((group, words)));
            }
            Submitted::Refused(words) => {
                files::remove_dir(&folder).ok();
                let chain = vec![format!("{queue} does not accept its job: {words}")];
                for one in &group {
                    let causes = ErrorChain { chain: chain.clone(), input: true };
                    self.finish(&one.task, TaskResult::Failed(causes), 0.0);
                }
                return Ok(None);
            }
            Submitted::Unknown(words) => self.send(TaskMessage::Warning(format!(
                "{queue} gave no answer to the submission of {name}, which is looked for in the queue: {words}"
            ))),
            Submitted::Accepted(_) => {}
        }
        self.full_pause = FULL_PAUSES[0];
        for (one, (key, note)) in group.into_iter().zip(notes) {
            self.live.push(Live::new(one.task, key, note, folder.clone(), self.cluster));
        }
        Ok(None)
    }

    /// Writes the tasks, and notes that they are about to be submitted.
    #[expect(clippy::type_complexity, reason = "used once")]
    fn prepare(
        &self,
        resources: &JobResources,
        group: &[Waiting<'a>],
    ) -> Result<(String, PathBuf, Vec<JobNote>, Vec<(String, String)>)> {
        let instances: Vec<&Instance> = group.iter().map(|one| one.task.instance).collect();
        let variables = declared_variables(&instances)?;
        let name = submission_name(&self.run);
        let folder = self.store.jobs_path().join(&name);
        files::create_private_dir(&folder)?;
        let mut notes = Vec::with_capacity(group.len());
        for (index, Waiting { task, resumes, .. }) in group.iter().enumerate() {
            let file = TaskFile {
                work: TaskWork::Ready {
                    instance: Box::new(PortableInstance::from(task.instance)),
                    inputs: task.identity.inputs.clone(),
                    fingerprint: task.identity.fingerprint,
                    artifacts: task.artifacts.clone(),
                },
                experiment: self.experiment.clone(),
                store: self.store.root().to_path_buf(),
                log: std::path::absolute(&task.log).context("the working directory does not exist any more")?,
                forced: task.forced,
                retry: task.retry.clone(),
                time: task.time,
                gpu: resources.gpu,
                memory: resources.memory,
            };
            write_task(&folder, index, &file)?;
            notes.push(JobNote {
                name: name.clone(),
                index,
                id: None,
                instance: task.instance.name.clone(),
                run: self.run.clone(),
                submitted: jiff::Timestamp::now().as_second(),
                resumes: *resumes,
                ended: false,
            });
        }
        let keys = group.iter().map(|one| one.task.identity.fingerprint);
        self.store.note_jobs(&keys.zip(notes.iter().cloned()).collect::<Vec<_>>())?;
        files::crash_point("job: noted");
        Ok((name, folder, notes, variables))
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
            if one.started.is_none() && !text.is_empty() && text != one.told {
                one.told.clone_from(&text);
                messages.push(TaskMessage::Queued(one.task.id, text));
            }
        }
        messages.into_iter().for_each(|message| self.send(message));
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
            one.read_events().into_iter().for_each(|message| self.send(message));
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

    /// The record of a task with all outputs.
    fn record(&self, task: &Task<'a>) -> Option<StageRecord> {
        let slim = self.store.slim_record(task.identity.fingerprint)?;
        let missing = missing_outputs(task.instance, &slim, self.store);
        if missing.is_ok_and(|missing| missing.is_empty()) {
            self.store.record(task.identity.fingerprint)
        } else {
            None
        }
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
                let mut chain = match ran_out {
                    true => vec![format!("its job {id} ran out of memory; {}", memory_help(one.memory))],
                    false => vec![format!("its job {id} ended before its stage did")],
                };
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
                "its job {id} {why}, and was submitted {} times again: `executor.slurm.resumes` is the limit; the same command \
                 continues its work",
                one.note.resumes
            )),
        };
        let seconds = one.started.map_or(0.0, |started| started.elapsed().as_secs_f64());
        self.finish(&one.task, result, seconds);
        None
    }
}

impl<'a> Live<'a> {
    fn new(task: Task<'a>, key: Hash, note: JobNote, folder: PathBuf, cluster: &Cluster) -> Live<'a> {
        Live {
            memory: cluster.resources(task.instance).memory,
            task,
            key,
            note,
            folder,
            state: None,
            past_end: None,
            asked_accounting: false,
            ended: None,
            cancelled: None,
            events_read: 0,
            started: None,
            told: String::new(),
        }
    }

    /// The state in the queue for people; empty while there is nothing to say.
    fn describe(&self) -> String {
        let id = self.note.id.as_deref().unwrap_or(&self.note.name);
        match &self.state {
            Some(JobState::Pending { why, start: Some(start) }) => {
                format!("job {id} is pending: {why}, expected to start at {start}")
            }
            Some(JobState::Pending { why, start: None }) => format!("job {id} is pending: {why}"),
            Some(JobState::Running { nodes }) => format!("job {id} starts on {nodes}"),
            Some(JobState::Ended(_)) | None => String::new(),
        }
    }

    /// The new events of the job.
    fn read_events(&mut self) -> Vec<TaskMessage> {
        let lines = new_lines(&events_path(&self.folder, self.note.index), &mut self.events_read);
        let mut messages = Vec::new();
        for event in lines.lines().filter_map(|line| serde_json::from_str::<JobEvent>(line).ok()) {
            match event {
                // An attempt after the first one is the same work.
                JobEvent::Started { .. } if self.started.is_some() => {}
                JobEvent::Started { .. } => {
                    self.started = Some(Instant::now());
                    messages.push(TaskMessage::Started(self.task.id));
                }
                JobEvent::Stage(event) => messages.push(TaskMessage::Event(self.task.id, event)),
            }
        }
        messages
    }
}

/// A new name of a submission. Nothing else in the queue has it.
pub(super) fn submission_name(run: &str) -> String {
    use std::sync::atomic::AtomicU64;
    static COUNTER: AtomicU64 = AtomicU64::new(0);
    let count = COUNTER.fetch_add(1, Ordering::Relaxed);
    let now = jiff::Timestamp::now().as_nanosecond();
    let hash = Hash::of_bytes(format!("{run} {now} {} {count}", std::process::id()).as_bytes());
    format!("ablate-{}", &hash.to_string()[..12])
}

/// The command of a submission's jobs, without their number.
pub(super) fn command(cluster: &Cluster, folder: &Path) -> [String; 3] {
    [cluster.program.display().to_string(), super::SUBCOMMAND.to_string(), folder.display().to_string()]
}

/// What people see of a submission in the queue.
pub(super) fn comment<'i>(title: &str, instances: impl Iterator<Item = &'i Instance>) -> String {
    let names: Vec<&str> = instances.map(|instance| instance.name.as_str()).collect();
    match names.as_slice() {
        [one] => format!("{title}: {one}"),
        [first, ..] => format!("{title}: {first} and {} more", names.len() - 1),
        [] => title.to_string(),
    }
}

pub(super) fn write_task(folder: &Path, index: usize, file: &TaskFile) -> Result<()> {
    let text = serde_json::to_vec(file).context("the stage has a path that is not UTF-8")?;
    files::write_private_unsynced(&task_path(folder, index), &text)
}
