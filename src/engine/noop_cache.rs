//! A cache of what the last run found fresh, so that a no-op run checks file metadata only. It changes no result: an
//! instance whose metadata differs takes the normal path through manifest, fingerprint and record.

use serde::{Deserialize, Serialize};

use super::links::OutputLinks;
use ablate_core::base::Hash;
use ablate_experiment::{Expansion, Instance};
use ablate_store::{SlimRecord, Stamp, Store};

/// The cache entries of the last run. They are decoded one by one, because all of them together would need more memory
/// than the plan.
#[derive(Debug, Default)]
pub(super) struct NoopCache {
    bytes: Vec<u8>,
    /// Offset of the next entry.
    at: usize,
}

/// What the cache depends on as a whole. It is ignored if any of this changed.
#[derive(PartialEq, Serialize, Deserialize)]
struct Header {
    expansion: Hash,
    /// Stamps of the logs `records` and `notes`: entries may have been added, removed or damaged.
    logs: [Stamp; 2],
}

impl Header {
    fn current(store: &Store, expansion: &Expansion) -> Option<Header> {
        Some(Header { expansion: expansion.hash?, logs: store.stamps()? })
    }
}

/// The cache entry of an instance that was fresh.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct CachedInstance {
    /// Content hashes of its inputs.
    inputs: Vec<Hash>,
    record: SlimRecord,
    stamps: OutputStamps,
}

/// File metadata of the outputs of an instance.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct OutputStamps {
    /// One per output object; `None` for a folder, whose files are checked one by one.
    objects: Vec<Option<Stamp>>,
    /// The folder of the instance's links. Its stamp changes when a link is removed or replaced.
    links: Option<Stamp>,
}

impl OutputStamps {
    /// `None` if an output is missing by now.
    fn read(store: &Store, instance: &Instance, record: &SlimRecord, links: Option<&OutputLinks>) -> Option<Self> {
        let outputs = record.outputs.values();
        let stamps = outputs.map(|output| if output.tree { Some(None) } else { store.object_stamp(output).map(Some) });
        let objects = stamps.collect::<Option<_>>()?;
        Some(OutputStamps { objects, links: links.and_then(|links| links.stamp(instance)) })
    }
}

/// A fresh instance, to be written to the cache.
pub(super) struct FreshInstance<'a> {
    pub(super) inputs: &'a [Hash],
    pub(super) record: &'a SlimRecord,
    /// Known if the plan took the instance from the cache.
    pub(super) stamps: Option<&'a OutputStamps>,
}

impl NoopCache {
    /// Reads the cache of an expansion. It is empty if records or notes were written since.
    pub(super) fn load(store: &Store, name: Option<&str>, expansion: &Expansion) -> NoopCache {
        let load = || {
            let bytes = store.read_cached(name?)?;
            let (header, rest) = postcard::take_from_bytes::<Header>(&bytes).ok()?;
            let at = bytes.len() - rest.len();
            (header == Header::current(store, expansion)?).then_some(NoopCache { bytes, at })
        };
        load().unwrap_or_default()
    }

    /// Writes what is fresh now. Stamps that the plan has verified are not read again.
    pub(super) fn write<'a>(
        store: &Store,
        name: &str,
        expansion: &Expansion,
        links: Option<&OutputLinks>,
        fresh: impl Iterator<Item = Option<FreshInstance<'a>>>,
    ) {
        let encode = || {
            let mut bytes = postcard::to_stdvec(&Header::current(store, expansion)?).ok()?;
            for (instance, fresh) in expansion.instances.iter().zip(fresh) {
                let cached = fresh.and_then(|FreshInstance { inputs, record, stamps }| {
                    let stamps = stamps.cloned().or_else(|| OutputStamps::read(store, instance, record, links))?;
                    Some(CachedInstance { inputs: inputs.to_vec(), record: record.clone(), stamps })
                });
                bytes = postcard::to_extend(&cached, bytes).ok()?;
            }
            Some(bytes)
        };
        if let Some(bytes) = encode() {
            store.write_cached(name, &bytes);
        }
    }

    /// The entry of the next instance. The caller asks once per instance, in the order of the expansion.
    pub(super) fn next(&mut self) -> Option<CachedInstance> {
        let (cached, rest) = postcard::take_from_bytes::<Option<CachedInstance>>(self.bytes.get(self.at..)?).ok()?;
        self.at = self.bytes.len() - rest.len();
        cached
    }
}

impl CachedInstance {
    /// The record, if the inputs have the same content and the metadata of the outputs is unchanged. With `links`, the
    /// metadata of the link folder counts too.
    pub(super) fn validate(
        self,
        store: &Store,
        instance: &Instance,
        inputs: &[Hash],
        links: Option<&OutputLinks>,
    ) -> Option<(SlimRecord, OutputStamps)> {
        let CachedInstance { record, stamps, .. } = Some(self).filter(|cached| cached.inputs == inputs)?;
        let outputs = &record.outputs;
        if stamps.objects.len() != outputs.values().count()
            || !instance.outputs.iter().all(|output| outputs.get(&output.name).is_some())
        {
            return None;
        }
        let objects = outputs.values().zip(&stamps.objects).all(|(artifact, stamp)| match stamp {
            Some(stamp) => store.object_stamp(artifact) == Some(*stamp),
            None => store.is_present(artifact),
        });
        let linked = || links.is_none_or(|links| stamps.links.is_some() && links.stamp(instance) == stamps.links);
        (objects && linked()).then_some((record, stamps))
    }
}
