//! `plan` and `why`: what would run, and the reasons at their lines. Runs nothing.

use std::collections::BTreeMap;

use anyhow::Result;
use serde_json::json;

use super::DONE;
use super::args::{Global, PlanArgs, WhyArgs};
use super::session::{Need, Session};
use super::shell::Shell;
use crate::engine::{self, PlanState};
use crate::experiment::InstanceId;

pub(super) fn plan(shell: Shell, global: &Global, arguments: &PlanArgs) -> Result<u8> {
    let session = Session::open(global, &arguments.experiment, Need::Instances)?;
    let selected = session.selected(&arguments.targets.targets)?;
    let plan = session.plan()?;
    let listed = engine::query::list(&session.experiment.name, &session.expansion, &session.store, &plan);
    let (fresh, must, may) = plan.counts(&selected);
    let saved: f64 = selected.iter().filter_map(|id| plan.get(*id).record.as_ref()).map(|record| record.seconds).sum();
    if shell.json {
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
    let mut text = String::new();
    // One line per stage and reason: forty seeds of one change are one fact.
    let mut groups: BTreeMap<(usize, String), Vec<&str>> = BTreeMap::new();
    let mut order: BTreeMap<&str, usize> = BTreeMap::new();
    for id in &selected {
        let instance = session.expansion.get(*id);
        let place = order.len();
        let place = *order.entry(&instance.stage).or_insert(place);
        let line = &listed[id.0];
        let words = match &plan.get(*id).state {
            PlanState::Fresh if !arguments.all => continue,
            PlanState::Fresh => "fresh".to_string(),
            PlanState::Dirty(_) => format!("must run: {}", line.reasons.join("; ")),
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

pub(super) fn why(shell: Shell, global: &Global, arguments: &WhyArgs) -> Result<u8> {
    let session = Session::open(global, &arguments.experiment, Need::All)?;
    let ids = session.named(&arguments.stage)?;
    let plan = session.plan()?;
    if shell.json {
        let listed = engine::query::list(&session.experiment.name, &session.expansion, &session.store, &plan);
        let entry = |id: &InstanceId| {
            let line = &listed[id.0];
            let reasons = match &plan.get(*id).state {
                PlanState::Dirty(reasons) => reasons.as_slice(),
                _ => &[],
            };
            json!({
                "instance": line.name, "state": line.state, "waits": line.waits,
                "reasons": reasons, "words": line.reasons,
            })
        };
        let entries: Vec<_> = ids.iter().map(entry).collect();
        shell.json(&entries)?;
        return Ok(DONE);
    }
    let mut texts: Vec<String> = Vec::new();
    for id in ids {
        for diagnostic in engine::why(&session.expansion, &plan, id) {
            texts.push(diagnostic.render(&session.experiment.sources, shell.color));
        }
    }
    shell.result(&texts.join("\n\n"));
    Ok(DONE)
}
