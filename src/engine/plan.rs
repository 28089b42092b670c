//! The plan: decides for every instance whether it is fresh, must run, or waits for an instance that must run. Runs no
//! stage.

use std::collections::BTreeSet;
use std::path::PathBuf;

use anyhow::Result;

use super::dirty::DirtyReason;
use super::identity::{ExternalInputs, Identity, hash_inputs};
use super::links::OutputLinks;
use super::manifest_diff::diff_manifests;
use super::noop_cache::{NoopCache, OutputStamps};
use ablate_core::base::Hash;
use ablate_experiment::{Expansion, Instance, InstanceId, Upstream};
use ablate_store::{ExperimentId, ObjectState, SlimRecord, Store};

#[derive(Clone, Debug, Default)]
pub struct PlanOptions {
    /// The store keeps the last fingerprint of each instance under this id.
    pub experiment: ExperimentId,
    /// Instances that run even if they are fresh.
    pub force: BTreeSet<InstanceId>,
    /// The bad replies that the instances of `force` request again.
    pub retry: BTreeSet<String>,
    /// Name of the no-op cache in the store.
    pub noop_cache: Option<String>,
    /// Folder of this experiment's links to outputs, if a missing link makes an instance take the normal path.
    pub links: Option<PathBuf>,
}

/// One entry per instance, in the order of the expansion.
#[derive(Clone, Debug)]
pub struct Plan {
    pub entries: Vec<PlanEntry>,
}

#[derive(Clone, Debug)]
pub struct PlanEntry {
    pub id: InstanceId,
    pub state: PlanState,
    /// `None` while an upstream instance has to run first, and if an external input cannot be read.
    pub identity: Option<Identity>,
    /// The record that makes it fresh.
    pub record: Option<SlimRecord>,
    /// Set if the no-op cache confirms the instance. Then its links and its note are up to date too.
    pub(super) stamps: Option<OutputStamps>,
    /// Fingerprint of the record that the reasons compare with.
    pub compared: Option<Hash>,
}

#[derive(Clone, Debug, PartialEq)]
pub enum PlanState {
    /// Its record and outputs are in the store.
    Fresh,
    /// It must run.
    Dirty(Vec<DirtyReason>),
    /// It may have to run, depending on the results of these upstream instances.
    Waiting(Vec<InstanceId>),
}

impl PlanEntry {
    pub(super) fn new(id: InstanceId, state: PlanState) -> PlanEntry {
        PlanEntry { id, state, identity: None, record: None, stamps: None, compared: None }
    }

    fn cached(id: InstanceId, inputs: Vec<Hash>, record: SlimRecord, stamps: OutputStamps) -> PlanEntry {
        let identity = Some(Identity { inputs, fingerprint: record.fingerprint });
        PlanEntry { identity, record: Some(record), stamps: Some(stamps), ..PlanEntry::new(id, PlanState::Fresh) }
    }
}

impl Plan {
    pub fn get(&self, id: InstanceId) -> &PlanEntry {
        &self.entries[id.0]
    }

    /// The numbers of fresh, dirty and waiting instances in `among`.
    pub fn counts<'a>(&self, among: impl IntoIterator<Item = &'a InstanceId>) -> (usize, usize, usize) {
        among.into_iter().fold((0, 0, 0), |(fresh, dirty, waiting), id| match self.get(*id).state {
            PlanState::Fresh => (fresh + 1, dirty, waiting),
            PlanState::Dirty(_) => (fresh, dirty + 1, waiting),
            PlanState::Waiting(_) => (fresh, dirty, waiting + 1),
        })
    }
}

/// Plans every instance. Writes nothing but the memo of file hashes.
pub fn plan(expansion: &Expansion, store: &Store, options: &PlanOptions) -> Result<Plan> {
    let plan = plan_with(expansion, store, options, &mut ExternalInputs::default())?;
    store.save_memo();
    Ok(plan)
}

pub(super) fn plan_with(
    expansion: &Expansion,
    store: &Store,
    options: &PlanOptions,
    external: &mut ExternalInputs,
) -> Result<Plan> {
    let mut entries: Vec<PlanEntry> = Vec::with_capacity(expansion.instances.len());
    let links = options.links.as_deref().map(OutputLinks::new);
    let mut cache = NoopCache::load(store, options.noop_cache.as_deref(), expansion);
    for (id, instance) in expansion.ids().zip(&expansion.instances) {
        let (upstream, cached) = (upstream_not_fresh(instance, &entries), cache.next());
        let entry = if upstream.is_empty() {
            let record = |index: usize| entries[index].record.as_ref();
            match hash_inputs(instance, store, external, &record) {
                Ok(inputs) => {
                    let cached = cached.filter(|_| !options.force.contains(&id));
                    match cached.and_then(|cached| cached.validate(store, instance, &inputs, links.as_ref())) {
                        Some((record, stamps)) => PlanEntry::cached(id, inputs, record, stamps),
                        None => classify(id, instance, Identity::new(instance, inputs), store, options)?,
                    }
                }
                Err(obstacles) => PlanEntry::new(id, PlanState::Dirty(obstacles)),
            }
        } else {
            PlanEntry::new(id, PlanState::Waiting(upstream))
        };
        tracing::trace!(instance = instance.name, state = ?entry.state, "is planned");
        entries.push(entry);
    }
    Ok(Plan { entries })
}

/// Classifies an instance that has a fingerprint as fresh or dirty.
pub(super) fn classify(
    id: InstanceId,
    instance: &Instance,
    identity: Identity,
    store: &Store,
    options: &PlanOptions,
) -> Result<PlanEntry> {
    let mut reasons = Vec::new();
    if options.force.contains(&id) {
        let kinds: Vec<String> = options.retry.iter().cloned().collect();
        reasons.push(if kinds.is_empty() { DirtyReason::Forced } else { DirtyReason::BadReplies { kinds } });
    }
    let mut compared = None;
    let record = store.slim_record(identity.fingerprint);
    if let Some(record) = &record {
        reasons.extend(missing_outputs(instance, record, store)?);
    } else {
        let old = store.latest(&options.experiment, &instance.name).fingerprint.and_then(|old| store.record(old));
        let changes = old.as_ref().map(|old| diff_manifests(&old.manifest, &identity.manifest(instance)));
        let changes = changes.unwrap_or_default();
        compared = old.filter(|_| !changes.is_empty()).map(|old| old.fingerprint);
        let never_run = changes.is_empty().then_some(DirtyReason::NeverRun);
        reasons.extend(never_run.into_iter().chain(name_external_inputs(changes, instance)));
    }
    if reasons.is_empty() {
        return Ok(PlanEntry { identity: Some(identity), record, ..PlanEntry::new(id, PlanState::Fresh) });
    }
    Ok(PlanEntry { identity: Some(identity), compared, ..PlanEntry::new(id, PlanState::Dirty(reasons)) })
}

/// The declared outputs of an instance that the record or the store lacks.
pub(super) fn missing_outputs(instance: &Instance, record: &SlimRecord, store: &Store) -> Result<Vec<DirtyReason>> {
    let mut reasons = Vec::new();
    for output in &*instance.outputs {
        let Some(artifact) = record.outputs.get(&output.name) else {
            reasons.push(DirtyReason::OutputAdded { output: output.name.to_string() });
            continue;
        };
        let (output, hash) = (output.name.to_string(), artifact.hash);
        match store.check(artifact, false)? {
            ObjectState::Present => {}
            ObjectState::Missing => reasons.push(DirtyReason::ObjectMissing { output, hash }),
            ObjectState::Corrupt => reasons.push(DirtyReason::ObjectCorrupt { output, hash }),
        }
    }
    Ok(reasons)
}

/// The instances that an instance reads and that are not fresh, without duplicates.
fn upstream_not_fresh(instance: &Instance, entries: &[PlanEntry]) -> Vec<InstanceId> {
    let mut found: Vec<InstanceId> = Vec::new();
    for input in &instance.inputs {
        if let Upstream::Output { instance: upstream, .. } = input.upstream {
            let fresh = entries.get(upstream.0).is_some_and(|entry| entry.state == PlanState::Fresh);
            if !fresh && !found.contains(&upstream) {
                found.push(upstream);
            }
        }
    }
    found
}

/// Adds the path or the variable name to the reasons about external inputs.
fn name_external_inputs(reasons: Vec<DirtyReason>, instance: &Instance) -> Vec<DirtyReason> {
    let upstream = |role: &str| instance.inputs.iter().find(|input| *input.role == *role).map(|input| &input.upstream);
    let add = |reason| match reason {
        DirtyReason::InputChanged { role, old, new, .. } => match upstream(&role) {
            Some(Upstream::Environment { name }) => DirtyReason::VariableChanged { name: name.clone(), role },
            Some(Upstream::External { path }) => DirtyReason::InputChanged { path: Some(path.clone()), role, old, new },
            Some(Upstream::Output { .. }) | None => DirtyReason::InputChanged { role, old, new, path: None },
        },
        other => other,
    };
    reasons.into_iter().map(add).collect()
}
