//! The scheduler: takes a plan and brings every selected instance to an outcome.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use super::cluster::ClusterExecutor;
use super::dirty::DirtyReason;
use super::executor::{Executor, TaskMessage};
use super::graph::Graph;
use super::identity::{ExternalInputs, Identity, hash_inputs};
use super::input_paths::input_artifacts;
use super::journal::Journal;
use super::noop_cache::{FreshInstance, OutputStamps};
use super::observer::Observer;
use super::options::RunOptions;
use super::plan::{Plan, PlanOptions, PlanState, classify};
use super::report::{Failure, InstanceReport, Outcome};
use super::run_state::{InstanceState, RunState};
use super::shared_slots::SharedSlots;
use super::stop::{StopFlag, StopRequest, StopRequests};
use super::task::{Task, TaskResult};
use super::workers::Workers;
use ablate_core::base::{ErrorChain, Hash, StageEvent};
use ablate_experiment::{Expansion, InstanceId};
use ablate_store::{SlimRecord, Store};

/// How often an instance that waits for another run is tried again.
const RETRY_INTERVAL: Duration = Duration::from_millis(200);

/// One run of an expansion.
pub(super) struct Scheduler<'a> {
    expansion: &'a Expansion,
    store: &'a Store,
    options: &'a RunOptions,
    plan_options: &'a PlanOptions,
    observer: &'a dyn Observer,
    journal: Journal<'a>,
    /// The name of the run.
    run: String,
    graph: Graph,
    state: RunState,
    /// The shared slots that the running instances hold.
    slots: SharedSlots<'a>,
    identities: Vec<Option<Identity>>,
    reasons: Vec<Vec<DirtyReason>>,
    records: Vec<Option<SlimRecord>>,
    /// Number of failed attempts per instance.
    failed_attempts: BTreeMap<InstanceId, u32>,
    /// Set for an instance that the no-op cache confirmed: its links and its note are up to date too.
    stamps: Vec<Option<OutputStamps>>,
    external: ExternalInputs,
    /// The requests of other processes to stop instances.
    stop_requests: StopRequests,
    stop_flags: Vec<StopFlag>,
    /// The first instance that failed.
    first_failure: Option<InstanceId>,
    /// When the instances that wait for other runs were last tried.
    last_retry: Instant,
}

impl<'a> Scheduler<'a> {
    pub(super) fn new(
        expansion: &'a Expansion,
        store: &'a Store,
        options: &'a RunOptions,
        plan_options: &'a PlanOptions,
        observer: &'a dyn Observer,
        folder: &'a Path,
        external: ExternalInputs,
    ) -> Scheduler<'a> {
        let count = expansion.instances.len();
        let graph = Graph::new(expansion);
        Scheduler {
            expansion,
            store,
            options,
            plan_options,
            observer,
            run: folder.file_name().unwrap_or_default().to_string_lossy().into_owned(),
            journal: Journal::new(store, &plan_options.experiment, observer, folder, plan_options.links.as_deref()),
            state: RunState::new(expansion, &graph, options),
            slots: SharedSlots::new(store),
            graph,
            identities: vec![None; count],
            reasons: vec![Vec::new(); count],
            records: vec![None; count],
            failed_attempts: BTreeMap::new(),
            stamps: vec![None; count],
            external,
            stop_requests: StopRequests::new(folder),
            stop_flags: (0..count).map(|_| StopFlag::new(options.interrupt.clone())).collect(),
            first_failure: None,
            last_retry: Instant::now(),
        }
    }

    /// Returns when nothing runs and nothing can start any more.
    pub(super) fn run(&mut self, plan: Plan, selected: &BTreeSet<InstanceId>) {
        std::thread::scope(|scope| {
            let (mut workers, messages) = Workers::new(scope, self.store);
            let cluster = self.options.cluster.as_deref().map(|cluster| {
                let experiment = &self.plan_options.experiment;
                ClusterExecutor::new(scope, self.store, cluster, experiment, self.run.clone(), workers.messages())
            });
            self.apply_plan(plan, selected);
            loop {
                self.take_stop_requests();
                while !self.stopping()
                    && let Some(id) = self.state.next()
                {
                    match &cluster {
                        Some(cluster) if self.state.has_job(id) => self.start(id, cluster),
                        _ => self.start(id, &workers),
                    }
                }
                if self.state.nothing_runs() && (self.state.nothing_waits() || self.stopping()) {
                    return;
                }
                self.receive(&messages, &mut workers);
                workers.commit_if_due(self.state.is_idle());
                self.journal.flush_if_due();
            }
        });
        self.finish_unreached();
        self.journal.flush();
    }

    pub(super) fn into_reports(self) -> Vec<InstanceReport> {
        self.journal.into_reports()
    }

    /// The instances that are fresh now, for the no-op cache; `None` for the others.
    pub(super) fn fresh(&self) -> impl Iterator<Item = Option<FreshInstance<'_>>> {
        self.identities.iter().zip(&self.records).zip(&self.stamps).map(|((identity, record), stamps)| {
            let (inputs, record) = (identity.as_ref()?.inputs.as_slice(), record.as_ref()?);
            Some(FreshInstance { inputs, record, stamps: stamps.as_ref() })
        })
    }

    /// Sets the first state of every instance.
    fn apply_plan(&mut self, plan: Plan, selected: &BTreeSet<InstanceId>) {
        for entry in plan.entries {
            let id = entry.id;
            self.identities[id.0] = entry.identity;
            self.stamps[id.0] = entry.stamps;
            match entry.state {
                PlanState::Fresh => {
                    self.records[id.0] = entry.record;
                    self.state.set(id, InstanceState::Done);
                    if selected.contains(&id) {
                        let is_fetched = self.options.fetched.contains(&self.fingerprint(id));
                        self.report(id, if is_fetched { Outcome::Fetched } else { Outcome::Fresh }, 0.0, true);
                    }
                }
                _ if !selected.contains(&id) => self.state.set(id, InstanceState::Skipped),
                PlanState::Dirty(reasons) => {
                    self.reasons[id.0] = reasons;
                    self.make_ready(id);
                }
                PlanState::Waiting(_) => {}
            }
        }
        // An instance whose upstream is not selected gets its outcome now, because nothing will unblock it later.
        for id in self.expansion.ids() {
            if self.state.get(id) == InstanceState::Blocked {
                self.unblock(id);
            }
        }
    }

    /// Queues a dirty instance, or fails it if it cannot run.
    fn make_ready(&mut self, id: InstanceId) {
        let obstacles = self.reasons[id.0].iter().filter(|reason| reason.is_obstacle());
        let chain: Vec<String> = obstacles.map(ToString::to_string).chain(self.state.unavailable(id)).collect();
        if chain.is_empty() {
            self.state.set(id, InstanceState::Ready);
        } else {
            self.fail_before_start(id, ErrorChain { chain, input: true });
        }
    }

    fn fail_before_start(&mut self, id: InstanceId, causes: ErrorChain) {
        self.state.set(id, InstanceState::Failed);
        self.first_failure.get_or_insert(id);
        let failure = Failure { instance: self.name(id).to_string(), causes, log: None, work: None };
        self.report(id, Outcome::Failed(failure), 0.0, false);
    }

    /// Checks a blocked instance again, because the state of an upstream instance has changed: it may be classified
    /// now, or must be skipped. If it ends here, its own readers are checked too.
    fn unblock(&mut self, id: InstanceId) {
        let mut pending = vec![id];
        while let Some(id) = pending.pop() {
            if self.state.get(id) != InstanceState::Blocked {
                continue;
            }
            let upstream = self.graph.upstream(id);
            let is_lost = |state| matches!(state, InstanceState::Failed | InstanceState::Skipped);
            if let Some(lost) = upstream.iter().find(|id| is_lost(self.state.get(**id))) {
                let because = self.skip_reason(*lost);
                self.state.set(id, InstanceState::Skipped);
                self.report(id, Outcome::Skipped { because }, 0.0, false);
                pending.extend(self.graph.downstream(id));
            } else if upstream.iter().all(|id| self.state.get(*id) == InstanceState::Done) {
                self.classify(id);
                if self.state.get(id) != InstanceState::Ready {
                    pending.extend(self.graph.downstream(id));
                }
            }
        }
    }

    /// Computes the fingerprint of an instance whose upstream is done. The instance may turn out to be fresh.
    fn classify(&mut self, id: InstanceId) {
        let instance = self.expansion.get(id);
        let records = &self.records;
        let record = |index: usize| records[index].as_ref();
        let identity = match hash_inputs(instance, self.store, &mut self.external, &record) {
            Ok(inputs) => Identity::new(instance, inputs),
            Err(obstacles) => {
                self.reasons[id.0] = obstacles;
                return self.make_ready(id);
            }
        };
        match classify(id, instance, identity, self.store, self.plan_options) {
            Err(error) => self.fail_before_start(id, ErrorChain::of(&error)),
            Ok(entry) => {
                self.identities[id.0] = entry.identity;
                if let PlanState::Dirty(reasons) = entry.state {
                    self.reasons[id.0] = reasons;
                    self.make_ready(id);
                } else {
                    self.done(id, entry.record, Outcome::Fresh, 0.0);
                }
            }
        }
    }

    fn done(&mut self, id: InstanceId, record: Option<SlimRecord>, outcome: Outcome, seconds: f64) {
        self.records[id.0] = record;
        self.state.set(id, InstanceState::Done);
        self.report(id, outcome, seconds, false);
    }

    /// Starts a ready instance, or pauses its pool if other runs use what it needs.
    fn start(&mut self, id: InstanceId, executor: &dyn Executor<'a>) {
        let threads = self.state.threads();
        let request = self.state.slot_request(id);
        let devices = match self.slots.take(id, &request) {
            Ok(Some(devices)) => devices,
            Ok(None) => {
                self.journal.waits(id, self.expansion.get(id), &request.wait_reason());
                return self.state.pause_pool(id);
            }
            Err(error) => {
                self.fail_before_start(id, ErrorChain::of(&error));
                return self.unblock_downstream(id);
            }
        };
        self.state.start(id, devices);
        let devices = self.state.devices(id);
        let instance = self.expansion.get(id);
        tracing::debug!(instance = instance.name, ?devices, threads, "starts");
        let identity = self.identities[id.0].clone();
        let forced = self.plan_options.force.contains(&id);
        executor.start(Task {
            id,
            instance,
            identity: identity.unwrap_or_else(|| panic!("BUG: `{}` is ready without a fingerprint", instance.name)),
            artifacts: input_artifacts(instance, &|index| self.records[index].as_ref()),
            forced,
            retry: if forced { self.plan_options.retry.clone() } else { BTreeSet::new() },
            detach: self.options.detach,
            threads,
            time: self.options.time,
            devices,
            variables: Vec::new(),
            log: self.journal.log(instance),
            build: &self.options.build,
            store: self.store,
            launcher: self.options.launcher.as_ref(),
            shared: self.options.shared.as_deref(),
            stop: self.stop_flags[id.0].clone(),
        });
    }

    fn receive<'scope>(&mut self, messages: &Receiver<TaskMessage>, workers: &mut Workers<'scope, '_, 'a>)
    where
        'a: 'scope,
    {
        let message = messages.recv_timeout(RETRY_INTERVAL.min(workers.max_wait()));
        self.observer.tick();
        match message {
            Ok(TaskMessage::Queued(id, state)) => self.journal.queued(id, self.expansion.get(id), &state),
            Ok(TaskMessage::Warning(text)) => self.observer.warning(&text),
            Ok(TaskMessage::Started(id)) => {
                let instance = self.expansion.get(id);
                self.journal.started(instance);
                self.observer.started(id, instance, &self.reasons[id.0]);
            }
            Ok(TaskMessage::Event(id, event)) => self.journal.event(id, self.expansion.get(id), &event),
            Ok(TaskMessage::Uncommitted(stage)) => {
                self.state.release(stage.id);
                self.slots.release(stage.id);
                workers.add_to_batch(*stage);
            }
            Ok(TaskMessage::Finished(id, result, seconds)) => self.finish(id, result, seconds),
            Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {}
        }
        if self.last_retry.elapsed() > RETRY_INTERVAL {
            self.last_retry = Instant::now();
            self.state.retry_waiting();
        }
    }

    fn finish(&mut self, id: InstanceId, result: TaskResult, seconds: f64) {
        self.slots.release(id);
        match result {
            TaskResult::Ran(record) => {
                if let Some(shared) = &self.options.shared {
                    shared.committed(record.fingerprint);
                }
                self.done(id, Some(SlimRecord::from(&*record)), Outcome::Ran, seconds);
            }
            TaskResult::Fetched(record) => self.done(id, Some(record), Outcome::Fetched, seconds),
            TaskResult::Fresh(record) => self.done(id, Some(record), Outcome::Fresh, seconds),
            TaskResult::Busy => {
                self.journal.waits(id, self.expansion.get(id), "another run is working on it");
                self.state.set(id, InstanceState::RunningElsewhere);
                return;
            }
            TaskResult::Interrupted => {
                self.state.set(id, InstanceState::Skipped);
                self.report(id, Outcome::Interrupted, seconds, false);
                if self.options.interrupt.load(Ordering::Relaxed) {
                    // Its readers get the outcome `Interrupted` at the end of the run.
                    return;
                }
            }
            TaskResult::Detached(waits_for) => {
                self.state.set(id, InstanceState::Skipped);
                self.report(id, Outcome::Detached { waits_for }, seconds, false);
            }
            TaskResult::Failed(causes) if self.retries(id, &causes) => return self.state.set(id, InstanceState::Ready),
            TaskResult::Failed(causes) => {
                self.state.set(id, InstanceState::Failed);
                self.first_failure.get_or_insert(id);
                let work = self.store.leftover_path(self.fingerprint(id));
                let log = Some(self.journal.log(self.expansion.get(id)));
                let failure = Failure { instance: self.name(id).to_string(), causes, log, work };
                self.report(id, Outcome::Failed(failure), seconds, false);
            }
        }
        self.unblock_downstream(id);
    }

    /// Stops what other processes want to stop.
    fn take_stop_requests(&mut self) {
        for request in self.stop_requests.poll_if_due() {
            match request {
                StopRequest::Run => {
                    if let Some(cluster) = &self.options.cluster {
                        cluster.cancel.store(true, Ordering::Relaxed);
                    }
                    self.options.interrupt.store(true, Ordering::Relaxed);
                }
                StopRequest::Instance(name) => match self.expansion.ids().find(|id| self.name(*id) == name) {
                    Some(id) => self.stop_instance(id),
                    None => self.observer.warning(&format!(
                        "a line of the file `stop` in the run's folder names `{name}`, which is not an instance of the run"
                    )),
                },
            }
        }
    }

    /// Stops a running instance, or ends one that has not started. One that has ended keeps its outcome.
    fn stop_instance(&mut self, id: InstanceId) {
        use InstanceState::{Blocked, Done, Failed, Ready, Running, RunningElsewhere, Skipped};
        match self.state.get(id) {
            // Its execution reads the flag.
            Running => self.stop_flags[id.0].stop_instance(),
            Blocked | Ready | RunningElsewhere => {
                self.stop_flags[id.0].stop_instance();
                self.state.set(id, Skipped);
                self.report(id, Outcome::Interrupted, 0.0, false);
                self.unblock_downstream(id);
            }
            Done | Failed | Skipped => {}
        }
    }

    fn unblock_downstream(&mut self, id: InstanceId) {
        for reader in self.graph.downstream(id) {
            self.unblock(reader);
        }
    }

    /// Counts a failed attempt and decides whether the instance is tried again. Wrong input is not.
    fn retries(&mut self, id: InstanceId, causes: &ErrorChain) -> bool {
        let instance = self.expansion.get(id);
        let allowed = instance.limits.retries.max(self.options.retries);
        let failed = self.failed_attempts.entry(id).or_default();
        *failed += 1;
        if causes.input || *failed > allowed || self.stop_flags[id.0].is_set() {
            return false;
        }
        let why = causes.chain.first().map_or("", String::as_str);
        let text = format!("attempt {failed} of {} failed: {why}", u64::from(allowed) + 1);
        self.journal.event(id, instance, &StageEvent::Note { text });
        true
    }

    /// Reports the outcome of every instance that the run did not reach.
    fn finish_unreached(&mut self) {
        use InstanceState::{Blocked, Ready, RunningElsewhere};
        let interrupted = self.options.interrupt.load(Ordering::Relaxed);
        for id in self.expansion.ids() {
            if !matches!(self.state.get(id), Blocked | Ready | RunningElsewhere) {
                continue;
            }
            let outcome = match self.first_failure {
                Some(failed) if !interrupted => Outcome::Skipped {
                    because: format!("`{}` failed, and the run stops at the first failure", self.name(failed)),
                },
                _ => Outcome::Interrupted,
            };
            self.state.set(id, InstanceState::Skipped);
            self.report(id, outcome, 0.0, false);
        }
    }

    /// Passes an outcome to the journal. `planned` means that the plan found the instance fresh.
    fn report(&mut self, id: InstanceId, outcome: Outcome, seconds: f64, planned: bool) {
        let instance = self.expansion.get(id);
        let fingerprint = self.identities[id.0].as_ref().map(|identity| identity.fingerprint);
        let reasons = self.reasons[id.0].clone();
        let report = InstanceReport { id, name: instance.name.clone(), outcome, seconds, fingerprint, reasons };
        let record = self.records[id.0].as_ref().filter(|_| self.stamps[id.0].is_none());
        self.journal.finished(instance, report, record, planned);
    }

    fn stopping(&self) -> bool {
        self.options.interrupt.load(Ordering::Relaxed) || (self.first_failure.is_some() && !self.options.keep_going)
    }

    /// Why the readers of a failed or skipped instance are skipped.
    fn skip_reason(&self, id: InstanceId) -> String {
        match self.journal.outcome(id) {
            Some(Outcome::Skipped { because }) => because.clone(),
            Some(Outcome::Interrupted) if self.stop_flags[id.0].is_instance_stopped() => {
                format!("`{}` was stopped", self.name(id))
            }
            Some(Outcome::Interrupted) => format!("`{}` was interrupted", self.name(id)),
            Some(Outcome::Detached { .. }) => format!("`{}` waits for its endpoint", self.name(id)),
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
