//! A whole run: plans, executes, and writes the report.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use super::cluster::{DetachContext, detach};
use super::dirty::DirtyReason;
use super::experiment_notes::note_experiment;
use super::git::GitState;
use super::identity::ExternalInputs;
use super::journal::Journal;
use super::links::{OutputLinks, output_folder};
use super::noop_cache::NoopCache;
use super::observer::Observer;
use super::options::RunOptions;
use super::plan::{Plan, PlanEntry, PlanOptions, PlanState, plan_with};
use super::report::{InstanceReport, Outcome, RunPhase, RunReport, job_text};
use super::run_folder::{alive_path, instances_path};
use super::run_number::take_number;
use super::scheduler::Scheduler;
use super::select::matching;
use ablate_core::base::{Hash, files};
use ablate_core::stage::{Artifact, Pool};
use ablate_experiment::{Expansion, Instance, InstanceId, Upstream};
use ablate_store::{ExperimentId, Lock, ObjectState, Store, host};

/// Brings every selected instance up to date. Failures of stages are in the report; an error means that the run as a
/// whole failed.
pub fn run(
    experiment: impl Into<ExperimentId>,
    expansion: &Expansion,
    store: &Store,
    options: &RunOptions,
    observer: &dyn Observer,
) -> Result<RunReport> {
    let (begun, started, experiment) = (Instant::now(), jiff::Timestamp::now(), experiment.into());
    // Taken before the plan, so that `gc` removes no result that the plan found fresh. In a read-only store this fails,
    // and `gc` cannot run there either.
    let shared = store.lock_shared();
    let selected = options.selection.resolve(expansion)?;
    let force: BTreeSet<InstanceId> = matching(expansion, &options.force)?.intersection(&selected).copied().collect();
    if !options.retry.is_empty() {
        check_requests(expansion, &force)?;
    }
    let plan_options = PlanOptions {
        experiment: experiment.clone(),
        force,
        retry: options.retry.clone(),
        noop_cache: options.noop_cache.clone(),
        links: options.out.as_deref().map(|out| output_folder(out, &experiment.name, &[])),
    };
    let mut external = ExternalInputs::default();
    let plan = verified_plan(expansion, store, &plan_options, &mut external, &selected)?;
    store.save_memo();
    observer.planned(&plan, &selected);
    let mut report = RunReport {
        folder: None,
        run: run_name(started),
        number: None,
        experiment: experiment.clone(),
        overrides: options.overrides.clone(),
        selection: options.selection.clone(),
        force: options.force.clone(),
        files: options.files.clone(),
        git: None,
        build: options.build.clone(),
        host: host(),
        command: options.command.clone(),
        started: started.to_string(),
        seconds: 0.0,
        interrupted: false,
        ended: false,
        phase: RunPhase::Running,
        headline: None,
        selected: selected.len(),
        fresh: plan.counts(&selected).0,
        instances: Vec::new(),
    };
    if selected.iter().all(|id| plan.get(*id).stamps.is_some()) {
        let fresh = selected.iter().map(|id| fresh_report(plan.get(*id), expansion.get(*id)));
        report.instances = fresh.collect();
        report.seconds = begun.elapsed().as_secs_f64();
        report.ended = true;
        report.phase = report.end();
        observer.ended(&report);
        return Ok(report);
    }
    store.check_writable()?;
    let _shared = shared?;
    store.remove_stale_sandboxes()?;
    let folder = store.runs_path().join(&report.run);
    report.folder = Some(folder.clone());
    report.number = Some(take_number(store)?);
    // Asked before the first stage starts: later every child of this process that is not a supervisor is killed.
    report.git =
        (!experiment.file.is_empty()).then(|| GitState::of_file(&store.experiment_file(&experiment))).flatten();
    report.write()?;
    let may_run = selected.iter().filter(|id| plan.get(**id).state != PlanState::Fresh);
    let may_run: Vec<&str> = may_run.map(|id| expansion.get(*id).name.as_str()).collect();
    files::write_private_unsynced(&instances_path(&folder), &serde_json::to_vec(&may_run)?)?;
    // Shows other processes that the run is alive. The system frees the lock however this process ends.
    // Another process that looks whether the run is alive may hold it for a moment.
    let alive = Lock::take_within(&alive_path(&folder), 50, Duration::from_millis(10))?;
    let adds = !options.overrides.is_empty();
    if options.detach
        && let Some(cluster) = &options.cluster
    {
        let context = DetachContext { store, cluster, experiment: &experiment, options, folder: &folder };
        let mut journal = Journal::new(store, &experiment, observer, &folder, plan_options.links.as_deref());
        report.instances = submit_and_leave(expansion, &plan, &selected, &context, &mut journal)?;
        journal.flush();
        note_experiment(&experiment, expansion, store, adds, options.out.as_deref())?;
        report.seconds = begun.elapsed().as_secs_f64();
        report.ended = true;
        report.phase = report.end();
        report.write()?;
        observer.ended(&report);
        return Ok(report);
    }
    let mut scheduler = Scheduler::new(expansion, store, options, &plan_options, observer, &folder, external);
    scheduler.run(plan, &selected);
    if let Some(name) = &options.noop_cache {
        let links = plan_options.links.as_deref().map(OutputLinks::new);
        NoopCache::write(store, name, expansion, links.as_ref(), scheduler.fresh());
    }
    if let Err(error) = note_experiment(&experiment, expansion, store, adds, options.out.as_deref()) {
        tracing::warn!("the instances of the experiment could not be noted: {error:#}");
    }
    report.instances = scheduler.into_reports();
    report.seconds = begun.elapsed().as_secs_f64();
    report.interrupted = report.count(|outcome| *outcome == Outcome::Interrupted) > 0;
    report.ended = true;
    report.phase = report.end();
    if let Err(error) = report.write() {
        // The outcomes of the stages matter more, and the caller gets them.
        tracing::warn!("the report of the run could not be written: {error:#}");
    }
    drop(alive);
    store.save_memo();
    observer.ended(&report);
    Ok(report)
}

/// A plan for which every stored input of a stage that will run has been read and compared with its hash. A damaged
/// object is quarantined, which makes its producer dirty, and the plan is made again.
fn verified_plan(
    expansion: &Expansion,
    store: &Store,
    options: &PlanOptions,
    external: &mut ExternalInputs,
    selected: &BTreeSet<InstanceId>,
) -> Result<Plan> {
    loop {
        let plan = plan_with(expansion, store, options, external)?;
        let mut damaged = false;
        for id in selected.iter().filter(|id| plan.get(**id).state != PlanState::Fresh) {
            for input in &expansion.get(*id).inputs {
                let Upstream::Output { instance, output, .. } = &input.upstream else { continue };
                let upstream = plan.get(*instance).record.as_ref().and_then(|record| record.outputs.get(output));
                for artifact in upstream.into_iter().flat_map(Artifact::with_bases) {
                    if store.check(&artifact, true)? != ObjectState::Present {
                        store.quarantine(&artifact)?;
                        damaged = true;
                    }
                }
            }
        }
        if !damaged {
            return Ok(plan);
        }
    }
}

/// Fails for instances that send no requests to an endpoint, which have no replies to request again.
fn check_requests(expansion: &Expansion, ids: &BTreeSet<InstanceId>) -> Result<()> {
    let mut instances = ids.iter().map(|id| expansion.get(*id));
    if let Some(instance) = instances.find(|instance| instance.pool != Pool::Teacher) {
        bail!(
            "`{}` sends no requests to an endpoint, so it has no bad replies\nhelp: `ablate run --force` runs any stage again",
            instance.name
        );
    }
    Ok(())
}

fn fresh_report(entry: &PlanEntry, instance: &Instance) -> InstanceReport {
    InstanceReport {
        id: entry.id,
        name: instance.name.clone(),
        outcome: Outcome::Fresh,
        seconds: 0.0,
        fingerprint: entry.identity.as_ref().map(|identity| identity.fingerprint),
        reasons: Vec::new(),
    }
}

/// Submits everything that is not fresh as jobs of the cluster, each after those that it needs.
fn submit_and_leave(
    expansion: &Expansion,
    plan: &Plan,
    selected: &BTreeSet<InstanceId>,
    context: &DetachContext<'_>,
    journal: &mut Journal<'_>,
) -> Result<Vec<InstanceReport>> {
    if !context.options.force.is_empty() || !context.options.retry.is_empty() {
        bail!("`--force` and `retry` need a run that follows its jobs: leave out `--detach`");
    }
    let mut must_run = Vec::new();
    for id in selected {
        let name = &expansion.get(*id).name;
        let not_selected = |up: &&InstanceId| !selected.contains(*up);
        match &plan.get(*id).state {
            PlanState::Fresh => {}
            PlanState::Dirty(reasons) if reasons.iter().any(DirtyReason::is_obstacle) => {
                let reasons: Vec<String> = reasons.iter().map(ToString::to_string).collect();
                bail!("`{name}` cannot run: {}", reasons.join("; "));
            }
            PlanState::Waiting(upstream) if upstream.iter().any(|up| not_selected(&up)) => {
                let missing = upstream.iter().find(not_selected).map_or("", |up| &expansion.get(*up).name);
                bail!("`{name}` cannot run: `{missing}` is not up to date and not selected");
            }
            PlanState::Dirty(_) | PlanState::Waiting(_) => must_run.push(*id),
        }
    }
    let mut jobs = detach(expansion, &must_run, context)?.into_iter().collect::<BTreeMap<_, _>>();
    let mut reports = Vec::new();
    for id in selected {
        let instance = expansion.get(*id);
        let mut report = fresh_report(plan.get(*id), instance);
        if let Some(job) = jobs.remove(id) {
            report.outcome = Outcome::Detached { waits_for: job_text(&job) };
            journal.finished(instance, report.clone(), None, false);
        }
        reports.push(report);
    }
    Ok(reports)
}

/// A unique name that sorts by time.
fn run_name(started: jiff::Timestamp) -> String {
    let id = Hash::of_bytes(format!("{} {}", started.as_nanosecond(), std::process::id()).as_bytes());
    // With milliseconds, because `gc` finds the latest runs by sorting the names.
    format!("{}.{:03}Z-{}", started.strftime("%Y%m%dT%H%M%S"), started.subsec_millisecond(), &id.short()[..6])
}
