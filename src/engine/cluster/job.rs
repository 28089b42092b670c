//! A job on a node of the cluster: runs one task as the local executor would, and commits its result.
//!
//! It trusts the store and not the queue: it takes the lock of its fingerprint, and if the result is there already, because
//! a second copy of the job was faster, it has nothing to do.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::queue::JobEnvironment;
use super::submission::{JobEvent, JobResult, TaskFile, TaskWork, end_path, events_path, task_path};
use crate::dirty::DirtyReason;
use crate::identity::{ExternalInputs, Identity};
use crate::input_paths::input_artifacts;
use crate::launcher::Launcher;
use crate::plan::{PlanOptions, PlanState, plan_with};
use crate::process_launcher::MEMORY;
use crate::stop::StopFlag;
use crate::task::{Performed, Task, TaskResult};
use crate::workers::commit;
use ablate_core::base::{ErrorChain, StageEvent, files};
use ablate_core::stage::Registry;
use ablate_experiment::{Instance, InstanceId, PortableInstance, Upstream};
use ablate_store::{Build, ExperimentId, LatestNote, SlimRecord, StageRecord, Store};

/// Exit codes of a job: its work is done, it failed, or it had to end and can be continued.
pub const DONE: u8 = 0;
pub const FAILED: u8 = 1;
pub const TO_BE_CONTINUED: u8 = 75;

/// The shortest time between two lines about the progress.
const PROGRESS_INTERVAL: Duration = Duration::from_secs(1);

/// How often a job looks whether the holder of its fingerprint's lock has ended.
const LOCK_INTERVAL: Duration = Duration::from_secs(1);

/// How long after the end of a stage a signal to this process may arrive that was sent to both.
const SIGNAL_DELAY: Duration = Duration::from_millis(300);

/// The signals that a job has received.
#[derive(Clone, Debug, Default)]
pub struct JobSignals {
    /// Set to end the job and keep its work.
    pub stop: Arc<AtomicBool>,
    /// Set before `stop` if the reason is the time limit.
    pub time_limit: Arc<AtomicBool>,
}

/// Runs the job `index` of the submission in `folder`. Returns its exit code, and why it failed: the node may not be able to write
/// that where the driver sees it.
pub fn run_cluster_job(
    folder: &Path,
    index: usize,
    environment: &JobEnvironment,
    registry: &Registry,
    launcher: &dyn Launcher,
    build: &dyn Fn(&Store) -> Build,
    signals: &JobSignals,
) -> (u8, Option<ErrorChain>) {
    let end = end_path(folder, index);
    // The queue repeats a job under the same number.
    files::remove_file(&end).ok();
    let events = EventFile::new(events_path(folder, index));
    let job = || -> Result<JobResult> {
        let task: TaskFile = files::read_json(&task_path(folder, index))?;
        let store = Store::open(&task.store)?;
        // Excludes `gc` while this process stores objects without a record.
        let _shared = store.lock_shared()?;
        let build = build(&store);
        Job { store: &store, environment, registry, launcher, build: &build, signals, events: &events }.run(task)
    };
    let result = job().unwrap_or_else(|error| JobResult::Failed(ErrorChain::of(&error)));
    events.close();
    let code = match &result {
        JobResult::Done => DONE,
        JobResult::Failed(_) => FAILED,
        JobResult::Interrupted { .. } => TO_BE_CONTINUED,
    };
    // The driver also finds the result without this file, from the store or from the queue.
    let text = serde_json::to_vec(&result).unwrap_or_else(|error| panic!("BUG: a result is plain data: {error}"));
    files::write_private(&end, &text).ok();
    match result {
        JobResult::Failed(causes) => (code, Some(causes)),
        JobResult::Done | JobResult::Interrupted { .. } => (code, None),
    }
}

struct Job<'a> {
    store: &'a Store,
    environment: &'a JobEnvironment,
    registry: &'a Registry,
    launcher: &'a dyn Launcher,
    build: &'a Build,
    signals: &'a JobSignals,
    events: &'a EventFile,
}

/// An instance with its inputs.
struct Ready {
    instance: Instance,
    identity: Identity,
    artifacts: BTreeMap<String, ablate_core::stage::Artifact>,
}

impl Job<'_> {
    fn run(&self, file: TaskFile) -> Result<JobResult> {
        let Some(Ready { instance, identity, artifacts }) = self.ready(file.work, &file.experiment)? else {
            return Ok(JobResult::Done);
        };
        self.check_variables(&instance, &identity)?;
        let threads = self
            .environment
            .cpus
            .unwrap_or_else(|| std::thread::available_parallelism().map_or(1, std::num::NonZero::get));
        let fingerprint = identity.fingerprint;
        let task = Task {
            id: InstanceId(0),
            instance: &instance,
            identity,
            artifacts,
            forced: file.forced,
            retry: file.retry,
            detach: false,
            threads,
            time: file.time,
            devices: (0..file.gpu).map(|number| format!("cuda:{number}")).collect(),
            variables: self.environment.variables.clone(),
            log: file.log,
            build: self.build,
            store: self.store,
            launcher: self.launcher,
            // The driver fetches results of other machines, when its run starts.
            shared: None,
            stop: StopFlag::new(self.signals.stop.clone()),
        };
        let started = || self.events.write(&JobEvent::Started { host: ablate_store::host() });
        let events = |event| self.events.stage(event);
        let interrupted = || {
            let time_limit = self.signals.time_limit.load(Ordering::SeqCst);
            JobResult::Interrupted { time_limit }
        };
        loop {
            let result = match task.perform(&started, &events) {
                Performed::Uncommitted(stage) => match commit(self.store, std::slice::from_ref(&stage.record)) {
                    Ok(()) => {
                        // The result is safe. If the work folder cannot be removed, `gc` removes it later.
                        files::remove_dir(&stage.work).ok();
                        self.note(&file.experiment, &instance, &stage.record);
                        return Ok(JobResult::Done);
                    }
                    Err(error) => TaskResult::Failed(ErrorChain::of(&error)),
                },
                Performed::Finished(result) => result,
            };
            return Ok(match result {
                TaskResult::Ran(_) | TaskResult::Fresh(_) | TaskResult::Fetched(_) => JobResult::Done,
                // A run, or another copy of this job, holds the lock of the fingerprint.
                TaskResult::Busy if !self.signals.stop.load(Ordering::SeqCst) => {
                    std::thread::sleep(LOCK_INTERVAL);
                    continue;
                }
                TaskResult::Busy | TaskResult::Interrupted => interrupted(),
                // The queue sends SIGTERM to the stage's process as well, which may end before this process knows of it.
                TaskResult::Failed(_) if self.is_stopped_within(SIGNAL_DELAY) => interrupted(),
                TaskResult::Failed(causes) => JobResult::Failed(with_memory(causes, file.memory)),
                TaskResult::Detached(waits_for) => {
                    bail!("BUG: `{}` waits for an endpoint in a job: {waits_for} ({fingerprint})", instance.name)
                }
            });
        }
    }

    /// Whether this process has to end, now or within this time.
    fn is_stopped_within(&self, time: Duration) -> bool {
        let begun = Instant::now();
        while begun.elapsed() < time && !self.signals.stop.load(Ordering::SeqCst) {
            std::thread::sleep(Duration::from_millis(10));
        }
        self.signals.stop.load(Ordering::SeqCst)
    }

    /// The instance with its inputs; `None` if its result is in the store.
    fn ready(&self, work: TaskWork, experiment: &ExperimentId) -> Result<Option<Ready>> {
        let (instances, name) = match work {
            TaskWork::Ready { instance, inputs, fingerprint, artifacts } => {
                let instance = instance.into_instance(self.registry)?;
                return Ok(Some(Ready { instance, identity: Identity { inputs, fingerprint }, artifacts }));
            }
            TaskWork::Planned { instances, instance } => (instances, instance),
        };
        let all: Vec<PortableInstance> = files::read_json(&instances)?;
        let mut expansion = PortableInstance::into_expansion(all, self.registry)?;
        let id =
            expansion.find(&name).with_context(|| format!("`{}` has no instance `{name}`", instances.display()))?;
        let options = PlanOptions { experiment: experiment.clone(), ..PlanOptions::default() };
        let mut plan = plan_with(&expansion, self.store, &options, &mut ExternalInputs::default())?;
        let records: Vec<Option<SlimRecord>> = plan.entries.iter_mut().map(|entry| entry.record.take()).collect();
        let entry = plan.entries.swap_remove(id.0);
        let instance = expansion.get(id);
        let reasons = match entry.state {
            PlanState::Fresh => return Ok(None),
            PlanState::Dirty(reasons) => reasons,
            PlanState::Waiting(upstream) => {
                let names: Vec<String> = upstream.iter().map(|id| format!("`{}`", expansion.get(*id).name)).collect();
                bail!("its inputs have no result in the store: {}", names.join(", "))
            }
        };
        let Some(identity) = entry.identity.filter(|_| !reasons.iter().any(DirtyReason::is_obstacle)) else {
            let reasons: Vec<String> = reasons.iter().map(ToString::to_string).collect();
            bail!("it cannot run on this node: {}", reasons.join("; "))
        };
        let artifacts = input_artifacts(instance, &|index| records[index].as_ref());
        Ok(Some(Ready { instance: expansion.instances.swap_remove(id.0), identity, artifacts }))
    }

    /// Notes the result for `gc`, `why` and `logs`, because no run may ever follow this job.
    fn note(&self, experiment: &ExperimentId, instance: &Instance, record: &StageRecord) {
        let (fingerprint, log) = (Some(record.fingerprint), Some(record.provenance.log.clone()));
        let note = LatestNote { fingerprint, log, failed: false, causes: Vec::new() };
        if let Err(error) = self.store.note_latest(experiment, &[(instance.name.clone(), note)]) {
            tracing::warn!("the result of `{}` could not be noted: {error:#}", instance.name);
        }
    }

    /// Fails if a variable that is part of the fingerprint has another value on this node.
    fn check_variables(&self, instance: &Instance, identity: &Identity) -> Result<()> {
        for (input, hash) in instance.inputs.iter().zip(&identity.inputs) {
            if let Upstream::Environment { name } = &input.upstream
                && self.store.variable_hash(std::env::var_os(name).as_deref()) != *hash
            {
                bail!(
                    "the environment variable `{name}` has another value in the job than where the run was started\nhelp: do not set \
                     it in the lines of `setup`"
                );
            }
        }
        Ok(())
    }
}

/// Adds the job's memory to the causes if a process was killed, as the kernel does when memory runs out.
fn with_memory(mut causes: ErrorChain, memory: Option<u64>) -> ErrorChain {
    if causes.chain.iter().any(|cause| cause.contains(MEMORY)) {
        causes.chain.push(memory_help(memory));
    }
    causes
}

/// What to do if a job needs more memory.
pub(super) fn memory_help(memory: Option<u64>) -> String {
    let has = match memory {
        Some(memory) => format!("its job has {memory} MiB of memory per node"),
        None => "its job has the partition's default memory".to_string(),
    };
    format!("{has}: `limits.memory` of the stage, or `memory` in the configuration, sets it")
}

/// The events of a job, for the driver. A write error does not fail the stage.
struct EventFile {
    path: PathBuf,
    state: Mutex<Buffered>,
}

#[derive(Default)]
struct Buffered {
    /// When the last progress was written.
    written: Option<Instant>,
    /// The last progress, if it is not written yet.
    progress: Option<StageEvent>,
}

impl EventFile {
    fn new(path: PathBuf) -> EventFile {
        EventFile { path, state: Mutex::default() }
    }

    fn stage(&self, event: StageEvent) {
        if matches!(event, StageEvent::Progress { .. }) {
            let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
            if state.written.is_some_and(|last| last.elapsed() < PROGRESS_INTERVAL) {
                state.progress = Some(event);
                return;
            }
            state.written = Some(Instant::now());
            state.progress = None;
        }
        self.write(&JobEvent::Stage(event));
    }

    /// Writes the last progress.
    fn close(&self) {
        let last = self.state.lock().unwrap_or_else(PoisonError::into_inner).progress.take();
        if let Some(event) = last {
            self.write(&JobEvent::Stage(event));
        }
    }

    fn write(&self, event: &JobEvent) {
        let Ok(mut line) = serde_json::to_vec(event) else { return };
        line.push(b'\n');
        files::append_private(&self.path).and_then(|mut file| Ok(file.write_all(&line)?)).ok();
    }
}

/// The variables that the environment of a job must have for these instances: those that they declare.
pub(super) fn declared_variables(instances: &[&Instance]) -> Result<Vec<(String, String)>> {
    let (mut names, mut patterns) = (BTreeSet::new(), BTreeSet::new());
    for instance in instances {
        let stage = instance.parsed()?;
        names.extend(stage.variables());
        if let Some(program) = stage.program() {
            names.extend(program.inherited_env);
            patterns.extend(program.passed_env);
        }
        for input in &instance.inputs {
            if let Upstream::Environment { name } = &input.upstream {
                names.insert(name.clone());
            }
        }
    }
    let names: Vec<String> = names.into_iter().collect();
    let patterns: Vec<String> = patterns.into_iter().collect();
    let mut values = crate::environment::passed_variables(&patterns)?.0;
    values.extend(crate::environment::declared_variables(&names)?);
    Ok(values.into_iter().collect())
}
