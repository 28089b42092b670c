//! What identifies an instance: its manifest, with the content of every input. Knows no plan and no record's age.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::dirty::DirtyReason;
use crate::base::Hash;
use crate::experiment::{Instance, InstanceInput, Upstream};
use crate::stage::Manifest;
use crate::store::{StageRecord, Store};

/// A manifest and its fingerprint.
#[derive(Clone, Debug, PartialEq)]
pub struct Identity {
    pub manifest: Manifest,
    pub fingerprint: Hash,
}

/// Content hashes of files and folders outside the store, each looked at once per plan.
#[derive(Debug, Default)]
pub struct Outside {
    known: BTreeMap<PathBuf, Result<Option<Hash>, String>>,
}

impl Outside {
    /// The content hash of a path, or the reason why there is none.
    pub fn hash(&mut self, store: &Store, role: &str, path: &Path) -> Result<Hash, Box<DirtyReason>> {
        if !self.known.contains_key(path) {
            let found = store.hash_outside(path, &|_| ()).map_err(|error| format!("{error:#}"));
            self.known.insert(path.to_path_buf(), found);
        }
        match &self.known[path] {
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
    record: &impl Fn(usize) -> Option<&'a StageRecord>,
) -> Result<Hash, Box<DirtyReason>> {
    match &input.upstream {
        Upstream::Outside { path } => outside.hash(store, &input.role, path),
        Upstream::Output { instance, output, .. } => {
            let artifact = record(instance.0).and_then(|record| record.outputs.get(*output));
            let Some(artifact) = artifact else {
                panic!("BUG: the input `{}` is asked for before its stage is done", input.role)
            };
            Ok(artifact.hash)
        }
    }
}

/// The identity of an instance whose upstream is done, or every obstacle that keeps it from having one.
pub fn identify<'a>(
    instance: &Instance,
    store: &Store,
    outside: &mut Outside,
    record: &impl Fn(usize) -> Option<&'a StageRecord>,
) -> Result<Identity, Vec<DirtyReason>> {
    let mut manifest = Manifest::new(instance.kind.name, instance.kind.version);
    instance.built.identify(&mut manifest);
    let mut obstacles = Vec::new();
    for input in &instance.inputs {
        match input_hash(input, store, outside, record) {
            Ok(hash) => manifest.input(&input.role, hash),
            Err(reason) => obstacles.push(*reason),
        }
    }
    if !obstacles.is_empty() {
        return Err(obstacles);
    }
    if instance.kind.seeded {
        manifest.seed(instance.seed);
    }
    let fingerprint = manifest.fingerprint();
    Ok(Identity { manifest, fingerprint })
}
