//! Finds and downloads results.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result, anyhow};

use super::error::{Stopped, is_stopped};
use super::layout::{object_name, record_name};
use super::parallel::{map, try_map};
use super::transfer::missing;
use super::{Remote, TRANSFERS};
use ablate_core::base::{Hash, files};
use ablate_core::stage::Artifact;
use ablate_store::{ReceivedFile, StageRecord, Store, Tree};

/// What a remote has for a fingerprint.
#[derive(Debug)]
pub enum Found {
    Missing,
    Record(Box<StageRecord>),
    /// A record that cannot be used, and why.
    Unusable(anyhow::Error),
}

/// Results are downloaded and committed in groups of at least this many bytes or records.
const GROUP_BYTES: u64 = 1 << 30;
const GROUP_RECORDS: usize = 64;

/// An artifact that is not in the store, with its parts at the remote.
struct Wanted {
    artifact: Artifact,
    /// Its objects with their sizes, and how often a file of a tree occurs.
    objects: BTreeMap<Hash, (u64, usize)>,
    tree: Option<Tree>,
}

impl Remote {
    /// What the remote has for each fingerprint.
    pub fn find(&self, fingerprints: &[Hash]) -> Result<Vec<Found>> {
        try_map(fingerprints, TRANSFERS, |fingerprint| {
            Ok(match self.read_record(*fingerprint)? {
                None => Found::Missing,
                Some(Ok(record)) => Found::Record(Box::new(record)),
                Some(Err(error)) => Found::Unusable(
                    error.context(format!("the remote's `{}` is damaged and was not used", record_name(*fingerprint))),
                ),
            })
        })
    }

    /// Downloads the outputs of results, and commits the records whose outputs are all there and undamaged. Returns an error for
    /// each of the others.
    pub fn fetch(&self, store: &Store, records: &[StageRecord]) -> Result<Vec<Result<()>>> {
        let mut results = Vec::with_capacity(records.len());
        let mut group = Vec::new();
        let mut bytes = 0;
        for record in records {
            bytes += record.outputs.values().map(|output| output.size).sum::<u64>();
            group.push(record.clone());
            if bytes >= GROUP_BYTES || group.len() >= GROUP_RECORDS {
                results.extend(self.fetch_group(store, &std::mem::take(&mut group))?);
                bytes = 0;
            }
        }
        results.extend(self.fetch_group(store, &group)?);
        Ok(results)
    }

    fn fetch_group(&self, store: &Store, records: &[StageRecord]) -> Result<Vec<Result<()>>> {
        // Another process of this store that fetches waits, and then finds the objects.
        let _lock = self.lock(store, Hash::of_bytes(b"fetch"))?;
        let mut artifacts: BTreeMap<Hash, Artifact> = BTreeMap::new();
        let mut failed: BTreeMap<Hash, String> = BTreeMap::new();
        for output in records.iter().flat_map(|record| record.outputs.values()) {
            artifacts.extend(output.with_bases().map(|artifact| (artifact.hash, artifact)));
        }
        let packs: BTreeSet<Hash> = records
            .iter()
            .flat_map(|record| record.outputs.values())
            .flat_map(|output| output.images.iter().copied())
            .collect();
        let packs: Vec<Hash> = packs.into_iter().filter(|pack| !artifacts.contains_key(pack)).collect();
        for (pack, size) in packs.iter().zip(map(&packs, TRANSFERS, |pack| self.pack_size(store, *pack))) {
            match size {
                Ok(size) => drop(artifacts.insert(*pack, Store::image_pack(*pack, size))),
                Err(error) if is_stopped(&error) => return Err(error),
                Err(error) => drop(failed.insert(*pack, format!("{error:#}"))),
            }
        }
        artifacts.retain(|_, artifact| !store.is_present(artifact));
        let artifacts: Vec<Artifact> = artifacts.into_values().collect();
        let mut wanted = Vec::new();
        for (artifact, found) in artifacts.iter().zip(map(&artifacts, TRANSFERS, |one| self.wanted(store, one))) {
            match found {
                Ok(found) => wanted.push(found),
                Err(error) if is_stopped(&error) => return Err(error),
                Err(error) => drop(failed.insert(artifact.hash, format!("{error:#}"))),
            }
        }
        let mut objects: BTreeMap<Hash, (u64, usize)> = BTreeMap::new();
        for (hash, (size, uses)) in wanted.iter().flat_map(|one| &one.objects) {
            objects.entry(*hash).or_insert((*size, 0)).1 += uses;
        }
        let mut objects: Vec<(Hash, u64, usize)> =
            objects.into_iter().map(|(hash, (size, uses))| (hash, size, uses)).collect();
        objects.sort_by_key(|(_, size, _)| std::cmp::Reverse(*size));
        self.meter.expect(objects.iter().map(|(_, size, _)| size).sum());
        let downloaded = map(&objects, TRANSFERS, |(hash, size, _)| self.download(store, *hash, Some(*size)));
        let mut received: BTreeMap<Hash, ReceivedFile> = BTreeMap::new();
        for ((hash, _, uses), downloaded) in objects.iter().zip(downloaded) {
            match downloaded {
                Ok((path, verified)) => drop(received.insert(*hash, ReceivedFile { path, verified, uses: *uses })),
                Err(error) if is_stopped(&error) => return Err(error),
                Err(error) => drop(failed.insert(*hash, format!("{error:#}"))),
            }
        }
        for one in &wanted {
            let hash = one.artifact.hash;
            let lost = one.objects.keys().find_map(|object| failed.get(object)).cloned();
            let placed = match lost {
                Some(lost) => Err(anyhow!("{lost}")),
                None => place(store, one, &mut received),
            };
            if let Err(error) = placed {
                failed.insert(hash, format!("{error:#}"));
            }
        }
        // Manifests of trees are written by the store; files that other failures left behind are received again.
        for file in received.values().filter(|file| file.path.exists()) {
            files::remove_file(&file.path)?;
        }
        if self.backend.is_stopped() {
            return Err(Stopped.into());
        }
        let lost = |record: &StageRecord| {
            let mut needed = record.outputs.values().flat_map(Artifact::needed_objects);
            needed.find_map(|hash| failed.get(&hash)).cloned()
        };
        let (whole, results): (Vec<Option<&StageRecord>>, Vec<Result<()>>) = records
            .iter()
            .map(|record| match lost(record) {
                None => (Some(record), Ok(())),
                Some(lost) => (None, Err(anyhow!("{lost}"))),
            })
            .unzip();
        let whole: Vec<StageRecord> = whole.into_iter().flatten().cloned().collect();
        if !whole.is_empty() {
            store.commit(&whole).context("the downloaded results could not be stored")?;
        }
        Ok(results)
    }

    /// The size of an image pack, which records do not have.
    fn pack_size(&self, store: &Store, pack: Hash) -> Result<u64> {
        if let Ok(found) = std::fs::metadata(store.object_path(pack)) {
            return Ok(found.len());
        }
        Ok(self.head(&object_name(pack))?.ok_or_else(|| missing(pack))?.size)
    }

    /// The objects of an artifact. Downloads the manifest of a tree.
    fn wanted(&self, store: &Store, artifact: &Artifact) -> Result<Wanted> {
        let mut objects = BTreeMap::new();
        let mut tree = None;
        if artifact.tree {
            let (path, _) = self.download(store, artifact.hash, None)?;
            let parsed = Tree::parse(&files::read_bytes(&path)?)
                .with_context(|| format!("the folder `{}` of the remote cannot be used", artifact.hash))?;
            files::remove_file(&path)?;
            for file in parsed.files.values() {
                objects.entry(file.hash).or_insert((file.size, 0)).1 += 1;
            }
            tree = Some(parsed);
        } else {
            objects.insert(artifact.hash, (artifact.size, 1));
        }
        Ok(Wanted { artifact: artifact.clone(), objects, tree })
    }
}

/// Moves the received files of an artifact into the store.
fn place(store: &Store, wanted: &Wanted, received: &mut BTreeMap<Hash, ReceivedFile>) -> Result<()> {
    let Wanted { artifact, tree, .. } = wanted;
    if let Some(tree) = tree {
        return store.receive_tree(tree, received, artifact);
    }
    let file = received.get_mut(&artifact.hash).context("BUG: a file was not received")?;
    store.receive_file(file, artifact)
}
