//! The inputs of an instance as paths in the store and outside of it: for its job, and for an estimate of its requests.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use anyhow::{Context, Result, bail};

use super::identity::Identity;
use ablate_core::base::Hash;
use ablate_core::stage::{Artifact, ArtifactKind, InputPath};
use ablate_experiment::{Instance, Upstream};
use ablate_store::{SlimRecord, Store};

/// The inputs of an instance that other instances produced, by role. `record` returns the record of an instance.
pub(super) fn input_artifacts<'a>(
    instance: &Instance,
    record: &impl Fn(usize) -> Option<&'a SlimRecord>,
) -> BTreeMap<String, Artifact> {
    let found = instance.inputs.iter().filter_map(|input| match &input.upstream {
        Upstream::Output { instance: upstream, output, .. } => {
            let artifact = record(upstream.0)?.outputs.get(output)?;
            Some((input.role.to_string(), artifact.clone()))
        }
        Upstream::External { .. } | Upstream::Environment { .. } => None,
    });
    found.collect()
}

/// The path of every input by role. Environment variables have none.
pub(super) fn input_paths(
    instance: &Instance,
    identity: &Identity,
    artifacts: &BTreeMap<String, Artifact>,
    store: &Store,
) -> Result<BTreeMap<String, InputPath>> {
    let mut inputs = BTreeMap::new();
    for (input, hash) in instance.inputs.iter().zip(&identity.inputs) {
        let path = match &input.upstream {
            Upstream::Environment { .. } => continue,
            Upstream::External { path } => InputPath { path: path.clone(), hash: *hash, kind: None },
            Upstream::Output { kind, .. } => {
                let artifact = artifacts.get(&*input.role);
                let artifact = artifact.with_context(|| format!("BUG: the input `{}` has no artifact", input.role))?;
                InputPath { path: store.artifact_path(artifact), hash: artifact.hash, kind: Some(*kind) }
            }
        };
        inputs.insert(input.role.to_string(), path);
    }
    Ok(inputs)
}

/// The checkpoints that these inputs build on, with their paths.
pub(super) fn base_paths(artifacts: &BTreeMap<String, Artifact>, store: &Store) -> BTreeMap<Hash, PathBuf> {
    let bases = artifacts.values().flat_map(|artifact| &artifact.bases);
    bases.map(|base| (base.hash, store.artifact_path(&base.artifact()))).collect()
}

/// The image packs that the rows of these inputs refer to.
pub(super) fn image_packs(artifacts: &BTreeMap<String, Artifact>) -> BTreeSet<Hash> {
    let mut packs = BTreeSet::new();
    for artifact in artifacts.values() {
        packs.extend(&artifact.images);
        if artifact.kind == ArtifactKind::Images {
            packs.insert(artifact.hash);
        }
    }
    packs
}

/// The paths of these image packs.
pub(super) fn image_pack_paths(
    artifacts: &BTreeMap<String, Artifact>,
    store: &Store,
) -> Result<BTreeMap<Hash, PathBuf>> {
    let mut paths = BTreeMap::new();
    for hash in image_packs(artifacts) {
        let path = store.object_path(hash);
        if !path.is_file() {
            let hash = hash.short();
            bail!("the image pack {hash} is missing from the store\nhelp: `ablate verify` lists what is damaged");
        }
        paths.insert(hash, path);
    }
    Ok(paths)
}
