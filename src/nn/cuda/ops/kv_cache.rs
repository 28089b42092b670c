//! The keys and values of sequences on a GPU, preallocated: every token has a place, a row in each layer's two tables. Who gives out
//! the places is `infer::gpu`.

use std::rc::Rc;

use anyhow::Result;

use super::gpu::Gpu;
use super::memory::{Buffer, Part};

/// Keys and values by layer: (places, kv heads x width) each.
pub(crate) struct KvCache {
    layers: Vec<(Rc<Buffer>, Rc<Buffer>)>,
}

/// The cache, and the places that the tokens of a pass take.
pub(crate) struct CacheWriter {
    cache: Rc<KvCache>,
    places: Part,
}

impl KvCache {
    /// Bytes of a place in all layers, with `width` numbers in each of the two tables of a layer.
    pub(crate) fn place_bytes(gpu: &Gpu, layers: usize, width: usize) -> usize {
        2 * layers * width * gpu.inner_size()
    }

    /// `width` numbers per token in each of the two tables of a layer.
    pub(crate) fn new(gpu: &Gpu, layers: usize, places: usize, width: usize) -> Result<KvCache> {
        let bytes = places * width * gpu.inner_size();
        let layer = |_| Ok((gpu.allocate(bytes)?, gpu.allocate(bytes)?));
        Ok(KvCache { layers: (0..layers).map(layer).collect::<Result<_>>()? })
    }
}

impl CacheWriter {
    /// Token `i` of the pass takes place `places[i]`, an `int`.
    pub(crate) fn new(cache: &Rc<KvCache>, places: impl Into<Part>) -> CacheWriter {
        CacheWriter { cache: cache.clone(), places: places.into() }
    }

    pub(super) fn keys(&self, layer: usize) -> &Rc<Buffer> {
        &self.cache.layers[layer].0
    }

    pub(super) fn values(&self, layer: usize) -> &Rc<Buffer> {
        &self.cache.layers[layer].1
    }

    pub(super) fn places(&self) -> &Part {
        &self.places
    }
}
