//! Who runs what when: from the plan's verdicts to an outcome for every instance. Knows no stage's work and no terminal.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use super::board::{Board, State};
use super::crew::{Crew, Message};
use super::dirty::DirtyReason;
use super::graph::Graph;
use super::identity::{Identity, Outside, contents};
use super::journal::Journal;
use super::plan::{Plan, PlanOptions, PlanState, judge};
use super::run::{Failure, InstanceReport, Observer, Outcome, RunOptions};
use super::slots::SharedSlots;
use super::standing::{Fresh, Looks};
use super::worker::{Finished, Task, artifacts};
use ablate_core::base::{ErrorChain, Hash, StageEvent};
use ablate_experiment::{Expansion, InstanceId};
use ablate_store::{SlimRecord, Store};

/// How often a stage that another run works on is asked for.
const ASK_AGAIN: Duration = Duration::from_millis(200);

/// One run of an expansion.
pub(super) struct Scheduler<'a> {
    expansion: &'a Expansion,
    store: &'a Store,
    options: &'a RunOptions,
    plan_options: &'a PlanOptions,
    observer: &'a dyn Observer,
    journal: Journal<'a>,
    graph: Graph,
    board: Board,
    /// What the running instances have of what all runs share.
    slots: SharedSlots<'a>,
    identities: Vec<Option<Identity>>,
    reasons: Vec<Vec<DirtyReason>>,
    records: Vec<Option<SlimRecord>>,
    /// Attempts that failed, of instances that were tried again.
    attempts: BTreeMap<InstanceId, u32>,
    /// How an instance looks that is as the last run left it: then its links and its note are too.
    looks: Vec<Option<Looks>>,
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
            journal: Journal::new(store, &plan_options.experiment, observer, folder, options.out.as_deref()),
            board: Board::new(expansion, &graph, options),
            slots: SharedSlots::new(store),
            graph,
            identities: vec![None; count],
            reasons: vec![Vec::new(); count],
            records: vec![None; count],
            attempts: BTreeMap::new(),
            looks: vec![None; count],
            outside,
            failed: None,
            asked: Instant::now(),
        }
    }

    /// Runs until nothing is left to start and nothing runs.
    pub(super) fn run(&mut self, plan: Plan, selected: &BTreeSet<InstanceId>) {
        std::thread::scope(|scope| {
            let (mut crew, messages) = Crew::new(scope, self.store);
            self.begin(plan, selected);
            loop {
                while !self.stopping()
                    && let Some(id) = self.board.next()
                {
                    self.start(id, &crew);
                }
                if self.board.nothing_runs() && (self.board.nothing_waits() || self.stopping()) {
                    return;
                }
                self.receive(&messages, &mut crew);
                crew.commit(self.board.is_idle());
                self.journal.turn();
            }
        });
        self.close();
        self.journal.write();
    }

    pub(super) fn into_reports(self) -> Vec<InstanceReport> {
        self.journal.into_reports()
    }

    /// What is fresh by now.
    pub(super) fn fresh(&self) -> impl Iterator<Item = Option<Fresh<'_>>> {
        self.identities.iter().zip(&self.records).zip(&self.looks).map(|((identity, record), looks)| {
            Some((identity.as_ref()?.inputs.as_slice(), record.as_ref()?, looks.as_ref()))
        })
    }

    /// Takes the plan's verdicts over.
    fn begin(&mut self, plan: Plan, selected: &BTreeSet<InstanceId>) {
        for entry in plan.entries {
            let id = entry.id;
            self.identities[id.0] = entry.identity;
            self.looks[id.0] = entry.looks;
            match entry.state {
                PlanState::Fresh => {
                    self.records[id.0] = entry.record;
                    self.board.set(id, State::Done);
                    if selected.contains(&id) {
                        self.tell(id, Outcome::Fresh, 0.0, true);
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
            self.fail(id, ErrorChain { chain, input: true });
        }
    }

    /// Fails an instance that never began.
    fn fail(&mut self, id: InstanceId, causes: ErrorChain) {
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
            Err(error) => self.fail(id, ErrorChain::of(&error)),
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

    fn done(&mut self, id: InstanceId, record: SlimRecord, outcome: Outcome, seconds: f64) {
        self.records[id.0] = Some(record);
        self.board.set(id, State::Done);
        self.report(id, outcome, seconds);
    }

    /// Starts a ready instance, unless other runs have what it needs.
    fn start<'scope>(&mut self, id: InstanceId, crew: &Crew<'scope, '_, 'a>)
    where
        'a: 'scope,
    {
        let threads = self.board.threads();
        let need = self.board.need(id);
        let devices = match self.slots.take(id, &need) {
            Ok(Some(devices)) => devices,
            Ok(None) => {
                self.journal.waits(id, self.expansion.get(id), &need.waits_for());
                return self.board.wait(id);
            }
            Err(error) => {
                self.fail(id, ErrorChain::of(&error));
                return self.settle_below(id);
            }
        };
        self.board.start(id, devices);
        let devices = self.board.devices(id);
        let instance = self.expansion.get(id);
        tracing::debug!(instance = instance.name, ?devices, threads, "starts");
        let identity = self.identities[id.0].clone();
        let task = Task {
            id,
            instance,
            identity: identity.unwrap_or_else(|| panic!("BUG: `{}` is ready without a fingerprint", instance.name)),
            artifacts: artifacts(instance, &self.records),
            forced: self.plan_options.force.contains(&id),
            threads,
            time: self.options.time,
            devices,
            log: self.journal.log(instance),
            store: self.store,
            executor: self.options.executor.as_ref(),
            stop: &self.options.interrupt,
        };
        crew.give(task);
    }

    fn receive<'scope>(&mut self, messages: &Receiver<Message>, crew: &mut Crew<'scope, '_, 'a>)
    where
        'a: 'scope,
    {
        match messages.recv_timeout(ASK_AGAIN.min(crew.patience())) {
            Ok(Message::Started(id)) => {
                let instance = self.expansion.get(id);
                self.journal.started(instance);
                self.observer.started(id, instance, &self.reasons[id.0]);
            }
            Ok(Message::StageEvent(id, event)) => self.journal.event(id, self.expansion.get(id), &event),
            Ok(Message::Collected(pending)) => {
                self.board.release(pending.id);
                self.slots.release(pending.id);
                crew.collect(*pending);
            }
            Ok(Message::Finished(id, finished, seconds)) => self.finish(id, finished, seconds),
            Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {}
        }
        if self.asked.elapsed() > ASK_AGAIN {
            self.asked = Instant::now();
            self.board.ask_again();
        }
    }

    fn finish(&mut self, id: InstanceId, finished: Finished, seconds: f64) {
        self.slots.release(id);
        match finished {
            Finished::Ran(record) => self.done(id, SlimRecord::from(&*record), Outcome::Ran, seconds),
            Finished::Fresh(record) => self.done(id, record, Outcome::Fresh, seconds),
            Finished::Busy => {
                self.journal.waits(id, self.expansion.get(id), "another run works on it");
                self.board.set(id, State::Elsewhere);
                return;
            }
            Finished::Interrupted => {
                // What lies below was not reached either: the end of the run tells so.
                self.board.set(id, State::Left);
                self.report(id, Outcome::Interrupted, seconds);
                return;
            }
            Finished::Failed(causes) if self.tries_again(id, &causes) => return self.board.set(id, State::Ready),
            Finished::Failed(causes) => {
                self.board.set(id, State::Failed);
                self.failed.get_or_insert(id);
                let work = self.store.leftover_path(self.fingerprint(id));
                let failure = Failure {
                    instance: self.name(id).to_string(),
                    causes,
                    log: Some(self.journal.log(self.expansion.get(id))),
                    work,
                };
                self.report(id, Outcome::Failed(failure), seconds);
            }
        }
        self.settle_below(id);
    }

    fn settle_below(&mut self, id: InstanceId) {
        for below in self.graph.below(id) {
            self.settle(below);
        }
    }

    /// Whether a failed instance is worth another attempt. Wrong input stays wrong.
    fn tries_again(&mut self, id: InstanceId, causes: &ErrorChain) -> bool {
        let instance = self.expansion.get(id);
        let allowed = instance.limits.retries.max(self.options.retries);
        let failed = self.attempts.entry(id).or_default();
        *failed += 1;
        if causes.input || *failed > allowed || self.options.interrupt.load(Ordering::Relaxed) {
            return false;
        }
        let why = causes.chain.first().map_or("", String::as_str);
        let text = format!("attempt {failed} of {} failed: {why}", u64::from(allowed) + 1);
        self.journal.event(id, instance, &StageEvent::Note { text });
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

    /// Keeps an outcome.
    fn report(&mut self, id: InstanceId, outcome: Outcome, seconds: f64) {
        self.tell(id, outcome, seconds, false);
    }

    fn tell(&mut self, id: InstanceId, outcome: Outcome, seconds: f64, planned: bool) {
        let instance = self.expansion.get(id);
        let fingerprint = self.identities[id.0].as_ref().map(|identity| identity.fingerprint);
        let reasons = self.reasons[id.0].clone();
        let report = InstanceReport { id, name: instance.name.clone(), outcome, seconds, fingerprint, reasons };
        let record = self.records[id.0].as_ref().filter(|_| self.looks[id.0].is_none());
        self.journal.finished(instance, report, record, planned);
    }

    fn stopping(&self) -> bool {
        self.options.interrupt.load(Ordering::Relaxed) || (self.failed.is_some() && !self.options.keep_going)
    }

    fn why_lost(&self, id: InstanceId) -> String {
        match self.journal.outcome(id) {
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

    fn name(&self, id: InstanceId) -> &str {
        &self.expansion.get(id).name
    }
}
