//! What identifies an instance: its manifest, with the content of every input. Knows no plan and no record's age.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::Path;

use super::dirty::DirtyReason;
use ablate_core::base::Hash;
use ablate_core::stage::{Manifest, ManifestEntry};
use ablate_experiment::{Instance, InstanceInput, Upstream};
use ablate_store::{SlimRecord, Store};

/// The content of every input, and the fingerprint that follows from it.
#[derive(Clone, Debug, PartialEq)]
pub struct Identity {
    pub inputs: Vec<Hash>,
    pub fingerprint: Hash,
}

impl Identity {
    /// The identity of an instance with these contents, in the order of its inputs.
    pub fn new(instance: &Instance, inputs: Vec<Hash>) -> Identity {
        let fingerprint = Hash::of_bytes(text(instance, &inputs).as_bytes());
        Identity { inputs, fingerprint }
    }

    /// The manifest that the fingerprint is the hash of.
    pub fn manifest(&self, instance: &Instance) -> Manifest {
        let text = text(instance, &self.inputs);
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("BUG: `{text}` is no manifest: {error}"))
    }
}

fn text(instance: &Instance, inputs: &[Hash]) -> String {
    let named = instance.inputs.iter().zip(inputs);
    let mut entries: Vec<ManifestEntry> =
        named.map(|(input, hash)| ManifestEntry::Input { role: input.role.to_string(), hash: *hash }).collect();
    if instance.kind.seeded {
        entries.push(ManifestEntry::Seed { seed: instance.seed });
    }
    Manifest::extend(&instance.identity, &entries)
}

/// Content hashes of files and folders outside the store, each looked at once per plan.
#[derive(Debug, Default)]
pub struct Outside {
    known: BTreeMap<OsString, Result<Option<Hash>, String>>,
}

impl Outside {
    /// The content hash of a path, or the reason why there is none.
    pub fn hash(&mut self, store: &Store, role: &str, path: &Path) -> Result<Hash, Box<DirtyReason>> {
        let key = path.as_os_str();
        if !self.known.contains_key(key) {
            let found = store.hash_external(path, &|_| ()).map_err(|error| format!("{error:#}"));
            self.known.insert(key.to_os_string(), found);
        }
        match &self.known[key] {
            Ok(Some(hash)) => Ok(*hash),
            Ok(None) => Err(Box::new(DirtyReason::PathMissing { role: role.to_string(), path: path.to_path_buf() })),
            Err(error) => Err(Box::new(DirtyReason::PathUnreadable {
                role: role.to_string(),
                path: path.to_path_buf(),
                error: error.clone(),
            })),
        }
    }
}

/// The content of an input, once everything above is done.
pub fn input_hash<'a>(
    input: &InstanceInput,
    store: &Store,
    outside: &mut Outside,
    record: &impl Fn(usize) -> Option<&'a SlimRecord>,
) -> Result<Hash, Box<DirtyReason>> {
    match &input.upstream {
        Upstream::External { path } => outside.hash(store, &input.role, path),
        Upstream::Environment { name } => Ok(store.variable_hash(std::env::var_os(name).as_deref())),
        Upstream::Output { instance, output, .. } => {
            let artifact = record(instance.0).and_then(|record| record.outputs.get(output));
            let Some(artifact) = artifact else {
                panic!("BUG: the input `{}` is asked for before its stage is done", input.role)
            };
            Ok(artifact.hash)
        }
    }
}

/// The content of every input of an instance whose upstream is done, or every obstacle that keeps it from having some.
pub fn contents<'a>(
    instance: &Instance,
    store: &Store,
    outside: &mut Outside,
    record: &impl Fn(usize) -> Option<&'a SlimRecord>,
) -> Result<Vec<Hash>, Vec<DirtyReason>> {
    let mut inputs = Vec::with_capacity(instance.inputs.len());
    let mut obstacles = Vec::new();
    for input in &instance.inputs {
        match input_hash(input, store, outside, record) {
            Ok(hash) => inputs.push(hash),
            Err(reason) => obstacles.push(*reason),
        }
    }
    if obstacles.is_empty() { Ok(inputs) } else { Err(obstacles) }
}
