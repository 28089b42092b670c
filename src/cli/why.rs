//! `why`: explains why an instance would run.

use std::collections::BTreeSet;

use anyhow::Result;
use clap::Args;
use serde_json::json;

use super::args::{ExperimentArgs, Global};
use super::session::{Need, Session};
use super::shell::Shell;
use ablate_core::base::Diagnostic;
use ablate_core::base::escape::escape_controls;
use ablate_engine::{self, Plan, PlanState};
use ablate_experiment::InstanceId;

#[derive(Debug, Args)]
pub(super) struct WhyArgs {
    #[command(flatten)]
    pub(super) experiment: ExperimentArgs,
    /// A stage or an instance.
    #[arg(value_name = "STAGE")]
    pub(super) stage: String,
}

pub(super) fn why(shell: Shell, global: &Global, arguments: &WhyArgs) -> Result<()> {
    let session = Session::read(global, &arguments.experiment, Need::All)?;
    let ids = session.named(&arguments.stage)?;
    let plan = session.plan()?;
    let query = session.query(&plan);
    let above = |id: InstanceId| {
        let chain = ablate_engine::stale_upstream(&session.expansion, &plan, id);
        chain.into_iter().filter(move |above| *above != id).collect::<Vec<_>>()
    };
    if shell.json {
        let listed = query.list();
        let entry = |id: InstanceId| {
            let (line, instance) = (&listed[id.0], session.expansion.get(id));
            let differences = || ablate_engine::known_differences(&session.store, &session.id, instance);
            let reasons = match &plan.get(id).state {
                PlanState::Fresh => Vec::new(),
                PlanState::Dirty(reasons) => reasons.clone(),
                PlanState::Waiting(_) => differences().map(|(_, reasons)| reasons).unwrap_or_default(),
            };
            let messages: Vec<String> = reasons.iter().map(ToString::to_string).collect();
            json!({
                "instance": line.name, "state": line.state, "waits": line.waits, "reasons": reasons, "words": messages,
                "failure": query.last_failure(id),
            })
        };
        let with_upstream = |id: &InstanceId| {
            let mut value = entry(*id);
            value["above"] = above(*id).into_iter().map(entry).collect();
            value
        };
        let entries: Vec<_> = ids.iter().map(with_upstream).collect();
        return shell.json(&entries);
    }
    let mut texts: Vec<String> = Vec::new();
    let mut shown: BTreeSet<InstanceId> = ids.iter().copied().collect();
    let mut add = |diagnostics: Vec<Diagnostic>, id: InstanceId| {
        texts.extend(diagnostics.iter().map(|note| note.render(&session.experiment.sources, shell.color)));
        texts.extend(query.last_failure(id).map(|failure| escape_controls(&failure.to_string()).into_owned()));
    };
    for id in &ids {
        let diagnostics = match plan.get(*id).state {
            PlanState::Fresh => ablate_engine::why(&session.expansion, &plan, *id),
            _ => notes(&session, &plan, *id),
        };
        add(diagnostics, *id);
    }
    // The instances that the selected ones wait for, upstream first.
    for above in ids.iter().flat_map(|id| above(*id)) {
        if shown.insert(above) {
            add(notes(&session, &plan, above), above);
        }
    }
    shell.styled(&texts.join("\n\n"));
    Ok(())
}

/// The reasons why an instance is not fresh. For a waiting instance, also its own changes known so far.
pub(super) fn notes(session: &Session, plan: &Plan, id: InstanceId) -> Vec<Diagnostic> {
    let state = &plan.get(id).state;
    if *state == PlanState::Fresh {
        return Vec::new();
    }
    let mut notes = ablate_engine::why(&session.expansion, plan, id);
    if let PlanState::Waiting(_) = state {
        notes.extend(ablate_engine::why_waiting(&session.store, &session.id, session.expansion.get(id)));
    }
    notes
}
