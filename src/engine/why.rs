//! `why`: a plan's verdicts in words, each at its line of the user's file. Knows no store.

use super::dirty::DirtyReason;
use super::plan::{Plan, PlanState};
use crate::base::{Diagnostic, Origin};
use crate::experiment::{Expansion, Instance, InstanceId};

/// Why an instance is fresh, must run or waits: one note per reason.
pub fn why(expansion: &Expansion, plan: &Plan, id: InstanceId) -> Vec<Diagnostic> {
    let instance = expansion.get(id);
    let entry = plan.get(id);
    match &entry.state {
        PlanState::Fresh => {
            let fingerprint = entry.identity.as_ref().map(|identity| identity.fingerprint.short()).unwrap_or_default();
            vec![Diagnostic::note(format!("`{}` is fresh: its result is record {fingerprint}", instance.name))]
        }
        PlanState::Waits(above) => {
            let names: Vec<String> = above.iter().map(|above| format!("`{}`", expansion.get(*above).name)).collect();
            vec![Diagnostic::note(format!("`{}` waits for {}", instance.name, names.join(", ")))]
        }
        PlanState::Dirty(reasons) => {
            let record = entry.compared.map(|hash| hash.short());
            reasons.iter().map(|reason| explain(instance, reason, record.as_deref())).collect()
        }
    }
}

/// One reason as a note that points at the value, or at the stage's header.
fn explain(instance: &Instance, reason: &DirtyReason, record: Option<&str>) -> Diagnostic {
    let label = match (reason, record) {
        (DirtyReason::ValueChanged { old, .. }, Some(record)) => format!("was {old} in record {record}"),
        (DirtyReason::ValueAdded { .. }, Some(record)) => format!("not in record {record}"),
        (DirtyReason::InputChanged { .. }, Some(record)) => format!("other content than in record {record}"),
        (_, Some(record)) => format!("compared with record {record}"),
        (_, None) => String::new(),
    };
    let verdict = if reason.is_obstacle() { "cannot run" } else { "must run" };
    let message = format!("`{}` {verdict}: {reason}", instance.name);
    let diagnostic = if reason.is_obstacle() { Diagnostic::error(message) } else { Diagnostic::note(message) };
    match origin(instance, reason.key()) {
        Some(origin) => diagnostic.at(origin.clone(), label),
        None => diagnostic,
    }
}

/// Where a key was written: itself, else the nearest table around it, else the stage's header.
fn origin<'a>(instance: &'a Instance, key: &str) -> Option<&'a Origin> {
    let mut key = key;
    loop {
        if let Some(origin) = instance.origins.get(key) {
            return Some(origin);
        }
        if key.is_empty() {
            return None;
        }
        key = key.rsplit_once('.').map_or("", |(around, _)| around);
    }
}
