//! Who runs what when: one state per instance, changed in one function. Knows no stage's work and no terminal.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::thread::Scope;
use std::time::{Duration, Instant};

use anyhow::Result;

use super::dirty::DirtyReason;
use super::graph::Graph;
use super::identity::{Identity, Outside, identify};
use super::job::causes;
use super::plan::{Plan, PlanOptions, PlanState, judge};
use super::run::{Failure, InstanceReport, Observer, Outcome, RunOptions, link_outputs};
use super::worker::{Finished, Task};
use crate::base::Event;
use crate::experiment::{Expansion, Instance, InstanceId, Upstream};
use crate::stage::Pool;
use crate::store::{LatestNote, StageRecord, Store, file_name};

/// How often a stage that another run works on is asked for.
const ASK_AGAIN: Duration = Duration::from_millis(200);

/// How often the run's record is brought up to date.
const SAVE_AGAIN: Duration = Duration::from_secs(2);

/// Where an instance stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Something that it reads is not done.
    Blocked,
    /// It has a fingerprint, must run, and wants a slot.
    Ready,
    /// A thread of this run works on it.
    Running,
    /// Another run holds its lock.
    Elsewhere,
    /// Its record and outputs are there.
    Done,
    Failed,
    /// It will not run: not selected, below a failure, or the run was stopped.
    Left,
}

/// The resource that an instance occupies while it runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Slot {
    Cpu,
    Gpu,
    Teacher,
}

enum Message {
    Started(InstanceId),
    Event(InstanceId, Event),
    Finished(InstanceId, Box<Finished>, f64),
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
    /// Length of the longest chain from an instance down: the longest goes first.
    chains: Vec<u64>,
    states: Vec<State>,
    /// Per slot, the ready instances in the order in which they are started.
    ready: BTreeMap<Slot, BTreeSet<(Reverse<u64>, InstanceId)>>,
    running: BTreeMap<Slot, BTreeSet<InstanceId>>,
    elsewhere: BTreeSet<InstanceId>,
    /// Devices that no instance has.
    devices: BTreeSet<String>,
    /// The device of each running instance of the `gpu` slot.
    lent: BTreeMap<InstanceId, String>,
    identities: Vec<Option<Identity>>,
    reasons: Vec<Vec<DirtyReason>>,
    records: Vec<Option<StageRecord>>,
    reports: BTreeMap<InstanceId, InstanceReport>,
    outside: Outside,
    failed: Option<InstanceId>,
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
        let chains = graph.chains(|_| 1.0).into_iter().map(|chain| chain as u64).collect();
        let devices = options.device.split(',').map(str::trim).filter(|device| device.starts_with("cuda"));
        Scheduler {
            expansion,
            store,
            options,
            plan_options,
            observer,
            folder,
            graph,
            chains,
            states: vec![State::Blocked; count],
            ready: BTreeMap::new(),
            running: BTreeMap::new(),
            elsewhere: BTreeSet::new(),
            devices: devices.map(str::to_string).collect(),
            lent: BTreeMap::new(),
            identities: vec![None; count],
            reasons: vec![Vec::new(); count],
            records: vec![None; count],
            reports: BTreeMap::new(),
            outside,
            failed: None,
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
            let (sender, receiver) = mpsc::channel();
            self.begin(plan, selected);
            let mut saved = Instant::now();
            loop {
                self.start_ready(scope, &sender);
                if self.running.values().all(BTreeSet::is_empty) && (self.elsewhere.is_empty() || self.stopping()) {
                    return;
                }
                self.receive(&receiver);
                if saved.elapsed() > SAVE_AGAIN {
                    save(self.reports.values().cloned().collect());
                    saved = Instant::now();
                }
            }
        });
        self.close();
    }

    pub(super) fn into_reports(self) -> Vec<InstanceReport> {
        self.reports.into_values().collect()
    }

    /// The only place where a state changes; the queues follow from it.
    fn set(&mut self, id: InstanceId, new: State) {
        let old = self.states[id.0];
        let possible = matches!(
            (old, new),
            (State::Blocked, State::Ready | State::Done | State::Failed | State::Left)
                | (State::Ready, State::Running | State::Left)
                | (State::Running, State::Done | State::Failed | State::Left | State::Elsewhere)
                | (State::Elsewhere, State::Ready | State::Left)
        );
        assert!(possible, "BUG: `{}` cannot go from {old:?} to {new:?}", self.name(id));
        let slot = self.slot(id);
        let place = (Reverse(self.chains[id.0]), id);
        match old {
            State::Ready => drop(self.ready.entry(slot).or_default().remove(&place)),
            State::Running => {
                self.running.entry(slot).or_default().remove(&id);
                self.devices.extend(self.lent.remove(&id));
            }
            State::Elsewhere => drop(self.elsewhere.remove(&id)),
            State::Blocked | State::Done | State::Failed | State::Left => {}
        }
        match new {
            State::Ready => drop(self.ready.entry(slot).or_default().insert(place)),
            State::Running => drop(self.running.entry(slot).or_default().insert(id)),
            State::Elsewhere => drop(self.elsewhere.insert(id)),
            State::Blocked | State::Done | State::Failed | State::Left => {}
        }
        self.states[id.0] = new;
    }

    /// Takes the plan's verdicts over.
    fn begin(&mut self, plan: Plan, selected: &BTreeSet<InstanceId>) {
        for entry in plan.entries {
            let id = entry.id;
            self.identities[id.0] = entry.identity;
            match entry.state {
                PlanState::Fresh => {
                    self.records[id.0] = entry.record;
                    self.set(id, State::Done);
                    if selected.contains(&id) {
                        self.report(id, Outcome::Fresh, 0.0);
                    }
                }
                _ if !selected.contains(&id) => self.set(id, State::Left),
                PlanState::Dirty(reasons) => {
                    self.reasons[id.0] = reasons;
                    self.make_ready(id);
                }
                PlanState::Waits(_) => {}
            }
        }
        // What waits for something that is not selected will never be reached from above.
        for id in self.expansion.ids() {
            if self.states[id.0] == State::Blocked {
                self.settle(id);
            }
        }
    }

    /// Gives a dirty instance to the queue, or fails it where something outside is missing.
    fn make_ready(&mut self, id: InstanceId) {
        let obstacles = self.reasons[id.0].iter().filter(|reason| reason.is_obstacle());
        let causes: Vec<String> = obstacles.map(ToString::to_string).collect();
        if causes.is_empty() {
            self.set(id, State::Ready);
        } else {
            self.fail(id, causes);
        }
    }

    /// Fails an instance that never began.
    fn fail(&mut self, id: InstanceId, causes: Vec<String>) {
        self.set(id, State::Failed);
        self.failed.get_or_insert(id);
        let failure = Failure { instance: self.name(id).to_string(), causes, log: None, work: None };
        self.report(id, Outcome::Failed(failure), 0.0);
    }

    /// Looks at a blocked instance again: everything above may be done by now, or lost.
    fn settle(&mut self, id: InstanceId) {
        let mut pending = vec![id];
        while let Some(id) = pending.pop() {
            if self.states[id.0] != State::Blocked {
                continue;
            }
            let above = self.graph.above(id);
            let lost = above.iter().find(|above| matches!(self.states[above.0], State::Failed | State::Left));
            if let Some(lost) = lost.copied() {
                let because = self.why_lost(lost);
                self.set(id, State::Left);
                self.report(id, Outcome::Skipped { because }, 0.0);
                pending.extend(self.graph.below(id));
            } else if above.iter().all(|above| self.states[above.0] == State::Done) {
                self.decide(id);
                if self.states[id.0] != State::Ready {
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
        let identity = match identify(instance, self.store, &mut self.outside, &record) {
            Ok(identity) => identity,
            Err(obstacles) => {
                self.reasons[id.0] = obstacles;
                return self.make_ready(id);
            }
        };
        match judge(id, instance, identity, self.store, self.plan_options) {
            Err(error) => self.fail(id, causes(&error)),
            Ok(entry) => {
                self.identities[id.0] = entry.identity;
                if let PlanState::Dirty(reasons) = entry.state {
                    self.reasons[id.0] = reasons;
                    self.make_ready(id);
                } else {
                    self.records[id.0] = entry.record;
                    self.set(id, State::Done);
                    self.report(id, Outcome::Fresh, 0.0);
                }
            }
        }
    }

    fn start_ready<'scope>(&mut self, scope: &'scope Scope<'scope, '_>, sender: &Sender<Message>)
    where
        'a: 'scope,
    {
        for slot in [Slot::Gpu, Slot::Cpu, Slot::Teacher] {
            while !self.stopping() && self.has_room(slot) {
                let Some((_, id)) = self.ready.get(&slot).and_then(|ready| ready.first().copied()) else { break };
                self.start(id, scope, sender);
            }
        }
    }

    fn start<'scope>(&mut self, id: InstanceId, scope: &'scope Scope<'scope, '_>, sender: &Sender<Message>)
    where
        'a: 'scope,
    {
        let threads = self.threads();
        let device = match self.slot(id) {
            Slot::Gpu => self.devices.pop_first().unwrap_or_else(|| panic!("BUG: a slot without a device")),
            Slot::Cpu | Slot::Teacher => "cpu".to_string(),
        };
        self.set(id, State::Running);
        if self.slot(id) == Slot::Gpu {
            self.lent.insert(id, device.clone());
        }
        let instance = self.expansion.get(id);
        let identity = self.identities[id.0].clone();
        let task = Task {
            id,
            instance,
            identity: identity.unwrap_or_else(|| panic!("BUG: `{}` is ready without a fingerprint", instance.name)),
            artifacts: self.artifacts(instance),
            forced: self.plan_options.force.contains(&id),
            threads,
            device,
            log: self.log(id),
            store: self.store,
            executor: self.options.executor.as_ref(),
            stop: &self.options.interrupt,
        };
        let sender = sender.clone();
        scope.spawn(move || {
            let begun = Instant::now();
            let events = sender.clone();
            let starts = sender.clone();
            let started = move || {
                starts.send(Message::Started(id)).ok();
            };
            let relay = move |event| {
                events.send(Message::Event(id, event)).ok();
            };
            let finished = task.perform(&started, &relay);
            sender.send(Message::Finished(id, Box::new(finished), begun.elapsed().as_secs_f64())).ok();
        });
    }

    fn receive(&mut self, receiver: &Receiver<Message>) {
        match receiver.recv_timeout(ASK_AGAIN) {
            Ok(Message::Started(id)) => {
                self.observer.started(id, self.expansion.get(id), &self.reasons[id.0]);
            }
            Ok(Message::Event(id, event)) => self.observer.event(id, self.expansion.get(id), &event),
            Ok(Message::Finished(id, finished, seconds)) => self.finish(id, *finished, seconds),
            Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {
                for id in std::mem::take(&mut self.elsewhere) {
                    self.set(id, State::Ready);
                }
            }
        }
    }

    fn finish(&mut self, id: InstanceId, finished: Finished, seconds: f64) {
        match finished {
            Finished::Ran(record) | Finished::Fresh(record) if record.fingerprint != self.fingerprint(id) => {
                panic!("BUG: `{}` was committed under another fingerprint", self.name(id))
            }
            Finished::Ran(record) => {
                self.records[id.0] = Some(record);
                self.set(id, State::Done);
                self.report(id, Outcome::Ran, seconds);
            }
            Finished::Fresh(record) => {
                self.records[id.0] = Some(record);
                self.set(id, State::Done);
                self.report(id, Outcome::Fresh, seconds);
            }
            Finished::Busy => {
                self.observer.elsewhere(id, self.expansion.get(id));
                self.set(id, State::Elsewhere);
                return;
            }
            Finished::Interrupted => {
                // What lies below was not reached either: the end of the run tells so.
                self.set(id, State::Left);
                self.report(id, Outcome::Interrupted, seconds);
                return;
            }
            Finished::Failed(causes) => {
                self.set(id, State::Failed);
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

    /// Gives everything that was not reached its outcome.
    fn close(&mut self) {
        let interrupted = self.options.interrupt.load(Ordering::Relaxed);
        for id in self.expansion.ids() {
            if !matches!(self.states[id.0], State::Blocked | State::Ready | State::Elsewhere) {
                continue;
            }
            let outcome = match self.failed {
                Some(failed) if !interrupted => Outcome::Skipped {
                    because: format!("`{}` failed, and the run stops at the first failure", self.name(failed)),
                },
                _ => Outcome::Interrupted,
            };
            self.set(id, State::Left);
            self.report(id, outcome, 0.0);
        }
    }

    /// Keeps an outcome: in the report, under the instance's name in the store, as links, and for the observer.
    fn report(&mut self, id: InstanceId, outcome: Outcome, seconds: f64) {
        let instance = self.expansion.get(id);
        if let Err(error) = self.publish(id, instance, &outcome) {
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

    fn publish(&self, id: InstanceId, instance: &Instance, outcome: &Outcome) -> Result<()> {
        let known = self.store.latest(&self.plan_options.experiment, &instance.name);
        let inside = |log: PathBuf| log.strip_prefix(self.store.root()).unwrap_or(&log).to_string_lossy().into_owned();
        let note = match (&self.records[id.0], outcome) {
            (Some(record), Outcome::Ran | Outcome::Fresh) => LatestNote {
                fingerprint: Some(record.fingerprint),
                log: Some(record.provenance.log.clone()),
                failed: false,
            },
            (_, Outcome::Failed(Failure { log: Some(log), .. })) => {
                LatestNote { log: Some(inside(log.clone())), failed: true, ..known }
            }
            (_, Outcome::Interrupted) if self.log(id).exists() => {
                LatestNote { log: Some(inside(self.log(id))), ..known }
            }
            _ => return Ok(()),
        };
        self.store.note_latest(&self.plan_options.experiment, &instance.name, &note)?;
        let (Some(out), Some(record)) = (&self.options.out, &self.records[id.0]) else { return Ok(()) };
        let paths = record.outputs.iter().map(|(name, artifact)| (name.clone(), self.store.artifact_path(artifact)));
        link_outputs(out, &self.plan_options.experiment, &instance.name, &paths.collect::<Vec<_>>())
    }

    fn stopping(&self) -> bool {
        self.options.interrupt.load(Ordering::Relaxed) || (self.failed.is_some() && !self.options.keep_going)
    }

    fn has_room(&self, slot: Slot) -> bool {
        let taken = self.running.get(&slot).map_or(0, BTreeSet::len);
        match slot {
            Slot::Cpu => taken < self.options.jobs.max(1),
            Slot::Gpu => !self.devices.is_empty(),
            Slot::Teacher => taken < self.options.teachers.max(1),
        }
    }

    fn slot(&self, id: InstanceId) -> Slot {
        match self.expansion.get(id).kind.pool {
            Pool::Teacher => Slot::Teacher,
            Pool::Model if self.options.device.contains("cuda") => Slot::Gpu,
            Pool::Model | Pool::Light => Slot::Cpu,
        }
    }

    /// The cores, shared by the stages that run or could run now.
    fn threads(&self) -> usize {
        let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let count = |queue: Option<usize>| queue.unwrap_or_default();
        let busy = count(self.running.get(&Slot::Cpu).map(BTreeSet::len));
        let ready = count(self.ready.get(&Slot::Cpu).map(BTreeSet::len));
        (cores / (busy + ready).clamp(1, self.options.jobs.max(1))).max(1)
    }

    fn artifacts(&self, instance: &Instance) -> BTreeMap<String, crate::stage::Artifact> {
        let found = instance.inputs.iter().filter_map(|input| match &input.upstream {
            Upstream::Output { instance: above, output, .. } => {
                let artifact = self.records[above.0].as_ref()?.outputs.get(*output)?;
                Some((input.role.clone(), artifact.clone()))
            }
            Upstream::Outside { .. } => None,
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

    fn fingerprint(&self, id: InstanceId) -> crate::base::Hash {
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
