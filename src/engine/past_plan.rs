//! The plan of a past run: the results that it had, for a report about it.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::Result;

use super::dirty::DirtyReason;
use super::history::PastRun;
use super::identity::Identity;
use super::plan::{Plan, PlanEntry, PlanState, missing_outputs};
use ablate_core::base::Hash;
use ablate_core::stage::ManifestEntry;
use ablate_experiment::{Expansion, Instance, InstanceId};
use ablate_store::{StageRecord, Store};

/// The results of a past run.
#[derive(Clone, Debug)]
pub struct PastPlan {
    /// An entry is fresh if the run had the result, and the store still has it.
    pub plan: Plan,
    /// Instances of the run whose results `gc` has removed.
    pub removed: Vec<String>,
    /// Instances of the run that the expansion does not have.
    pub unknown: Vec<String>,
    /// Instances of the expansion that the run does not have.
    pub added: Vec<String>,
}

/// Finds the results of a run for the instances of an expansion by their names.
pub fn past_plan(expansion: &Expansion, store: &Store, run: &PastRun) -> Result<PastPlan> {
    let named: BTreeMap<&str, (&str, Option<Hash>)> = run
        .instances
        .iter()
        .map(|instance| (instance.name.as_str(), (instance.outcome.as_str(), instance.fingerprint)))
        .collect();
    let (mut entries, mut removed, mut added) = (Vec::new(), Vec::new(), Vec::new());
    for (id, instance) in expansion.ids().zip(&expansion.instances) {
        let known = named.get(instance.name.as_str());
        let mut entry = PlanEntry::new(id, PlanState::Dirty(vec![DirtyReason::NeverRun]));
        match known {
            None => added.push(instance.name.clone()),
            Some(("ran" | "fresh" | "fetched", Some(fingerprint))) => match found(id, instance, store, *fingerprint)? {
                Some(fresh) => entry = fresh,
                None => removed.push(instance.name.clone()),
            },
            // It failed, or the run ended before it.
            Some(_) => {}
        }
        entries.push(entry);
    }
    let names: BTreeSet<&str> = expansion.instances.iter().map(|instance| instance.name.as_str()).collect();
    let unknown = named.keys().filter(|name| !names.contains(*name)).map(ToString::to_string).collect();
    Ok(PastPlan { plan: Plan { entries }, removed, unknown, added })
}

/// The entry of a result that is in the store.
fn found(id: InstanceId, instance: &Instance, store: &Store, fingerprint: Hash) -> Result<Option<PlanEntry>> {
    let (Some(record), Some(slim)) = (store.record(fingerprint), store.slim_record(fingerprint)) else {
        return Ok(None);
    };
    if !missing_outputs(instance, &slim, store)?.is_empty() {
        return Ok(None);
    }
    let identity = inputs(instance, &record).map(|inputs| Identity { inputs, fingerprint });
    Ok(Some(PlanEntry { identity, record: Some(slim), ..PlanEntry::new(id, PlanState::Fresh) }))
}

/// The content hashes of the inputs in the order of the instance. `None` if it had other inputs then.
fn inputs(instance: &Instance, record: &StageRecord) -> Option<Vec<Hash>> {
    let hash_of = |wanted: &str| {
        record.manifest.entries.iter().find_map(|entry| match entry {
            ManifestEntry::Input { role, hash } if role == wanted => Some(*hash),
            _ => None,
        })
    };
    instance.inputs.iter().map(|input| hash_of(&input.role)).collect()
}
