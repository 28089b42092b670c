//! `why`: explains why an instance would run.

use std::collections::BTreeSet;

use anyhow::Result;
use clap::Args;
use serde_json::json;

use super::SUCCESS;
use super::args::{ExperimentArgs, Global};
use super::session::{Need, Session};
use super::shell::Shell;
use ablate_core::base::{Diagnostic, escape};
use ablate_engine::{self, Failure, Plan, PlanState};
use ablate_experiment::InstanceId;

#[derive(Debug, Args)]
pub(super) struct WhyArgs {
    #[command(flatten)]
    pub(super) experiment: ExperimentArgs,
    /// A stage or an instance.
    #[arg(value_name = "STAGE")]
    pub(super) stage: String,
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
        let listed = session.query(&plan).list();
        let entry = |id: InstanceId| {
            let line = &listed[id.0];
            let differences =
                || ablate_engine::known_differences(&session.store, &session.id, session.expansion.get(id));
            let reasons = match &plan.get(id).state {
                PlanState::Fresh => Vec::new(),
                PlanState::Dirty(reasons) => reasons.clone(),
                PlanState::Waiting(_) => differences().map(|(_, reasons)| reasons).unwrap_or_default(),
            };
            let messages: Vec<String> = reasons.iter().map(ToString::to_string).collect();
            json!({
                "instance": line.name, "state": line.state, "waits": line.waits, "reasons": reasons, "words": messages,
                "failure": failure(&session, &plan, id),
            })
        };
        let with_upstream = |id: &InstanceId| {
            let mut value = entry(*id);
            value["above"] = above(*id).into_iter().map(entry).collect();
            value
        };
        let entries: Vec<_> = ids.iter().map(with_upstream).collect();
        shell.json(&entries)?;
        return Ok(SUCCESS);
    }
    let mut texts: Vec<String> = Vec::new();
    let mut shown: BTreeSet<InstanceId> = ids.iter().copied().collect();
    let render = |note: &Diagnostic| note.render(&session.experiment.sources, shell.color);
    for id in &ids {
        let diagnostics = match plan.get(*id).state {
            PlanState::Fresh => ablate_engine::why(&session.expansion, &plan, *id),
            _ => notes(&session, &plan, *id),
        };
        texts.extend(diagnostics.iter().map(render));
        texts.extend(
            failure(&session, &plan, *id).map(|failure| escape::escape_controls(&failure.to_string()).into_owned()),
        );
    }
    // The instances that the selected ones wait for, upstream first.
    for above in ids.iter().flat_map(|id| above(*id)) {
        if shown.insert(above) {
            texts.extend(notes(&session, &plan, above).iter().map(render));
            texts.extend(
                failure(&session, &plan, above)
                    .map(|failure| escape::escape_controls(&failure.to_string()).into_owned()),
            );
        }
    }
    shell.styled(&texts.join("\n\n"));
    Ok(SUCCESS)
}

/// The reasons why an instance is not fresh. For a waiting instance, also its own changes known so far.
pub(super) fn notes(session: &Session, plan: &Plan, id: InstanceId) -> Vec<Diagnostic> {
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

/// The failure of an instance's last execution.
fn failure(session: &Session, plan: &Plan, id: InstanceId) -> Option<Failure> {
    session.query(plan).last_failure(id)
}
