//! `plan` and `why`: what would run, and the reasons at their lines. Runs nothing.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::Result;
use serde_json::{Value, json};

use super::DONE;
use super::args::{ExperimentArgs, Global, PlanArgs, WhyArgs};
use super::outside;
use super::session::{Need, Session};
use super::shell::Shell;
use ablate_core::base::{Diagnostic, Hash, escape};
use ablate_core::stage::ArtifactKind;
use ablate_engine::{self, Failure, Plan, PlanState};
use ablate_experiment::{DedupStats, InstanceId};

pub(super) fn plan(shell: Shell, global: &Global, arguments: &PlanArgs) -> Result<u8> {
    let experiments = arguments.scope.experiments(&arguments.experiment);
    let mut totals = Totals::default();
    let mut documents = Vec::new();
    for experiment in &experiments {
        if experiments.len() > 1 && !shell.json {
            shell.result(&format!("{}\n", experiment.file.display()));
        }
        let totals = (experiments.len() > 1).then_some(&mut totals);
        documents.extend(plan_one(shell, global, experiment, arguments, totals)?);
        if experiments.len() > 1 && !shell.json {
            shell.result("\n");
        }
    }
    match documents.as_slice() {
        [] if experiments.len() > 1 => shell.result(&totals.words(experiments.len())),
        [] => {}
        [one] => shell.json(one)?,
        several => shell.json(&json!({ "experiments": several, "together": totals.json() }))?,
    }
    Ok(DONE)
}

/// What several experiments come to together.
#[derive(Default)]
struct Totals {
    points: usize,
    alone: Option<usize>,
    /// Instances of each experiment by itself.
    apart: usize,
    trainings: usize,
    /// Instances of all of them, equal ones once, and whether each is a training.
    shapes: BTreeMap<Hash, bool>,
    began: bool,
}

impl Totals {
    fn add(&mut self, session: &Session, selected: &BTreeSet<InstanceId>, dedup: DedupStats) {
        self.points += dedup.results;
        let before = if self.began { self.alone } else { Some(0) };
        self.alone = before.zip(dedup.without_dedup).map(|(all, one)| all + one);
        self.began = true;
        self.apart += dedup.with_dedup;
        self.trainings += trainings(session, selected);
        let shapes = session.expansion.static_hashes();
        self.shapes.extend(selected.iter().map(|id| (shapes[id.0], is_training(session, *id))));
    }

    fn words(&self, files: usize) -> String {
        let shared = self.shapes.len();
        let trainings = self.shapes.values().filter(|training| **training).count();
        format!(
            "together: {} points in {files} experiments; {} instances if each point were made by itself, {} if only \
             each experiment shared, {shared} as they are; {} trainings, {trainings} of them different",
            self.points,
            many(self.alone),
            self.apart,
            self.trainings,
        )
    }

    fn json(&self) -> Value {
        json!({
            "points": self.points, "instances_alone": self.alone, "instances_apart": self.apart,
            "instances": self.shapes.len(), "trainings": self.trainings,
            "different_trainings": self.shapes.values().filter(|training| **training).count(),
        })
    }
}

/// Stages that train leave a curve.
fn is_training(session: &Session, id: InstanceId) -> bool {
    session.expansion.get(id).outputs.iter().any(|output| output.kind == ArtifactKind::Curve)
}

fn trainings(session: &Session, selected: &BTreeSet<InstanceId>) -> usize {
    selected.iter().filter(|id| is_training(session, **id)).count()
}

fn counted(count: usize, what: &str) -> String {
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}

fn many(count: Option<usize>) -> String {
    count.map_or_else(|| "more than can be counted".to_string(), |count| count.to_string())
}

/// Shows one experiment; with `--json` it is returned instead.
fn plan_one(
    shell: Shell,
    global: &Global,
    experiment: &ExperimentArgs,
    arguments: &PlanArgs,
    totals: Option<&mut Totals>,
) -> Result<Option<Value>> {
    // Only the texts know where a value stands.
    let need = if arguments.explain { Need::All } else { Need::Instances };
    let session = Session::read(global, experiment, need)?;
    let chosen = session.chosen(&arguments.scope.selection())?;
    let dedup = session.expansion.dedup_stats(&chosen);
    if let Some(totals) = totals {
        totals.add(&session, &chosen, dedup);
    }
    let selected: Vec<InstanceId> = chosen.iter().copied().collect();
    let plan = session.plan()?;
    let open = selected.iter().copied().filter(|id| !matches!(plan.get(*id).state, PlanState::Fresh));
    outside::inspect(shell, experiment, &session.expansion, open)?;
    let (fresh, must, may) = plan.counts(&selected);
    let saved: f64 = selected.iter().filter_map(|id| plan.get(*id).record.as_ref()).map(|record| record.seconds).sum();
    if shell.json {
        let listed = ablate_engine::query::list(&session.id, &session.expansion, &session.store, &plan);
        let instances: Vec<_> = selected.iter().map(|id| &listed[id.0]).collect();
        return Ok(Some(json!({
            "experiment": session.experiment.name,
            "fresh": fresh, "must_run": must, "may_run": may,
            "points": dedup.results, "instances_alone": dedup.without_dedup, "trainings": trainings(&session, &chosen),
            "seconds_saved": saved,
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
    // One line per stage and reason: forty seeds of one change are one fact.
    let mut groups: BTreeMap<(usize, String), Vec<&str>> = BTreeMap::new();
    let mut order: BTreeMap<&str, usize> = BTreeMap::new();
    for id in &selected {
        let instance = session.expansion.get(*id);
        let place = order.len();
        let place = *order.entry(&instance.stage).or_insert(place);
        let words = match &plan.get(*id).state {
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
        groups.entry((place, words)).or_default().push(&instance.name);
    }
    for ((_, words), names) in &groups {
        let name = match names.as_slice() {
            [one] => (*one).to_string(),
            [first, ..] => format!("{} ({} instances)", first.split('@').next().unwrap_or(first), names.len()),
            [] => continue,
        };
        text.push_str(&format!("{name}: {words}\n"));
    }
    let (points, alone) = (dedup.results, many(dedup.without_dedup));
    let trained = trainings(&session, &chosen);
    let (points, trained) = (counted(points, "point"), counted(trained, "training"));
    text.push_str(&format!("{points}: {alone} instances without sharing, {} with", dedup.with_dedup));
    text.push_str(&format!("; {trained}\n{must} must run, {may} may run, {fresh} fresh"));
    if fresh > 0 {
        text.push_str(&format!(" (their results took {saved:.0} s to make)"));
    }
    shell.result(&text);
    Ok(None)
}

/// Every reason of the instances that are not fresh, at its line. Instances of a stage that have a reason in common are
/// one: forty seeds of one change are one fact.
fn explain(session: &Session, plan: &Plan, selected: &[InstanceId], color: bool) -> String {
    let mut told: Vec<(String, String, usize)> = Vec::new();
    let mut known: BTreeMap<(String, String), usize> = BTreeMap::new();
    for id in selected {
        let instance = session.expansion.get(*id);
        for note in notes(session, plan, *id) {
            let fact = note.message.replacen(&instance.name, &instance.stage, 1);
            let next = told.len();
            let place = *known.entry((instance.stage.clone(), fact)).or_insert(next);
            if place == next {
                told.push((note.render(&session.experiment.sources, color), instance.stage.clone(), 0));
            } else {
                told[place].2 += 1;
            }
        }
    }
    let text = |(text, stage, others): &(String, String, usize)| match others {
        0 => text.clone(),
        others => format!("{text}\n  = and so for {others} more of `{stage}`"),
    };
    told.iter().map(text).collect::<Vec<_>>().join("\n\n")
}

/// Why an instance is not fresh; for one that waits, what is known of itself too.
fn notes(session: &Session, plan: &Plan, id: InstanceId) -> Vec<Diagnostic> {
    let entry = plan.get(id);
    let mut notes = match entry.state {
        PlanState::Fresh => Vec::new(),
        PlanState::Dirty(_) | PlanState::Waiting(_) => ablate_engine::why(&session.expansion, plan, id),
    };
    if let PlanState::Waiting(_) = entry.state {
        let instance = session.expansion.get(id);
        notes.extend(ablate_engine::why_waiting(&session.store, &session.id, instance));
    }
    notes
}

pub(super) fn why(shell: Shell, global: &Global, arguments: &WhyArgs) -> Result<u8> {
    let session = Session::read(global, &arguments.experiment, Need::All)?;
    let ids = session.named(&arguments.stage)?;
    let plan = session.plan()?;
    let above = |id: InstanceId| {
        let chain = ablate_engine::stale_upstream(&session.expansion, &plan, id);
        chain.into_iter().filter(move |above| *above != id).collect::<Vec<_>>()
    };
    if shell.json {
        let listed = ablate_engine::query::list(&session.id, &session.expansion, &session.store, &plan);
        let entry = |id: InstanceId| {
            let line = &listed[id.0];
            let so_far = || ablate_engine::known_differences(&session.store, &session.id, session.expansion.get(id));
            let reasons = match &plan.get(id).state {
                PlanState::Fresh => Vec::new(),
                PlanState::Dirty(reasons) => reasons.clone(),
                PlanState::Waiting(_) => so_far().map(|(_, reasons)| reasons).unwrap_or_default(),
            };
            let words: Vec<String> = reasons.iter().map(ToString::to_string).collect();
            json!({
                "instance": line.name, "state": line.state, "waits": line.waits, "reasons": reasons, "words": words,
                "failure": failure(&session, &plan, id),
            })
        };
        let whole = |id: &InstanceId| {
            let mut asked = entry(*id);
            asked["above"] = above(*id).into_iter().map(entry).collect();
            asked
        };
        let entries: Vec<_> = ids.iter().map(whole).collect();
        shell.json(&entries)?;
        return Ok(DONE);
    }
    let mut texts: Vec<String> = Vec::new();
    let mut told: BTreeSet<InstanceId> = ids.iter().copied().collect();
    let render = |note: &Diagnostic| note.render(&session.experiment.sources, shell.color);
    for id in &ids {
        let own = match plan.get(*id).state {
            PlanState::Fresh => ablate_engine::why(&session.expansion, &plan, *id),
            _ => notes(&session, &plan, *id),
        };
        texts.extend(own.iter().map(render));
        texts.extend(
            failure(&session, &plan, *id).map(|failure| escape::escape_controls(&failure.to_string()).into_owned()),
        );
    }
    // What the asked ones wait for, upstream first.
    for above in ids.iter().flat_map(|id| above(*id)) {
        if told.insert(above) {
            texts.extend(notes(&session, &plan, above).iter().map(render));
            texts.extend(
                failure(&session, &plan, above)
                    .map(|failure| escape::escape_controls(&failure.to_string()).into_owned()),
            );
        }
    }
    shell.styled(&texts.join("\n\n"));
    Ok(DONE)
}

/// How the last execution of an instance failed.
fn failure(session: &Session, plan: &Plan, id: InstanceId) -> Option<Failure> {
    ablate_engine::query::last_failure(&session.id, &session.expansion, &session.store, plan, id)
}
