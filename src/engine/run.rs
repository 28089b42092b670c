//! A run: what is asked of the engine, what it reports, and the folder that keeps both. Knows no terminal.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use anyhow::Result;
use serde::Serialize;

use super::dirty::DirtyReason;
use super::executor::Executor;
use super::identity::Outside;
use super::plan::{Plan, PlanEntry, PlanOptions, PlanState, decide};
use super::publish::Links;
use super::scheduler::Scheduler;
use super::select::{Selection, matching};
use super::standing::Standing;
use ablate_core::base::escape::indented;
use ablate_core::base::{ErrorChain, Hash, StageEvent, files};
use ablate_experiment::{Expansion, Instance, InstanceId, Upstream};
use ablate_store::{ExperimentEntry, ExperimentId, Lock, ObjectState, Store, host};

/// The lock in a run's folder that is held while it lives.
pub(super) const ALIVE: &str = "alive";

/// What is asked of a run.
#[derive(Clone)]
pub struct RunOptions {
    /// Stages at a time that use this machine.
    pub jobs: usize,
    /// Threads of each stage; the cores shared among the stages when not said. Never changes a result.
    pub threads: Option<usize>,
    /// Stages at a time that wait for a remote endpoint.
    pub teachers: usize,
    /// Slots of the pools that the experiment makes.
    pub pools: BTreeMap<String, usize>,
    /// GPUs, by number or UUID, that programs may be given.
    pub gpus: Vec<String>,
    /// How often every stage is tried again after a failure of the world, beside what its own limits say.
    pub retries: u32,
    /// How long an attempt of a stage may take whose own limits do not say it.
    pub time: Option<Duration>,
    /// After a failure go on with everything that does not lie below it.
    pub keep_going: bool,
    /// Names of stages or instances that run even if they are fresh.
    pub force: Vec<String>,
    pub selection: Selection,
    /// `cpu`, or the devices that model stages may have: `cuda:0`, or several: `cuda:0,cuda:1`.
    pub device: String,
    pub executor: Arc<dyn Executor>,
    /// Set to stop: nothing more is started, children are ended, their work stays resumable.
    pub interrupt: Arc<AtomicBool>,
    /// Where outputs are linked by name: `<out>/<experiment>/<instance>/<output>`.
    pub out: Option<PathBuf>,
    /// Name of the derived data in which runs of this experiment leave what they found, to find it sooner.
    pub standing: Option<String>,
    /// Whether the experiment is as its file has it: then what it has no more is forgotten by `gc`.
    pub as_written: bool,
    /// The words of the command, for the run's record.
    pub command: Vec<String>,
}

impl RunOptions {
    /// One job at a time on the CPU, keeping going, no links.
    pub fn new(executor: Arc<dyn Executor>) -> RunOptions {
        RunOptions {
            jobs: 1,
            threads: None,
            teachers: 4,
            pools: BTreeMap::new(),
            gpus: Vec::new(),
            retries: 0,
            time: None,
            keep_going: true,
            force: Vec::new(),
            selection: Selection::default(),
            device: "cpu".to_string(),
            executor,
            interrupt: Arc::default(),
            out: None,
            standing: None,
            as_written: true,
            command: Vec::new(),
        }
    }
}

/// What became of an instance.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "snake_case", tag = "outcome")]
pub enum Outcome {
    Ran,
    /// Its result was there, from before or from another run.
    Fresh,
    Failed(Failure),
    /// Not run, for this reason.
    Skipped {
        because: String,
    },
    /// Stopped by the user, resumable.
    Interrupted,
}

impl Outcome {
    /// The outcome in one word.
    pub fn word(&self) -> &'static str {
        match self {
            Outcome::Ran => "ran",
            Outcome::Fresh => "fresh",
            Outcome::Failed(_) => "failed",
            Outcome::Skipped { .. } => "skipped",
            Outcome::Interrupted => "interrupted",
        }
    }
}

/// Why an instance failed, and where to look.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Failure {
    pub instance: String,
    #[serde(flatten)]
    pub causes: ErrorChain,
    pub log: Option<PathBuf>,
    /// Where the next attempt goes on.
    pub work: Option<PathBuf>,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut causes = self.causes.chain.iter().map(|cause| indented(cause, "    "));
        let first = causes.next().unwrap_or_else(|| "it gave no reason".to_string());
        write!(f, "`{}` failed: {first}", self.instance)?;
        for cause in causes {
            write!(f, "\n  because {cause}")?;
        }
        if let Some(log) = &self.log {
            write!(f, "\n  log: {}", log.display())?;
        }
        let again = "help: when the cause is mended, run the same command again: finished stages are kept";
        match &self.work {
            // A folder with a dot in its name is a program's, which begins anew.
            Some(work) if work.extension().is_some() => {
                write!(f, "\n  its folder, until the next run: {}\n  {again}", work.display())?;
            }
            Some(_) => write!(f, "\n  {again}, this one goes on from its last checkpoint if it wrote any")?,
            None => {}
        }
        Ok(())
    }
}

/// What a run did.
#[derive(Clone, Debug, Serialize)]
pub struct RunReport {
    /// Name of the run: `<time>-<id>`.
    pub run: String,
    /// Where its record and logs are; a run that found nothing to do leaves none.
    pub folder: Option<PathBuf>,
    pub experiment: String,
    pub command: Vec<String>,
    pub started: String,
    pub seconds: f64,
    pub interrupted: bool,
    /// Whether the run has ended; a record that says no belongs to a running or killed one.
    pub ended: bool,
    /// How many instances were asked for, and how many of them the plan found fresh.
    pub selected: usize,
    pub fresh: usize,
    pub instances: Vec<InstanceReport>,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct InstanceReport {
    #[serde(skip)]
    pub id: InstanceId,
    pub name: String,
    #[serde(flatten)]
    pub outcome: Outcome,
    pub seconds: f64,
    pub fingerprint: Option<Hash>,
    pub reasons: Vec<DirtyReason>,
}

impl InstanceReport {
    fn fresh(entry: &PlanEntry, instance: &Instance) -> InstanceReport {
        InstanceReport {
            id: entry.id,
            name: instance.name.clone(),
            outcome: Outcome::Fresh,
            seconds: 0.0,
            fingerprint: entry.identity.as_ref().map(|identity| identity.fingerprint),
            reasons: Vec::new(),
        }
    }
}

impl RunReport {
    /// How many instances had an outcome that `wanted` accepts.
    pub fn count(&self, wanted: impl Fn(&Outcome) -> bool) -> usize {
        self.instances.iter().filter(|instance| wanted(&instance.outcome)).count()
    }

    pub fn failures(&self) -> impl Iterator<Item = &Failure> {
        self.instances.iter().filter_map(|instance| match &instance.outcome {
            Outcome::Failed(failure) => Some(failure),
            _ => None,
        })
    }

    /// 0 when everything asked for is there, 130 after an interruption, 2 when only wrong input stood in the way,
    /// else 1.
    pub fn exit_code(&self) -> u8 {
        let incomplete = |outcome: &Outcome| !matches!(outcome, Outcome::Ran | Outcome::Fresh);
        match (self.interrupted, self.count(incomplete)) {
            (true, _) => 130,
            (false, 0) => 0,
            (false, _) if self.failures().all(|failure| failure.causes.input) => 2,
            (false, _) => 1,
        }
    }
}

/// Watches a run. Every call comes from the thread that called [`run`].
pub trait Observer {
    /// The plan that the run begins with, and how many instances are selected.
    fn planned(&self, _plan: &Plan, _selected: &BTreeSet<InstanceId>) {}
    /// The instance's stage is about to run.
    fn started(&self, _id: InstanceId, _instance: &Instance, _reasons: &[DirtyReason]) {}
    /// The instance waits for another run, for this reason. Said once.
    fn waits(&self, _id: InstanceId, _instance: &Instance, _why: &str) {}
    /// Something that the user should know, and that fails nothing.
    fn warning(&self, _text: &str) {}
    fn event(&self, _id: InstanceId, _instance: &Instance, _event: &StageEvent) {}
    fn finished(&self, _id: InstanceId, _instance: &Instance, _outcome: &Outcome, _seconds: f64) {}
    fn ended(&self, _report: &RunReport) {}
}

/// Watches nothing.
pub struct Quiet;

impl Observer for Quiet {}

/// Brings every selected instance up to date. An error is one of the run as a whole; failures of stages are in the
/// report.
pub fn run(
    experiment: impl Into<ExperimentId>,
    expansion: &Expansion,
    store: &Store,
    options: &RunOptions,
    observer: &dyn Observer,
) -> Result<RunReport> {
    let (begun, started, experiment) = (Instant::now(), jiff::Timestamp::now(), experiment.into());
    // Taken before anything is found fresh, so that `gc` does not take it away; a store that cannot be written has no
    // `gc` either.
    let shared = store.lock_shared();
    let selected = options.selection.resolve(expansion)?;
    let force: BTreeSet<InstanceId> = matching(expansion, &options.force)?.intersection(&selected).copied().collect();
    let plan_options = PlanOptions {
        experiment: experiment.clone(),
        force,
        standing: options.standing.clone(),
        out: options.out.clone(),
    };
    let mut outside = Outside::default();
    let plan = sound_plan(expansion, store, &plan_options, &mut outside, &selected)?;
    store.save_memo();
    observer.planned(&plan, &selected);
    let mut report = RunReport {
        folder: None,
        run: run_name(started),
        experiment: experiment.name.clone(),
        command: options.command.clone(),
        started: started.to_string(),
        seconds: 0.0,
        interrupted: false,
        ended: false,
        selected: selected.len(),
        fresh: plan.counts(&selected).0,
        instances: Vec::new(),
    };
    if selected.iter().all(|id| plan.get(*id).looks.is_some()) {
        let fresh = selected.iter().map(|id| InstanceReport::fresh(plan.get(*id), expansion.get(*id)));
        report.instances = fresh.collect();
        report.seconds = begun.elapsed().as_secs_f64();
        report.ended = true;
        observer.ended(&report);
        return Ok(report);
    }
    store.check_writable()?;
    let _shared = shared?;
    store.remove_stale_sandboxes()?;
    let folder = store.runs_path().join(&report.run);
    report.folder = Some(folder.clone());
    save(&report)?;
    // Tells others that the run lives; free again when it has ended, however it did.
    let alive = Lock::try_take(&folder.join(ALIVE))?;
    let mut scheduler = Scheduler::new(expansion, store, options, &plan_options, observer, &folder, outside);
    scheduler.run(plan, &selected);
    if let Some(name) = &options.standing {
        let links = options.out.as_deref().map(|out| Links::new(out, &experiment.name));
        Standing::keep(store, name, expansion, links.as_ref(), scheduler.fresh());
    }
    if let Err(error) = note_experiment(&experiment, expansion, store, options) {
        tracing::warn!("the instances of the experiment could not be noted: {error:#}");
    }
    report.instances = scheduler.into_reports();
    report.seconds = begun.elapsed().as_secs_f64();
    report.interrupted = report.count(|outcome| *outcome == Outcome::Interrupted) > 0;
    report.ended = true;
    if let Err(error) = save(&report) {
        // What became of the stages matters more, and is told by the report.
        tracing::warn!("the run's own record could not be written: {error:#}");
    }
    drop(alive);
    store.save_memo();
    observer.ended(&report);
    Ok(report)
}

/// A plan whose fresh outputs have been read wherever a stage is about to read them. Damaged ones are taken out of
/// the way, which makes their producers dirty.
fn sound_plan(
    expansion: &Expansion,
    store: &Store,
    options: &PlanOptions,
    outside: &mut Outside,
    selected: &BTreeSet<InstanceId>,
) -> Result<Plan> {
    loop {
        let plan = decide(expansion, store, options, outside)?;
        let mut damaged = false;
        for id in selected.iter().filter(|id| plan.get(**id).state != PlanState::Fresh) {
            for input in &expansion.get(*id).inputs {
                let Upstream::Output { instance, output, .. } = &input.upstream else { continue };
                let above = plan.get(*instance).record.as_ref().and_then(|record| record.outputs.get(output));
                if let Some(artifact) = above
                    && store.check(artifact, true)? != ObjectState::Present
                {
                    store.quarantine(artifact)?;
                    damaged = true;
                }
            }
        }
        if !damaged {
            return Ok(plan);
        }
    }
}

/// Notes which instances the experiment has. Those that it had before stay where a value was changed for this run only.
fn note_experiment(id: &ExperimentId, expansion: &Expansion, store: &Store, options: &RunOptions) -> Result<()> {
    let mut instances: BTreeSet<String> = expansion.instances.iter().map(|instance| instance.name.clone()).collect();
    if !options.as_written {
        instances.extend(store.experiment_entry(id).into_iter().flat_map(|known| known.instances));
    }
    let out = options.out.as_deref().and_then(|out| std::path::absolute(out).ok());
    store.note_experiment(&ExperimentEntry { id: id.clone(), host: host(), out, instances })
}

fn save(report: &RunReport) -> Result<()> {
    report.folder.as_ref().map_or(Ok(()), |folder| files::write_json(&folder.join("run.json"), report))
}

/// A name that sorts by time and that no other run has.
fn run_name(started: jiff::Timestamp) -> String {
    let id = Hash::of_bytes(format!("{} {}", started.as_nanosecond(), std::process::id()).as_bytes());
    // To the millisecond: `gc` tells the latest runs by their names.
    format!("{}.{:03}Z-{}", started.strftime("%Y%m%dT%H%M%S"), started.subsec_millisecond(), &id.short()[..6])
}
