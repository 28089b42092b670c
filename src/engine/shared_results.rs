//! Results that other machines made: found by their fingerprints, and fetched instead of run.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::Result;

use super::experiment_notes::note_experiment;
use super::identity::{ExternalInputs, Identity, hash_inputs};
use super::plan::{Plan, PlanState};
use ablate_core::base::Hash;
use ablate_experiment::{Expansion, Instance, InstanceId, Upstream};
use ablate_store::{ExperimentId, LatestNote, SlimRecord, StageRecord, Store};

/// A place where machines share results.
pub trait SharedResults: Send + Sync {
    /// The record of each fingerprint. An error means that the place cannot be reached.
    fn find(&self, fingerprints: &[Hash]) -> Result<Lookup>;
    /// Brings the outputs of records into the store and commits the records. Returns an error for each record that could not be
    /// fetched.
    fn fetch(&self, store: &Store, records: &[StageRecord]) -> Result<Vec<Result<()>>>;
    /// A stage has run and its result is committed. Must not wait.
    fn committed(&self, fingerprint: Hash);
}

/// What was found for a list of fingerprints.
#[derive(Debug, Default)]
pub struct Lookup {
    /// In the order of the fingerprints.
    pub records: Vec<Option<StageRecord>>,
    /// Records that cannot be used.
    pub warnings: Vec<String>,
}

/// The shared results of the instances that are not fresh.
#[derive(Debug, Default)]
pub struct SharedPlan {
    /// In an order in which inputs come first.
    pub found: Vec<(InstanceId, StageRecord)>,
    /// Instances without a shared result.
    pub missing: Vec<InstanceId>,
    /// Instances whose fingerprint is not known, because they read one that is missing.
    pub unknown: Vec<InstanceId>,
    pub warnings: Vec<String>,
}

/// What was fetched.
#[derive(Debug, Default)]
pub struct Fetched {
    pub fetched: BTreeSet<Hash>,
    /// Instances whose result was found and could not be fetched.
    pub failed: Vec<(InstanceId, anyhow::Error)>,
}

/// Looks for the results of the selected instances that are not fresh. The record of an instance has the hashes of its outputs, and
/// with them the fingerprints of its readers. Instances in `force` have to run, so they are left out.
pub fn find_shared(
    expansion: &Expansion,
    store: &Store,
    plan: &Plan,
    selected: &BTreeSet<InstanceId>,
    force: &BTreeSet<InstanceId>,
    shared: &dyn SharedResults,
) -> Result<SharedPlan> {
    let mut external = ExternalInputs::default();
    let mut records: Vec<Option<SlimRecord>> = plan.entries.iter().map(|entry| entry.record.clone()).collect();
    for entry in plan.entries.iter().filter(|entry| entry.state != PlanState::Fresh) {
        records[entry.id.0] = None;
    }
    let mut pending: Vec<InstanceId> =
        selected.iter().copied().filter(|id| plan.get(*id).state != PlanState::Fresh).collect();
    let mut result = SharedPlan::default();
    loop {
        let mut wave: Vec<(InstanceId, Identity)> = Vec::new();
        pending.retain(|id| {
            let instance = expansion.get(*id);
            if !instance.inputs.iter().all(|input| is_known(&input.upstream, &records)) {
                return true;
            }
            let inputs = hash_inputs(instance, store, &mut external, &|index| records[index].as_ref());
            let identity = inputs.ok().filter(|_| !force.contains(id));
            match identity {
                Some(inputs) => wave.push((*id, Identity::new(instance, inputs))),
                None => result.missing.push(*id),
            }
            false
        });
        if wave.is_empty() {
            break;
        }
        let fingerprints: Vec<Hash> = wave.iter().map(|(_, identity)| identity.fingerprint).collect();
        let lookup = shared.find(&fingerprints)?;
        result.warnings.extend(lookup.warnings);
        for ((id, identity), record) in wave.into_iter().zip(lookup.records) {
            let instance = expansion.get(id);
            match record.map(|record| (fits(&record, instance, &identity), record)) {
                Some((true, record)) => {
                    records[id.0] = Some(SlimRecord::from(&record));
                    result.found.push((id, record));
                }
                Some((false, _)) => {
                    result.warnings.push(unfit(instance));
                    result.missing.push(id);
                }
                None => result.missing.push(id),
            }
        }
    }
    result.unknown = pending;
    Ok(result)
}

/// Fetches what was found, and notes the results as the current ones of the experiment, so that `gc` keeps them.
pub fn fetch_shared(
    experiment: &ExperimentId,
    expansion: &Expansion,
    store: &Store,
    found: &[(InstanceId, StageRecord)],
    shared: &dyn SharedResults,
) -> Result<Fetched> {
    let mut fetched = Fetched::default();
    if found.is_empty() {
        return Ok(fetched);
    }
    // Several instances may have the same result.
    let unique: BTreeMap<Hash, usize> =
        found.iter().enumerate().rev().map(|(at, (_, record))| (record.fingerprint, at)).collect();
    let mut order: Vec<usize> = unique.into_values().collect();
    order.sort_unstable();
    let records: Vec<StageRecord> = order.iter().map(|at| found[*at].1.clone()).collect();
    for (at, result) in order.into_iter().zip(shared.fetch(store, &records)?) {
        match result {
            Ok(()) => drop(fetched.fetched.insert(found[at].1.fingerprint)),
            Err(error) => fetched.failed.push((found[at].0, error)),
        }
    }
    let notes = found.iter().filter(|(_, record)| fetched.fetched.contains(&record.fingerprint)).map(|(id, record)| {
        let note = LatestNote { fingerprint: Some(record.fingerprint), ..LatestNote::default() };
        (expansion.get(*id).name.clone(), note)
    });
    store.note_latest(experiment, &notes.collect::<Vec<_>>())?;
    note_experiment(experiment, expansion, store, true, None)?;
    Ok(fetched)
}

/// Fetches the result of one instance that is about to run. `None` if there is none; `warn` gets what went wrong.
pub(super) fn fetch_one(
    shared: &dyn SharedResults,
    instance: &Instance,
    identity: &Identity,
    store: &Store,
    warn: &dyn Fn(String),
) -> Option<SlimRecord> {
    let fetch = || -> Result<Option<SlimRecord>> {
        let lookup = shared.find(&[identity.fingerprint])?;
        lookup.warnings.into_iter().for_each(warn);
        let Some(record) = lookup.records.into_iter().flatten().next() else { return Ok(None) };
        if !fits(&record, instance, identity) {
            warn(unfit(instance));
            return Ok(None);
        }
        shared.fetch(store, std::slice::from_ref(&record))?.into_iter().collect::<Result<()>>()?;
        Ok(Some(SlimRecord::from(&record)))
    };
    fetch().unwrap_or_else(|error| {
        warn(format!("the shared result is not used, and the stage runs here: {error:#}"));
        None
    })
}

/// Whether the outputs of an upstream instance are known.
fn is_known(upstream: &Upstream, records: &[Option<SlimRecord>]) -> bool {
    match upstream {
        Upstream::Output { instance, output, .. } => {
            records[instance.0].as_ref().is_some_and(|record| record.outputs.get(output).is_some())
        }
        Upstream::External { .. } | Upstream::Environment { .. } => true,
    }
}

/// Whether a record is that of the instance: it has the same manifest and the outputs that the instance declares.
fn fits(record: &StageRecord, instance: &Instance, identity: &Identity) -> bool {
    let has_output = |name: &str, kind| record.outputs.get(name).is_some_and(|artifact| artifact.kind == kind);
    record.manifest == identity.manifest(instance)
        && instance.outputs.iter().all(|output| has_output(&output.name, output.kind))
}

fn unfit(instance: &Instance) -> String {
    format!("the shared result of `{}` has another manifest or other outputs, and is not used", instance.name)
}
