//! Who runs what when: from the plan's verdicts to an outcome for every instance. Knows no stage's work and no terminal.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::Scope;
use std::time::{Duration, Instant};

use super::board::{Board, State};
use super::commit::{Pending, commit_all};
use super::dirty::DirtyReason;
use super::graph::Graph;
use super::identity::{Identity, Outside, contents};
use super::plan::{Plan, PlanOptions, PlanState, judge};
use super::publish::{self, Links};
use super::run::{Failure, InstanceReport, Observer, Outcome, RunOptions};
use super::worker::{Finished, Task};
use crate::base::{Causes, Event, Hash};
use crate::experiment::{Expansion, Instance, InstanceId, Upstream};
use crate::stage::Artifact;
use crate::store::{Committed, LatestNote, Store, file_name};

/// How often a stage that another run works on is asked for.
const ASK_AGAIN: Duration = Duration::from_millis(200);

/// How long a finished stage may wait for others, to be committed together, and how many are enough.
const COMMIT_AFTER: Duration = Duration::from_millis(50);
const BATCH: usize = 32;

/// How often the run's record is brought up to date.
const SAVE_AGAIN: Duration = Duration::from_secs(2);

pub(super) enum Message {
    Started(InstanceId),
    Event(InstanceId, Event),
    /// The work is over, the commit is not.
    Collected(Box<Pending>),
    Finished(InstanceId, Box<Finished>, f64),
}

/// The threads of a run, and what they are told and tell.
struct Outlets<'scope, 'env, 'a> {
    scope: &'scope Scope<'scope, 'env>,
    messages: Sender<Message>,
    commits: Sender<Vec<Pending>>,
    tasks: Sender<Task<'a>>,
    /// What workers take tasks from, one at a time.
    waiting: Arc<Mutex<Receiver<Task<'a>>>>,
    /// Workers that have nothing to do.
    free: Arc<AtomicUsize>,
}

/// One run of an expansion.
pub(super) struct Scheduler<'a> {
    expansion: &'a Expansion,
    store: &'a Store,
    options: &'a RunOptions,
    plan_options: &'a PlanOptions,
    observer: &'a dyn Observer,
    folder: &'a Path,
    graph: Graph,
    board: Board,
    identities: Vec<Option<Identity>>,
    reasons: Vec<Vec<DirtyReason>>,
    records: Vec<Option<Committed>>,
    /// Attempts that failed, of instances that were tried again.
    attempts: BTreeMap<InstanceId, u32>,
    /// Whether an instance is as the last run left it: then its links and its note are too.
    stands: Vec<bool>,
    links: Option<Links>,
    reports: BTreeMap<InstanceId, InstanceReport>,
    /// Notes that are not written yet.
    notes: Vec<(String, LatestNote)>,
    /// Stages that are not committed yet, and since when there are some.
    pending: Vec<Pending>,
    pending_since: Instant,
    outside: Outside,
    /// The first that failed.
    failed: Option<InstanceId>,
    /// When the instances that other runs work on were last asked for.
    asked: Instant,
}

impl<'a> Scheduler<'a> {
    pub(super) fn new(
        expansion: &'a Expansion,
        store: &'a Store,
        options: &'a RunOptions,
        plan_options: &'a PlanOptions,
        observer: &'a dyn Observer,
        folder: &'a Path,
        outside: Outside,
    ) -> Scheduler<'a> {
        let count = expansion.instances.len();
        let graph = Graph::of(expansion);
        Scheduler {
            expansion,
            store,
            options,
            plan_options,
            observer,
            folder,
            board: Board::new(expansion, &graph, options),
            graph,
            identities: vec![None; count],
            reasons: vec![Vec::new(); count],
            records: vec![None; count],
            attempts: BTreeMap::new(),
            stands: vec![false; count],
            links: options.out.as_deref().map(|out| Links::new(out, &plan_options.experiment)),
            reports: BTreeMap::new(),
            notes: Vec::new(),
            pending: Vec::new(),
            pending_since: Instant::now(),
            outside,
            failed: None,
            asked: Instant::now(),
        }
    }

    /// Runs until nothing is left to start and nothing runs. `save` is given the reports now and then.
    pub(super) fn run(
        &mut self,
        plan: Plan,
        selected: &BTreeSet<InstanceId>,
        save: &mut dyn FnMut(Vec<InstanceReport>),
    ) {
        std::thread::scope(|scope| {
            let (messages, receiver) = mpsc::channel();
            let (commits, pending) = mpsc::channel();
            let (tasks, waiting) = mpsc::channel();
            let (store, sender) = (self.store, messages.clone());
            scope.spawn(move || commit_all(store, &pending, &sender));
            let waiting = Arc::new(Mutex::new(waiting));
            let outlets = Outlets { scope, messages, commits, tasks, waiting, free: Arc::default() };
            self.begin(plan, selected);
            let mut saved = Instant::now();
            loop {
                while !self.stopping()
                    && let Some(id) = self.board.next()
                {
                    self.start(id, &outlets);
                }
                if self.board.nothing_runs() && (self.board.nothing_is_elsewhere() || self.stopping()) {
                    return;
                }
                self.receive(&receiver);
                self.commit(&outlets);
                if saved.elapsed() > SAVE_AGAIN {
                    save(self.reports.values().cloned().collect());
                    saved = Instant::now();
                }
            }
        });
        self.close();
        self.write_notes();
    }

    /// Hands over what has come together, once it is much, or old, or nothing else is under way that it could wait for.
    fn commit(&mut self, outlets: &Outlets<'_, '_, '_>) {
        let idle = || self.board.is_idle();
        if self.pending.is_empty()
            || (self.pending.len() < BATCH && self.pending_since.elapsed() < COMMIT_AFTER && !idle())
        {
            return;
        }
        // The committer lives as long as somebody could send it more.
        outlets.commits.send(std::mem::take(&mut self.pending)).ok();
        self.write_notes();
    }

    fn write_notes(&mut self) {
        let notes = std::mem::take(&mut self.notes);
        if let Err(error) = self.store.note_latest(&self.plan_options.experiment, &notes) {
            tracing::warn!("what became of {} instances could not be noted: {error:#}", notes.len());
        }
    }

    pub(super) fn into_reports(self) -> Vec<InstanceReport> {
        self.reports.into_values().collect()
    }

    /// What is fresh by now: per instance the content of its inputs, and its record.
    pub(super) fn fresh(&self) -> impl Iterator<Item = Option<(&[Hash], &Committed)>> {
        self.identities.iter().zip(&self.records).map(|(identity, record)| {
            let (identity, record) = (identity.as_ref()?, record.as_ref()?);
            Some((identity.inputs.as_slice(), record))
        })
    }

    /// Takes the plan's verdicts over.
    fn begin(&mut self, plan: Plan, selected: &BTreeSet<InstanceId>) {
        for entry in plan.entries {
            let id = entry.id;
            self.identities[id.0] = entry.identity;
            self.stands[id.0] = entry.stands;
            match entry.state {
                PlanState::Fresh => {
                    self.records[id.0] = entry.record;
                    self.board.set(id, State::Done);
                    if selected.contains(&id) {
                        self.report(id, Outcome::Fresh, 0.0);
                    }
                }
                _ if !selected.contains(&id) => self.board.set(id, State::Left),
                PlanState::Dirty(reasons) => {
                    self.reasons[id.0] = reasons;
                    self.make_ready(id);
                }
                PlanState::Waits(_) => {}
            }
        }
        // What waits for something that is not selected will never be reached from above.
        for id in self.expansion.ids() {
            if self.board.get(id) == State::Blocked {
                self.settle(id);
            }
        }
    }

    /// Gives a dirty instance to the queue, or fails it where something outside is missing.
    fn make_ready(&mut self, id: InstanceId) {
        let obstacles = self.reasons[id.0].iter().filter(|reason| reason.is_obstacle());
        let chain: Vec<String> = obstacles.map(ToString::to_string).chain(self.board.out_of_reach(id)).collect();
        if chain.is_empty() {
            self.board.set(id, State::Ready);
        } else {
            self.fail(id, Causes { chain, input: true });
        }
    }

    /// Fails an instance that never began.
    fn fail(&mut self, id: InstanceId, causes: Causes) {
        self.board.set(id, State::Failed);
        self.failed.get_or_insert(id);
        let failure = Failure { instance: self.name(id).to_string(), causes, log: None, work: None };
        self.report(id, Outcome::Failed(failure), 0.0);
    }

    /// Looks at a blocked instance again: everything above may be done by now, or lost.
    fn settle(&mut self, id: InstanceId) {
        let mut pending = vec![id];
        while let Some(id) = pending.pop() {
            if self.board.get(id) != State::Blocked {
                continue;
            }
            let above = self.graph.above(id);
            let lost = above.iter().find(|above| matches!(self.board.get(**above), State::Failed | State::Left));
            if let Some(lost) = lost.copied() {
                let because = self.why_lost(lost);
                self.board.set(id, State::Left);
                self.report(id, Outcome::Skipped { because }, 0.0);
                pending.extend(self.graph.below(id));
            } else if above.iter().all(|above| self.board.get(*above) == State::Done) {
                self.decide(id);
                if self.board.get(id) != State::Ready {
                    pending.extend(self.graph.below(id));
                }
            }
        }
    }

    /// Everything above is done: the instance gets its fingerprint and may come out fresh.
    fn decide(&mut self, id: InstanceId) {
        let instance = self.expansion.get(id);
        let records = &self.records;
        let record = |index: usize| records[index].as_ref();
        let identity = match contents(instance, self.store, &mut self.outside, &record) {
            Ok(inputs) => Identity::new(instance, inputs),
            Err(obstacles) => {
                self.reasons[id.0] = obstacles;
                return self.make_ready(id);
            }
        };
        match judge(id, instance, identity, self.store, self.plan_options) {
            Err(error) => self.fail(id, Causes::of(&error)),
            Ok(entry) => {
                self.identities[id.0] = entry.identity;
                if let PlanState::Dirty(reasons) = entry.state {
                    self.reasons[id.0] = reasons;
                    self.make_ready(id);
                } else {
                    self.records[id.0] = entry.record;
                    self.board.set(id, State::Done);
                    self.report(id, Outcome::Fresh, 0.0);
                }
            }
        }
    }

    fn done(&mut self, id: InstanceId, record: Committed, outcome: Outcome, seconds: f64) {
        self.records[id.0] = Some(record);
        self.board.set(id, State::Done);
        self.report(id, outcome, seconds);
    }

    fn start<'scope>(&mut self, id: InstanceId, outlets: &Outlets<'scope, '_, 'a>)
    where
        'a: 'scope,
    {
        let threads = self.board.threads();
        self.board.set(id, State::Running);
        let devices = self.board.devices(id);
        let instance = self.expansion.get(id);
        tracing::debug!(instance = instance.name, ?devices, threads, "starts");
        let identity = self.identities[id.0].clone();
        let task = Task {
            id,
            instance,
            identity: identity.unwrap_or_else(|| panic!("BUG: `{}` is ready without a fingerprint", instance.name)),
            artifacts: self.artifacts(instance),
            forced: self.plan_options.force.contains(&id),
            threads,
            time: self.options.time,
            devices,
            log: self.log(id),
            store: self.store,
            executor: self.options.executor.as_ref(),
            stop: &self.options.interrupt,
        };
        // A worker that is free takes the task; if none is, there is one more of them.
        if outlets.free.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |free| free.checked_sub(1)).is_err() {
            let (waiting, free, messages) = (outlets.waiting.clone(), outlets.free.clone(), outlets.messages.clone());
            outlets.scope.spawn(move || work(&waiting, &free, &messages));
        }
        // The workers live as long as somebody could give them more.
        outlets.tasks.send(task).ok();
    }

    fn receive(&mut self, receiver: &Receiver<Message>) {
        let patience = if self.pending.is_empty() { ASK_AGAIN } else { COMMIT_AFTER };
        match receiver.recv_timeout(patience) {
            Ok(Message::Started(id)) => {
                self.observer.started(id, self.expansion.get(id), &self.reasons[id.0]);
            }
            Ok(Message::Event(id, event)) => self.observer.event(id, self.expansion.get(id), &event),
            Ok(Message::Collected(pending)) => {
                self.board.release(pending.id);
                if self.pending.is_empty() {
                    self.pending_since = Instant::now();
                }
                self.pending.push(*pending);
            }
            Ok(Message::Finished(id, finished, seconds)) => self.finish(id, *finished, seconds),
            Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {}
        }
        if self.asked.elapsed() > ASK_AGAIN {
            self.asked = Instant::now();
            for id in self.board.elsewhere() {
                self.board.set(id, State::Ready);
            }
        }
    }

    fn finish(&mut self, id: InstanceId, finished: Finished, seconds: f64) {
        match finished {
            Finished::Ran(record) => self.done(id, Committed::from(&record), Outcome::Ran, seconds),
            Finished::Fresh(record) => self.done(id, record, Outcome::Fresh, seconds),
            Finished::Busy => {
                self.observer.elsewhere(id, self.expansion.get(id));
                self.board.set(id, State::Elsewhere);
                return;
            }
            Finished::Interrupted => {
                // What lies below was not reached either: the end of the run tells so.
                self.board.set(id, State::Left);
                self.report(id, Outcome::Interrupted, seconds);
                return;
            }
            Finished::Failed(causes) if self.tries_again(id, &causes) => {
                self.board.set(id, State::Ready);
                return;
            }
            Finished::Failed(causes) => {
                self.board.set(id, State::Failed);
                self.failed.get_or_insert(id);
                let work = Some(self.store.work_path(self.fingerprint(id)));
                let failure = Failure { instance: self.name(id).to_string(), causes, log: Some(self.log(id)), work };
                self.report(id, Outcome::Failed(failure), seconds);
            }
        }
        for below in self.graph.below(id) {
            self.settle(below);
        }
    }

    /// Whether a failed instance is worth another attempt. Wrong input stays wrong.
    fn tries_again(&mut self, id: InstanceId, causes: &Causes) -> bool {
        let instance = self.expansion.get(id);
        let allowed = instance.limits.retries.max(self.options.retries);
        let failed = self.attempts.entry(id).or_default();
        *failed += 1;
        if causes.input || *failed > allowed || self.options.interrupt.load(Ordering::Relaxed) {
            return false;
        }
        let why = causes.chain.first().map_or("", String::as_str);
        let text = format!("attempt {failed} of {} failed: {why}", u64::from(allowed) + 1);
        self.observer.event(id, instance, &Event::Note { text });
        true
    }

    /// Gives everything that was not reached its outcome.
    fn close(&mut self) {
        let interrupted = self.options.interrupt.load(Ordering::Relaxed);
        for id in self.expansion.ids() {
            if !matches!(self.board.get(id), State::Blocked | State::Ready | State::Elsewhere) {
                continue;
            }
            let outcome = match self.failed {
                Some(failed) if !interrupted => Outcome::Skipped {
                    because: format!("`{}` failed, and the run stops at the first failure", self.name(failed)),
                },
                _ => Outcome::Interrupted,
            };
            self.board.set(id, State::Left);
            self.report(id, outcome, 0.0);
        }
    }

    /// Keeps an outcome: in the report, under the instance's name in the store, as links, and for the observer.
    fn report(&mut self, id: InstanceId, outcome: Outcome, seconds: f64) {
        let instance = self.expansion.get(id);
        let record = self.records[id.0].as_ref();
        tracing::debug!(instance = instance.name, ?outcome, seconds, "ends");
        let record = record.filter(|_| !self.stands[id.0]);
        let experiment = &self.plan_options.experiment;
        let note = publish::note(self.store, experiment, instance, record, &outcome, &self.log(id));
        self.notes.extend(note.map(|note| (instance.name.clone(), note)));
        if let (Some(links), Some(record)) = (&self.links, record)
            && let Err(error) = links.make(self.store, instance, record)
        {
            // The result itself is safe; only its name could not be written down.
            let text = format!("`{}` is not reachable by name: {error:#}", instance.name);
            self.observer.event(id, instance, &Event::Note { text });
        }
        self.observer.finished(id, instance, &outcome, seconds);
        let fingerprint = self.identities[id.0].as_ref().map(|identity| identity.fingerprint);
        let reasons = self.reasons[id.0].clone();
        let report = InstanceReport { id, name: instance.name.clone(), outcome, seconds, fingerprint, reasons };
        self.reports.insert(id, report);
    }

    fn stopping(&self) -> bool {
        self.options.interrupt.load(Ordering::Relaxed) || (self.failed.is_some() && !self.options.keep_going)
    }

    fn artifacts(&self, instance: &Instance) -> BTreeMap<String, Artifact> {
        let found = instance.inputs.iter().filter_map(|input| match &input.upstream {
            Upstream::Output { instance: above, output, .. } => {
                let artifact = self.records[above.0].as_ref()?.outputs.get(&**output)?;
                Some((input.role.to_string(), artifact.clone()))
            }
            Upstream::Outside { .. } | Upstream::Environment { .. } => None,
        });
        found.collect()
    }

    fn why_lost(&self, id: InstanceId) -> String {
        match self.reports.get(&id).map(|report| &report.outcome) {
            Some(Outcome::Skipped { because }) => because.clone(),
            Some(Outcome::Interrupted) => format!("`{}` was interrupted", self.name(id)),
            Some(_) => format!("`{}` failed", self.name(id)),
            None => format!("`{}` is not up to date and not selected", self.name(id)),
        }
    }

    fn fingerprint(&self, id: InstanceId) -> Hash {
        let identity = self.identities[id.0].as_ref();
        identity.unwrap_or_else(|| panic!("BUG: `{}` has no fingerprint", self.name(id))).fingerprint
    }

    fn log(&self, id: InstanceId) -> PathBuf {
        self.folder.join("logs").join(format!("{}.log", file_name(self.name(id))))
    }

    fn name(&self, id: InstanceId) -> &str {
        &self.expansion.get(id).name
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
        let performed = task.perform(&|| send(Message::Started(id)), &|event| send(Message::Event(id, event)));
        // Before the scheduler hears of it, which may have the next task for this very worker.
        free.fetch_add(1, Ordering::SeqCst);
        match performed {
            Ok(pending) => send(Message::Collected(Box::new(pending))),
            Err(finished) => send(Message::Finished(id, Box::new(finished), begun.elapsed().as_secs_f64())),
        }
    }
}
