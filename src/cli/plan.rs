//! `plan`: prints what would run, and why.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use anyhow::Result;
use clap::Args;
use serde::Serialize;
use serde_json::{Value, json};

use super::args::{ExperimentArgs, Global, Scope};
use super::inspect;
use super::job_lists::{JobGroup, job_groups};
use super::pull;
use super::remote::{RemoteArgs, SharedRemote, open_if_reachable};
use super::request_estimates::{RequestEstimates, RequestTotal, sum};
use super::resources::ResourceArgs;
use super::session::{Need, Session};
use super::shell::Shell;
use super::time_estimates::{self, EarlierExperiments};
use super::why::notes;
use crate::stages::KINDS;
use ablate_core::base::Hash;
use ablate_core::stage::{ArtifactKind, Range, RequestEstimate};
use ablate_engine::query::InstanceSummary;
use ablate_engine::{self, Plan, PlanState};
use ablate_experiment::{DedupStats, Instance, InstanceId};
use ablate_remote::Remote;

#[derive(Debug, Args)]
pub(super) struct PlanArgs {
    #[command(flatten)]
    pub(super) experiment: ExperimentArgs,
    #[command(flatten)]
    pub(super) scope: Scope,
    /// Show fresh instances too.
    #[arg(long)]
    pub(super) all: bool,
    /// Show every change with its line in the file.
    #[arg(long)]
    pub(super) explain: bool,
    #[command(flatten)]
    pub(super) resources: ResourceArgs,
    #[command(flatten)]
    pub(super) remote: RemoteArgs,
}

pub(super) fn plan(shell: Shell, global: &Global, arguments: &PlanArgs) -> Result<()> {
    let experiments = arguments.scope.experiments(&arguments.experiment);
    let mut totals = Totals::default();
    let remote = match arguments.remote.address(&global.configuration()?)? {
        Some(address) => open_if_reachable(shell, &address, false, Arc::default())?,
        None => None,
    };
    let remote = remote.as_ref();
    let mut documents = Vec::new();
    for experiment in &experiments {
        if experiments.len() > 1 && !shell.json {
            shell.result(&format!("{}\n", experiment.file.display()));
        }
        documents.extend(plan_one(shell, global, experiment, arguments, remote, experiments.len() > 1, &mut totals)?);
        if experiments.len() > 1 && !shell.json {
            shell.result("\n");
        }
    }
    match documents.as_slice() {
        [] if experiments.len() > 1 => shell.result(&totals.render(experiments.len())),
        [] => {}
        [one] => shell.json(one)?,
        several => shell.json(&json!({ "experiments": several, "together": totals.json() }))?,
    }
    Ok(())
}

/// Totals of several experiments.
#[derive(Default)]
struct Totals {
    points: usize,
    instances_without_sharing: Option<usize>,
    /// Sum of the instances of each experiment.
    instances: usize,
    trainings: usize,
    /// Requests to endpoints of each experiment.
    requests: RequestTotal,
    /// Distinct instances of all experiments, and whether each is a training run.
    distinct: BTreeMap<Hash, bool>,
    /// The instances of the experiments so far.
    earlier: EarlierExperiments,
    /// Predicted time of the experiments, one after another.
    seconds: Range,
    /// Instances without a prediction.
    unpredicted: usize,
    started: bool,
}

impl Totals {
    fn add(&mut self, session: &Session, selected: &BTreeSet<InstanceId>, dedup: DedupStats) {
        self.points += dedup.results;
        let sum = if self.started { self.instances_without_sharing } else { Some(0) };
        self.instances_without_sharing = sum.zip(dedup.without_dedup).map(|(all, one)| all + one);
        self.started = true;
        self.instances += dedup.with_dedup;
        self.trainings += trainings(session, selected);
        let static_hashes = session.expansion.static_hashes();
        self.distinct.extend(selected.iter().map(|id| (static_hashes[id.0], is_training(session, *id))));
    }

    fn render(&self, files: usize) -> String {
        let shared = self.distinct.len();
        let trainings = self.distinct.values().filter(|training| **training).count();
        let mut requests = String::new();
        if !self.requests.is_empty() {
            requests = format!("\nall requests to endpoints: {}", self.requests.render());
        }
        let mut time = String::new();
        if self.seconds.expected > 0.0 {
            time = format!("\nall time: about {}", time_estimates::duration_range(&self.seconds));
        }
        if self.unpredicted > 0 {
            time.push_str(&format!(
                "\nnot included: {} of kinds that have not run in this store",
                plural(self.unpredicted, "stage")
            ));
        }
        format!(
            "all: {} results of {files} experiments; {} ({} if each experiment shared only its own); {}{requests}{time}\n",
            self.points,
            stage_runs(shared, self.instances_without_sharing),
            self.instances,
            instead_of(trainings, "training", Some(self.trainings)),
        )
    }

    fn json(&self) -> Value {
        json!({
            "points": self.points, "instances_alone": self.instances_without_sharing, "instances_apart": self.instances,
            "instances": self.distinct.len(), "trainings": self.trainings, "requests": self.requests,
            "seconds": self.seconds, "unpredicted": self.unpredicted,
            "different_trainings": self.distinct.values().filter(|training| **training).count(),
        })
    }
}

/// Stages that train write a curve.
fn is_training(session: &Session, id: InstanceId) -> bool {
    session.expansion.get(id).outputs.iter().any(|output| output.kind == ArtifactKind::Curve)
}

fn trainings(session: &Session, selected: &BTreeSet<InstanceId>) -> usize {
    selected.iter().filter(|id| is_training(session, **id)).count()
}

fn plural(count: usize, what: &str) -> String {
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}

/// A number, and the number without sharing if it is larger; `None` if that overflows.
fn instead_of(count: usize, what: &str, unshared: Option<usize>) -> String {
    let shared = plural(count, what);
    match unshared {
        Some(unshared) if unshared == count => shared,
        Some(unshared) => format!("{shared} instead of {unshared}"),
        None => format!("{shared} instead of more than can be counted"),
    }
}

/// The number of stage runs, and why it is smaller than without sharing.
fn stage_runs(runs: usize, unshared: Option<usize>) -> String {
    let why = if unshared == Some(runs) { "" } else { ", because equal ones are shared" };
    instead_of(runs, "stage run", unshared) + why
}

/// An instance with `--json`.
#[derive(Serialize)]
struct PlannedInstance<'a> {
    #[serde(flatten)]
    summary: &'a InstanceSummary,
    /// The requests to an endpoint that it would send.
    #[serde(skip_serializing_if = "Option::is_none")]
    requests: Option<&'a RequestEstimate>,
}

/// Prints the plan of one experiment. With `--json` returns it instead.
fn plan_one(
    shell: Shell,
    global: &Global,
    experiment: &ExperimentArgs,
    arguments: &PlanArgs,
    remote: Option<&Arc<Remote>>,
    several: bool,
    totals: &mut Totals,
) -> Result<Option<Value>> {
    // Source locations need the full experiment.
    let need = if arguments.explain { Need::All } else { Need::Instances };
    let session = Session::read(global, experiment, need)?;
    let chosen = session.chosen(&arguments.scope.selection())?;
    let dedup = session.expansion.dedup_stats(&chosen);
    let selected: Vec<InstanceId> = chosen.iter().copied().collect();
    let plan = session.plan()?;
    let not_fresh = selected.iter().copied().filter(|id| !matches!(plan.get(*id).state, PlanState::Fresh));
    inspect::inspect(shell, experiment, &session.expansion, not_fresh)?;
    let (fresh, must, may) = plan.counts(&selected);
    if must + may > 0 {
        inspect::report_budgets(shell, experiment, &session)?;
    }
    let fetched = match remote {
        Some(remote) if must + may > 0 => Some(would_be_fetched(shell, &session, &chosen, remote)?),
        Some(_) => Some(0),
        None => None,
    };
    let requests = RequestEstimates::new(shell, &session, &plan, &selected);
    let configuration = global.configuration()?;
    let mut time = None;
    if must + may > 0 {
        let (resources, earlier) = (&arguments.resources, &mut totals.earlier);
        time = Some(time_estimates::estimate(&session, &plan, &chosen, resources, &configuration, earlier)?);
    }
    // Slurm says when a job would start.
    let cluster = if must + may > 0 { arguments.resources.cluster(&configuration)? } else { None };
    let to_run = selected.iter().filter(|id| !matches!(plan.get(**id).state, PlanState::Fresh));
    let to_run = to_run.map(|id| session.expansion.get(*id));
    let jobs: Vec<JobGroup> = cluster.as_deref().map(|cluster| job_groups(cluster, to_run)).unwrap_or_default();
    if cluster.is_some() {
        let stages = session.expansion.instances.iter().map(|instance| instance.stage.as_str()).collect();
        for name in configuration.executor.slurm.unknown_names(KINDS, &stages) {
            shell.status(&format!(
                "note: the configuration of Slurm names `{name}`, which is no stage of this experiment"
            ));
        }
    }
    if several {
        totals.add(&session, &chosen, dedup);
        totals.requests.merge(&requests.total);
        if let Some(time) = &time {
            totals.seconds = sum(totals.seconds, time.seconds);
            totals.unpredicted += time.unknown.values().sum::<usize>();
        }
    }
    let saved: f64 = selected.iter().filter_map(|id| plan.get(*id).record.as_ref()).map(|record| record.seconds).sum();
    if shell.json {
        let listed = session.query(&plan).list();
        let planned =
            |id: &InstanceId| PlannedInstance { summary: &listed[id.0], requests: requests.instances.get(id) };
        let instances: Vec<PlannedInstance> = selected.iter().map(planned).collect();
        return Ok(Some(json!({
            "experiment": session.experiment.name,
            "fresh": fresh, "must_run": must, "may_run": may,
            "points": dedup.results, "instances_alone": dedup.without_dedup, "trainings": trainings(&session, &chosen),
            "seconds_saved": saved,
            "would_be_fetched": fetched,
            "requests": requests.json(),
            "time": time,
            "jobs": jobs.iter().map(JobGroup::json).collect::<Vec<_>>(),
            "instances": instances,
        })));
    }
    if arguments.explain {
        let text = explain(&session, &plan, &selected, shell.color);
        if !text.is_empty() {
            shell.styled(&(text + "\n"));
        }
    }
    let mut text = String::new();
    // One line per stage and reason, so that 40 seeds with the same change take one line.
    let mut groups: BTreeMap<(usize, String), Vec<&Instance>> = BTreeMap::new();
    let mut order: BTreeMap<&str, usize> = BTreeMap::new();
    for id in &selected {
        let instance = session.expansion.get(*id);
        let place = order.len();
        let place = *order.entry(&instance.stage).or_insert(place);
        let state = match &plan.get(*id).state {
            PlanState::Fresh if !arguments.all => continue,
            PlanState::Fresh => "fresh".to_string(),
            PlanState::Dirty(reasons) => {
                let reasons: Vec<String> = reasons.iter().map(ToString::to_string).collect();
                format!("must run: {}", reasons.join("; "))
            }
            PlanState::Waiting(above) => {
                let mut stages: Vec<&str> = above.iter().map(|id| session.expansion.get(*id).stage.as_str()).collect();
                stages.dedup();
                format!("may run: waits for {}", stages.join(", "))
            }
        };
        groups.entry((place, state)).or_default().push(instance);
    }
    for ((_, state), instances) in &groups {
        let name = match instances.as_slice() {
            [one] => one.name.clone(),
            [first, ..] => format!("{} ({} instances)", first.stage, instances.len()),
            [] => continue,
        };
        text.push_str(&format!("{name}: {state}\n"));
    }
    let (results, trained) = (plural(dedup.results, "result"), plural(trainings(&session, &chosen), "training"));
    text.push_str(&format!("{results}; {}", stage_runs(dedup.with_dedup, dedup.without_dedup)));
    text.push_str(&format!("; {trained}\n{must} must run, {may} may run, {fresh} fresh"));
    if fresh > 0 {
        text.push_str(&format!(" (saves {saved:.0} s)"));
    }
    text.push('\n');
    if let Some((count, remote)) = fetched.zip(remote).filter(|_| must + may > 0) {
        let results = plural(count, "result");
        text.push_str(&format!(
            "`ablate run` would fetch {results} from {} instead of running them\n",
            remote.address()
        ));
    }
    text.push_str(&requests.render());
    text.extend(time.as_ref().map(time_estimates::render));
    text.extend(jobs.iter().map(|group| format!("{}\n", group.render())));
    shell.result(&text);
    Ok(None)
}

/// The number of instances whose results the remote has.
fn would_be_fetched(
    shell: Shell,
    session: &Session,
    selected: &BTreeSet<InstanceId>,
    remote: &Arc<Remote>,
) -> Result<usize> {
    let shared = SharedRemote::start(shell, remote.clone(), session.store.root(), Arc::default())?;
    let found = pull::find(session, selected, &BTreeSet::new(), &shared)?;
    found.warnings.iter().for_each(|warning| shell.warning(warning));
    Ok(found.found.len())
}

/// Every reason of the instances that are not fresh, with its line. Instances of a stage with the same reason are
/// shown once.
fn explain(session: &Session, plan: &Plan, selected: &[InstanceId], color: bool) -> String {
    let mut shown: Vec<(String, String, usize)> = Vec::new();
    let mut places: BTreeMap<(String, String), usize> = BTreeMap::new();
    for id in selected {
        let instance = session.expansion.get(*id);
        for note in notes(session, plan, *id) {
            let fact = note.message.replacen(&instance.name, &instance.stage, 1);
            let next = shown.len();
            let place = *places.entry((instance.stage.clone(), fact)).or_insert(next);
            if place == next {
                shown.push((note.render(&session.experiment.sources, color), instance.stage.clone(), 0));
            } else {
                shown[place].2 += 1;
            }
        }
    }
    let text = |(text, stage, others): &(String, String, usize)| match others {
        0 => text.clone(),
        others => format!("{text}\n  = same for {others} more instances of `{stage}`"),
    };
    shown.iter().map(text).collect::<Vec<_>>().join("\n\n")
}
