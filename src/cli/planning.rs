//! `plan` and `why`: what would run, and the reasons at their lines. Runs nothing.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::Result;
use serde_json::json;

use super::DONE;
use super::args::{Global, PlanArgs, WhyArgs};
use super::session::{Need, Session};
use super::shell::Shell;
use crate::base::Diagnostic;
use crate::engine::{self, Plan, PlanState};
use crate::experiment::InstanceId;

pub(super) fn plan(shell: Shell, global: &Global, arguments: &PlanArgs) -> Result<u8> {
    // Only the texts know where a value stands.
    let need = if arguments.explain { Need::All } else { Need::Instances };
    let session = Session::open(global, &arguments.experiment, need)?;
    let selected = session.selected(&arguments.targets.targets)?;
    let plan = session.plan()?;
    let (fresh, must, may) = plan.counts(&selected);
    let saved: f64 = selected.iter().filter_map(|id| plan.get(*id).record.as_ref()).map(|record| record.seconds).sum();
    if shell.json {
        let listed = engine::query::list(&session.experiment.name, &session.expansion, &session.store, &plan);
        let instances: Vec<_> = selected.iter().map(|id| &listed[id.0]).collect();
        let points = session.expansion.instances.len() + session.expansion.aliases.len();
        shell.json(&json!({
            "experiment": session.experiment.name,
            "fresh": fresh, "must_run": must, "may_run": may,
            "instances_without_sharing": points, "seconds_saved": saved,
            "instances": instances,
        }))?;
        return Ok(DONE);
    }
    if arguments.explain {
        let text = explain(&session, &plan, &selected, shell.color);
        if !text.is_empty() {
            shell.result(&(text + "\n"));
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
            PlanState::Waits(above) => {
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
    text.push_str(&format!("{must} must run, {may} may run, {fresh} fresh"));
    if fresh > 0 {
        text.push_str(&format!(" (their results took {saved:.0} s to make)"));
    }
    shell.result(&text);
    Ok(DONE)
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
        PlanState::Dirty(_) | PlanState::Waits(_) => engine::why(&session.expansion, plan, id),
    };
    if let PlanState::Waits(_) = entry.state {
        let instance = session.expansion.get(id);
        notes.extend(engine::why_so_far(&session.store, &session.experiment.name, instance));
    }
    notes
}

pub(super) fn why(shell: Shell, global: &Global, arguments: &WhyArgs) -> Result<u8> {
    let session = Session::open(global, &arguments.experiment, Need::All)?;
    let ids = session.named(&arguments.stage)?;
    let plan = session.plan()?;
    let above = |id: InstanceId| {
        let chain = engine::chain(&session.expansion, &plan, id);
        chain.into_iter().filter(move |above| *above != id).collect::<Vec<_>>()
    };
    if shell.json {
        let listed = engine::query::list(&session.experiment.name, &session.expansion, &session.store, &plan);
        let entry = |id: InstanceId| {
            let line = &listed[id.0];
            let so_far = || engine::so_far(&session.store, &session.experiment.name, session.expansion.get(id));
            let reasons = match &plan.get(id).state {
                PlanState::Fresh => Vec::new(),
                PlanState::Dirty(reasons) => reasons.clone(),
                PlanState::Waits(_) => so_far().map(|(_, reasons)| reasons).unwrap_or_default(),
            };
            let words: Vec<String> = reasons.iter().map(ToString::to_string).collect();
            json!({
                "instance": line.name, "state": line.state, "waits": line.waits, "reasons": reasons, "words": words,
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
            PlanState::Fresh => engine::why(&session.expansion, &plan, *id),
            _ => notes(&session, &plan, *id),
        };
        texts.extend(own.iter().map(render));
    }
    // What the asked ones wait for, upstream first.
    for above in ids.iter().flat_map(|id| above(*id)) {
        if told.insert(above) {
            texts.extend(notes(&session, &plan, above).iter().map(render));
        }
    }
    shell.result(&texts.join("\n\n"));
    Ok(DONE)
}
