//! The keys and values of sequences on a GPU, preallocated: every token has a place, a row in each layer's two tables.

use std::rc::Rc;

use anyhow::Result;

use super::gpu::Gpu;
use super::memory::Buffer;

/// Keys and values by layer: (places, kv heads x width) each.
pub(crate) struct KvCache {
    layers: Vec<(Rc<Buffer>, Rc<Buffer>)>,
}

/// The cache, and the places that the tokens of a pass take.
pub(crate) struct CacheWriter {
    cache: Rc<KvCache>,
    places: Rc<Buffer>,
}

impl KvCache {
    /// `width` numbers per token in each of the two tables of a layer.
    pub(crate) fn new(gpu: &Gpu, layers: usize, places: usize, width: usize) -> Result<KvCache> {
        let bytes = places * width * gpu.inner_size();
        let layer = |_| Ok((gpu.allocate(bytes)?, gpu.allocate(bytes)?));
        Ok(KvCache { layers: (0..layers).map(layer).collect::<Result<_>>()? })
    }
}

impl CacheWriter {
    /// Token `i` of the pass takes place `places[i]`.
    pub(crate) fn new(gpu: &Gpu, cache: &Rc<KvCache>, places: &[i32]) -> Result<CacheWriter> {
        Ok(CacheWriter { cache: cache.clone(), places: gpu.upload(places)? })
    }

    pub(super) fn keys(&self, layer: usize) -> &Rc<Buffer> {
        &self.cache.layers[layer].0
    }

    pub(super) fn values(&self, layer: usize) -> &Rc<Buffer> {
        &self.cache.layers[layer].1
    }

    pub(super) fn places(&self) -> &Rc<Buffer> {
        &self.places
    }
}
