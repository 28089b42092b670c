//! The threads of a run: workers that take tasks, and one that commits. Knows no schedule.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::Scope;
use std::time::{Duration, Instant};

use super::commit::{Pending, commit_all};
use super::worker::{Finished, Performed, Task};
use ablate_core::base::StageEvent;
use ablate_experiment::InstanceId;
use ablate_store::Store;

/// How long a finished stage may wait for others, to be committed together, and how many are enough.
const COMMIT_AFTER: Duration = Duration::from_millis(50);
const BATCH: usize = 32;

/// What threads tell the scheduler.
pub(super) enum Message {
    Started(InstanceId),
    StageEvent(InstanceId, StageEvent),
    /// The work is over, the commit is not.
    Collected(Box<Pending>),
    Finished(InstanceId, Finished, f64),
}

/// The threads and the ways to them. They end when this value does.
pub(super) struct Crew<'scope, 'env, 'a> {
    scope: &'scope Scope<'scope, 'env>,
    messages: Sender<Message>,
    commits: Sender<Vec<Pending>>,
    tasks: Sender<Task<'a>>,
    /// What workers take tasks from, one at a time.
    waiting: Arc<Mutex<Receiver<Task<'a>>>>,
    /// Workers that have nothing to do.
    free: Arc<AtomicUsize>,
    /// Stages that are not committed yet, and since when there are some.
    pending: Vec<Pending>,
    pending_since: Instant,
}

impl<'scope, 'env, 'a: 'scope> Crew<'scope, 'env, 'a> {
    /// A crew that commits to a store, and what it tells.
    pub(super) fn new(scope: &'scope Scope<'scope, 'env>, store: &'a Store) -> (Self, Receiver<Message>) {
        let (messages, told) = mpsc::channel();
        let (commits, batches) = mpsc::channel();
        let (tasks, waiting) = mpsc::channel();
        let sender = messages.clone();
        scope.spawn(move || commit_all(store, &batches, &sender));
        let waiting = Arc::new(Mutex::new(waiting));
        let (free, pending, pending_since) = (Arc::default(), Vec::new(), Instant::now());
        (Crew { scope, messages, commits, tasks, waiting, free, pending, pending_since }, told)
    }

    /// Has a task done: by a worker that is free, or by a new one.
    pub(super) fn give(&self, task: Task<'a>) {
        if self.free.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |free| free.checked_sub(1)).is_err() {
            let (waiting, free, messages) = (self.waiting.clone(), self.free.clone(), self.messages.clone());
            self.scope.spawn(move || work(&waiting, &free, &messages));
        }
        // The workers live as long as somebody could give them more.
        self.tasks.send(task).ok();
    }

    /// Keeps a stage that is ready to be committed.
    pub(super) fn collect(&mut self, pending: Pending) {
        if self.pending.is_empty() {
            self.pending_since = Instant::now();
        }
        self.pending.push(pending);
    }

    /// Has committed what has come together, once it is much, or old, or nothing is under way that it could wait for.
    pub(super) fn commit(&mut self, idle: bool) {
        let enough = self.pending.len() >= BATCH || self.pending_since.elapsed() >= COMMIT_AFTER;
        if !self.pending.is_empty() && (enough || idle) {
            self.commits.send(std::mem::take(&mut self.pending)).ok();
        }
    }

    /// How long nothing has to be done here.
    pub(super) fn patience(&self) -> Duration {
        if self.pending.is_empty() { Duration::MAX } else { COMMIT_AFTER }
    }
}

/// A worker's life: takes tasks until nobody is left who could give it more.
fn work(tasks: &Mutex<Receiver<Task<'_>>>, free: &AtomicUsize, messages: &Sender<Message>) {
    // Nobody stops listening before all threads have ended.
    let send = |message| {
        messages.send(message).ok();
    };
    let next = || tasks.lock().unwrap_or_else(PoisonError::into_inner).recv();
    while let Ok(task) = next() {
        let (id, begun) = (task.id, Instant::now());
        let performed = task.perform(&|| send(Message::Started(id)), &|event| send(Message::StageEvent(id, event)));
        // Before the scheduler hears of it, which may have the next task for this very worker.
        free.fetch_add(1, Ordering::SeqCst);
        match performed {
            Performed::Collected(pending) => send(Message::Collected(pending)),
            Performed::Finished(finished) => {
                send(Message::Finished(id, finished, begun.elapsed().as_secs_f64()));
            }
        }
    }
}
