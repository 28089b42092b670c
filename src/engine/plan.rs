//! The plan: for every instance whether it is fresh, must run, or waits for something that must. Runs nothing.

use std::collections::BTreeSet;
use std::path::PathBuf;

use anyhow::Result;

use super::difference::differences;
use super::dirty::DirtyReason;
use super::identity::{Identity, Outside, contents};
use super::publish::Links;
use super::standing::{Looks, Standing};
use ablate_core::base::Hash;
use ablate_experiment::{Expansion, Instance, InstanceId, Upstream};
use ablate_store::{ExperimentId, ObjectState, SlimRecord, Store};

/// What a plan takes into account beside the experiment and the store.
#[derive(Clone, Debug, Default)]
pub struct PlanOptions {
    /// Name of the experiment, under which the last fingerprints are kept.
    pub experiment: ExperimentId,
    /// Instances that run even if they are fresh.
    pub force: BTreeSet<InstanceId>,
    /// Name of the derived data that hold what the last run found.
    pub standing: Option<String>,
    /// Where outputs are linked, if what was found there counts.
    pub out: Option<PathBuf>,
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
    /// `None` while something above has to run first, or cannot be read.
    pub identity: Option<Identity>,
    /// The record that makes it fresh.
    pub record: Option<SlimRecord>,
    /// How it looks, where that is as the last run left it, its links and its note included.
    pub(super) looks: Option<Looks>,
    /// Fingerprint of the record that the reasons compare with.
    pub compared: Option<Hash>,
}

#[derive(Clone, Debug, PartialEq)]
pub enum PlanState {
    /// Its record and outputs are in the store.
    Fresh,
    /// It must run.
    Dirty(Vec<DirtyReason>),
    /// It may run: that depends on what these instances above it will yield.
    Waits(Vec<InstanceId>),
}

impl PlanEntry {
    fn new(id: InstanceId, state: PlanState) -> PlanEntry {
        PlanEntry { id, state, identity: None, record: None, looks: None, compared: None }
    }

    fn standing(id: InstanceId, inputs: Vec<Hash>, record: SlimRecord, looks: Looks) -> PlanEntry {
        let identity = Some(Identity { inputs, fingerprint: record.fingerprint });
        PlanEntry { identity, record: Some(record), looks: Some(looks), ..PlanEntry::new(id, PlanState::Fresh) }
    }
}

impl Plan {
    pub fn get(&self, id: InstanceId) -> &PlanEntry {
        &self.entries[id.0]
    }

    /// How many of `among` are fresh, must run, may run.
    pub fn counts<'a>(&self, among: impl IntoIterator<Item = &'a InstanceId>) -> (usize, usize, usize) {
        among.into_iter().fold((0, 0, 0), |(fresh, must, may), id| match self.get(*id).state {
            PlanState::Fresh => (fresh + 1, must, may),
            PlanState::Dirty(_) => (fresh, must + 1, may),
            PlanState::Waits(_) => (fresh, must, may + 1),
        })
    }

    /// Instances that cannot run because a file or folder from outside is missing or cannot be read.
    pub fn obstacles(&self) -> Vec<(InstanceId, &DirtyReason)> {
        self.entries
            .iter()
            .filter_map(|entry| match &entry.state {
                PlanState::Dirty(reasons) => Some((entry.id, reasons)),
                _ => None,
            })
            .flat_map(|(id, reasons)| {
                reasons.iter().filter(|reason| reason.is_obstacle()).map(move |reason| (id, reason))
            })
            .collect()
    }
}

/// Decides for every instance. Writes nothing but the memo of file hashes.
pub fn plan(expansion: &Expansion, store: &Store, options: &PlanOptions) -> Result<Plan> {
    let plan = decide(expansion, store, options, &mut Outside::default())?;
    store.save_memo();
    Ok(plan)
}

pub(super) fn decide(
    expansion: &Expansion,
    store: &Store,
    options: &PlanOptions,
    outside: &mut Outside,
) -> Result<Plan> {
    let mut entries: Vec<PlanEntry> = Vec::with_capacity(expansion.instances.len());
    let links = options.out.as_deref().map(|out| Links::new(out, &options.experiment.name));
    let mut standing = Standing::load(store, options.standing.as_deref(), expansion);
    for (id, instance) in expansion.ids().zip(&expansion.instances) {
        let (waits, stood) = (waits_for(instance, &entries), standing.next());
        let entry = if waits.is_empty() {
            let record = |index: usize| entries[index].record.as_ref();
            match contents(instance, store, outside, &record) {
                Ok(inputs) => {
                    let stood = stood.filter(|_| !options.force.contains(&id));
                    match stood.and_then(|stood| stood.holds(store, instance, &inputs, links.as_ref())) {
                        Some((record, looks)) => PlanEntry::standing(id, inputs, record, looks),
                        None => judge(id, instance, Identity::new(instance, inputs), store, options)?,
                    }
                }
                Err(obstacles) => PlanEntry::new(id, PlanState::Dirty(obstacles)),
            }
        } else {
            PlanEntry::new(id, PlanState::Waits(waits))
        };
        tracing::trace!(instance = instance.name, state = ?entry.state, "is planned");
        entries.push(entry);
    }
    Ok(Plan { entries })
}

/// The state of an instance that has a fingerprint.
pub(super) fn judge(
    id: InstanceId,
    instance: &Instance,
    identity: Identity,
    store: &Store,
    options: &PlanOptions,
) -> Result<PlanEntry> {
    let mut reasons = Vec::new();
    if options.force.contains(&id) {
        reasons.push(DirtyReason::Forced);
    }
    let mut compared = None;
    let record = store.slim_record(identity.fingerprint);
    if let Some(record) = &record {
        reasons.extend(lacking(instance, record, store)?);
    } else {
        let old = store.latest(&options.experiment, &instance.name).fingerprint.and_then(|old| store.record(old));
        let found = old.as_ref().map(|old| differences(&old.manifest, &identity.manifest(instance)));
        let found = found.unwrap_or_default();
        compared = old.filter(|_| !found.is_empty()).map(|old| old.fingerprint);
        reasons.extend(if found.is_empty() { vec![DirtyReason::NeverRun] } else { with_names(found, instance) });
    }
    if reasons.is_empty() {
        return Ok(PlanEntry { identity: Some(identity), record, ..PlanEntry::new(id, PlanState::Fresh) });
    }
    Ok(PlanEntry { identity: Some(identity), compared, ..PlanEntry::new(id, PlanState::Dirty(reasons)) })
}

/// What a record promises and the store does not have.
pub(super) fn lacking(instance: &Instance, record: &SlimRecord, store: &Store) -> Result<Vec<DirtyReason>> {
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

/// The instances above that are not fresh, each once.
fn waits_for(instance: &Instance, entries: &[PlanEntry]) -> Vec<InstanceId> {
    let mut waits: Vec<InstanceId> = Vec::new();
    for input in &instance.inputs {
        if let Upstream::Output { instance: above, .. } = input.upstream {
            let fresh = entries.get(above.0).is_some_and(|entry| entry.state == PlanState::Fresh);
            if !fresh && !waits.contains(&above) {
                waits.push(above);
            }
        }
    }
    waits
}

/// Tells which file, folder or variable a changed input is, where it comes from outside.
fn with_names(reasons: Vec<DirtyReason>, instance: &Instance) -> Vec<DirtyReason> {
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
