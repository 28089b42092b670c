//! The threads of a run: workers that execute tasks, and one thread that commits finished stages in batches, because a
//! disk syncs ten files as fast as one.

use std::error::Error;
use std::io::ErrorKind;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::Scope;
use std::time::{Duration, Instant};

use anyhow::Result;

use super::executor::{Executor, TaskMessage};
use super::task::{Performed, Task, TaskResult, Uncommitted};
use ablate_core::base::{ErrorChain, files};
use ablate_store::{StageRecord, Store};

/// The longest time that a finished stage waits for others before its batch is committed.
const BATCH_DELAY: Duration = Duration::from_millis(50);

/// A batch of this size is committed without delay.
const BATCH_SIZE: usize = 32;

/// How often a commit is tried again on a full disk, and the pause between two tries.
const DISK_FULL_RETRIES: u32 = 20;
const DISK_FULL_PAUSE: Duration = Duration::from_millis(50);

/// The executor of this machine: the threads of a run. They end when this value is dropped.
pub(super) struct Workers<'scope, 'env, 'a> {
    scope: &'scope Scope<'scope, 'env>,
    messages: Sender<TaskMessage>,
    batches: Sender<Vec<Uncommitted>>,
    tasks: Sender<Task<'a>>,
    /// The queue that the workers share.
    queue: Arc<Mutex<Receiver<Task<'a>>>>,
    /// Number of idle workers.
    idle: Arc<AtomicUsize>,
    /// The batch that is being collected.
    batch: Vec<Uncommitted>,
    /// When the first stage of the batch was added.
    batch_since: Instant,
}

impl<'scope, 'env, 'a: 'scope> Workers<'scope, 'env, 'a> {
    /// Starts the committing thread. Also returns the messages of all threads.
    pub(super) fn new(scope: &'scope Scope<'scope, 'env>, store: &'a Store) -> (Self, Receiver<TaskMessage>) {
        let (messages, received) = mpsc::channel();
        let (batches, to_commit) = mpsc::channel();
        let (tasks, queue) = mpsc::channel();
        let sender = messages.clone();
        scope.spawn(move || commit_batches(store, &to_commit, &sender));
        let queue = Arc::new(Mutex::new(queue));
        let (idle, batch, batch_since) = (Arc::default(), Vec::new(), Instant::now());
        (Workers { scope, messages, batches, tasks, queue, idle, batch, batch_since }, received)
    }

    /// The sender of the messages, for other executors of the same run.
    pub(super) fn messages(&self) -> Sender<TaskMessage> {
        self.messages.clone()
    }

    /// Adds a stage to the batch.
    pub(super) fn add_to_batch(&mut self, stage: Uncommitted) {
        if self.batch.is_empty() {
            self.batch_since = Instant::now();
        }
        self.batch.push(stage);
    }

    /// Commits the batch if it is large or old enough. `idle` means that no other stage will join it soon.
    pub(super) fn commit_if_due(&mut self, idle: bool) {
        let due = self.batch.len() >= BATCH_SIZE || self.batch_since.elapsed() >= BATCH_DELAY;
        if !self.batch.is_empty() && (due || idle) {
            self.batches.send(std::mem::take(&mut self.batch)).ok();
        }
    }

    /// How long the scheduler may wait before it calls [`Workers::commit_if_due`] again.
    pub(super) fn max_wait(&self) -> Duration {
        if self.batch.is_empty() { Duration::MAX } else { BATCH_DELAY }
    }
}

impl<'scope, 'a: 'scope> Executor<'a> for Workers<'scope, '_, 'a> {
    /// Passes a task to an idle worker, or to a new one if none is idle.
    fn start(&self, task: Task<'a>) {
        if self.idle.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |idle| idle.checked_sub(1)).is_err() {
            let (queue, idle, messages) = (self.queue.clone(), self.idle.clone(), self.messages.clone());
            self.scope.spawn(move || work(&queue, &idle, &messages));
        }
        // This cannot fail: `self` holds a receiver.
        self.tasks.send(task).ok();
    }
}

/// A worker thread: executes tasks until the queue is closed.
fn work(queue: &Mutex<Receiver<Task<'_>>>, idle: &AtomicUsize, messages: &Sender<TaskMessage>) {
    // The receiver lives until all threads have ended.
    let send = |message| {
        messages.send(message).ok();
    };
    let next = || queue.lock().unwrap_or_else(PoisonError::into_inner).recv();
    while let Ok(task) = next() {
        let (id, begun) = (task.id, Instant::now());
        let performed = task.perform(&|| send(TaskMessage::Started(id)), &|event| send(TaskMessage::Event(id, event)));
        // Before the message, because the scheduler may answer it with the next task for this worker.
        idle.fetch_add(1, Ordering::SeqCst);
        match performed {
            Performed::Uncommitted(stage) => send(TaskMessage::Uncommitted(stage)),
            Performed::Finished(result) => {
                send(TaskMessage::Finished(id, result, begun.elapsed().as_secs_f64()));
            }
        }
    }
}

/// The committing thread: commits batches until the channel is closed. A write error fails the whole batch.
fn commit_batches(store: &Store, batches: &Receiver<Vec<Uncommitted>>, messages: &Sender<TaskMessage>) {
    while let Ok(batch) = batches.recv() {
        let records: Vec<StageRecord> = batch.iter().map(|stage| stage.record.clone()).collect();
        let committed = commit(store, &records).map_err(|error| ErrorChain::of(&error));
        for Uncommitted { id, record, lock, work, seconds } in batch {
            let result = match &committed {
                Ok(()) => {
                    // The result is safe. If the work folder cannot be removed, `gc` removes it later.
                    files::remove_dir(&work).ok();
                    TaskResult::Ran(Box::new(record))
                }
                Err(causes) => TaskResult::Failed(causes.clone()),
            };
            drop(lock);
            messages.send(TaskMessage::Finished(id, result, seconds)).ok();
        }
    }
}

/// Commits records. A full disk is tried again: the stage that filled it is about to fail and to free its space.
pub(super) fn commit(store: &Store, records: &[StageRecord]) -> Result<()> {
    for _ in 0..DISK_FULL_RETRIES {
        match store.commit(records) {
            Err(error) if is_disk_full(&error) => std::thread::sleep(DISK_FULL_PAUSE),
            committed => return committed,
        }
    }
    store.commit(records)
}

fn is_disk_full(error: &anyhow::Error) -> bool {
    let kind = |cause: &(dyn Error + 'static)| Some(cause.downcast_ref::<std::io::Error>()?.kind());
    error.chain().any(|cause| kind(cause) == Some(ErrorKind::StorageFull))
}
