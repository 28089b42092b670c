//! The identity of an instance: its manifest, which includes the content hash of every input, and its fingerprint.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::Path;

use super::dirty::DirtyReason;
use ablate_core::base::Hash;
use ablate_core::stage::{Manifest, ManifestEntry};
use ablate_experiment::{Instance, InstanceInput, Upstream};
use ablate_store::{SlimRecord, Store};

/// The content hashes of all inputs, and the fingerprint computed from them.
#[derive(Clone, Debug, PartialEq)]
pub struct Identity {
    /// In the order of the instance's inputs.
    pub inputs: Vec<Hash>,
    pub fingerprint: Hash,
}

impl Identity {
    pub fn new(instance: &Instance, inputs: Vec<Hash>) -> Identity {
        let fingerprint = Hash::of_bytes(manifest_text(instance, &inputs).as_bytes());
        Identity { inputs, fingerprint }
    }

    /// The manifest whose hash is the fingerprint.
    pub fn manifest(&self, instance: &Instance) -> Manifest {
        let text = manifest_text(instance, &self.inputs);
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("BUG: `{text}` is not a manifest: {error}"))
    }
}

fn manifest_text(instance: &Instance, inputs: &[Hash]) -> String {
    let named = instance.inputs.iter().zip(inputs);
    let mut entries: Vec<ManifestEntry> =
        named.map(|(input, hash)| ManifestEntry::Input { role: input.role.to_string(), hash: *hash }).collect();
    if instance.kind.seeded {
        entries.push(ManifestEntry::Seed { seed: instance.seed });
    }
    Manifest::extend(&instance.identity, &entries)
}

/// Content hashes of external files and folders. Each path is hashed once per plan.
#[derive(Debug, Default)]
pub struct ExternalInputs {
    hashes: BTreeMap<OsString, Result<Option<Hash>, String>>,
}

impl ExternalInputs {
    /// The content hash of a path, or the reason why it has none.
    pub fn hash(&mut self, store: &Store, role: &str, path: &Path) -> Result<Hash, Box<DirtyReason>> {
        let key = path.as_os_str();
        if !self.hashes.contains_key(key) {
            let found = store.hash_external(path, &|_| ()).map_err(|error| format!("{error:#}"));
            self.hashes.insert(key.to_os_string(), found);
        }
        match &self.hashes[key] {
            Ok(Some(hash)) => Ok(*hash),
            Ok(None) => Err(Box::new(DirtyReason::PathMissing { role: role.to_string(), path: path.to_path_buf() })),
            Err(error) => {
                let (role, path, error) = (role.to_string(), path.to_path_buf(), error.clone());
                Err(Box::new(DirtyReason::PathUnreadable { role, path, error }))
            }
        }
    }
}

/// The content hash of one input. The upstream instance must be done.
fn hash_input<'a>(
    input: &InstanceInput,
    store: &Store,
    external: &mut ExternalInputs,
    record: &impl Fn(usize) -> Option<&'a SlimRecord>,
) -> Result<Hash, Box<DirtyReason>> {
    match &input.upstream {
        Upstream::External { path } => external.hash(store, &input.role, path),
        Upstream::Environment { name } => Ok(store.variable_hash(std::env::var_os(name).as_deref())),
        Upstream::Output { instance, output, .. } => {
            let artifact = record(instance.0).and_then(|record| record.outputs.get(output));
            let bug = || panic!("BUG: the input `{}` is hashed before its stage is done", input.role);
            Ok(artifact.unwrap_or_else(bug).hash)
        }
    }
}

/// The content hash of every input, or the reason for every input that cannot be hashed. All upstream instances must
/// be done.
pub(super) fn hash_inputs<'a>(
    instance: &Instance,
    store: &Store,
    external: &mut ExternalInputs,
    record: &impl Fn(usize) -> Option<&'a SlimRecord>,
) -> Result<Vec<Hash>, Vec<DirtyReason>> {
    let mut hashes = Vec::with_capacity(instance.inputs.len());
    let mut obstacles = Vec::new();
    for input in &instance.inputs {
        match hash_input(input, store, external, record) {
            Ok(hash) => hashes.push(hash),
            Err(reason) => obstacles.push(*reason),
        }
    }
    if obstacles.is_empty() { Ok(hashes) } else { Err(obstacles) }
}
