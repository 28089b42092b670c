//! Generation on the CPU, with prepacked weights and a KV cache per sequence. The samples of a prompt share the prompt's
//! part of the cache. The result of a sequence does not depend on the others.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::Result;

use crate::batch::{EmbeddingSource, ImageBatch, push_sources};
use crate::buffer::Buffer;
use crate::cpu::CpuOps;
use crate::cpu::attention::AttentionPlan;
use crate::cpu::kv_cache::{KvCache, KvSegment};
use crate::cpu::tensor::CpuTensor;
use crate::cpu::weights::CpuWeights;
use crate::deepstack::Deepstack;
use crate::kernels::weight::Pass;
use crate::key_ranges::{key_ranges, push_ends};
use crate::layers::ForwardPass;
use crate::model::Model;
use crate::ops::Ops;
use crate::trainable_model::TrainableModel;
use crate::vision_tower::ImageFeatures;
use crate::{Architecture, Checkpoint, PixelSource, mrope};
use ablate_core::base::alloc::keep_freed_memory;

/// A model with prepacked weights, which all threads share.
pub(super) struct Weights(Model<CpuWeights>);

impl Weights {
    /// Packs the weights on `threads` threads.
    pub(super) fn new(model: &Checkpoint, threads: usize) -> Result<Weights> {
        keep_freed_memory();
        let model = Model::new(&CpuWeights::default(), &TrainableModel::frozen(model))?;
        let matrices: Vec<_> = model.matrices().map(|(matrix, _)| matrix).collect();
        let next = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for _ in 0..threads {
                scope.spawn(|| {
                    while let Some(matrix) = matrices.get(next.fetch_add(1, Ordering::Relaxed)) {
                        matrix.pack(Pass::Forward);
                    }
                });
            }
        });
        drop(matrices);
        Ok(Weights(model))
    }
}

/// The sequences that a thread continues together.
pub(super) struct CpuDecoder<'a> {
    architecture: &'a Architecture,
    model: &'a Model<CpuWeights>,
    ops: CpuOps,
    /// Memory of finished sequences, for new ones.
    free: Vec<KvSegment>,
}

impl<'a> CpuDecoder<'a> {
    pub(super) fn new(architecture: &'a Architecture, weights: &'a Weights) -> CpuDecoder<'a> {
        CpuDecoder { architecture, model: &weights.0, ops: CpuOps::default(), free: Vec::new() }
    }

    /// Reads a prompt with its images, and adds `samples` sequences that continue it by up to `max_tokens` tokens. The
    /// logits of the first token: (v,).
    pub(super) fn start(
        &mut self,
        tokens: &[u32],
        keys: &[String],
        images: &dyn PixelSource,
        samples: usize,
        max_tokens: usize,
    ) -> Result<Buffer> {
        let (layers, positions) = (self.architecture.decoder.layers, self.architecture.decoder.max_positions);
        let (heads, count) = (self.model.attention.heads, tokens.len());
        let (features, image_sources) = self.encode_images(keys, images)?;
        let mut sources = Vec::with_capacity(count);
        push_sources(self.architecture, tokens, &image_sources, &mut sources);
        let mut points = Vec::new();
        let behind = mrope::push_row(self.architecture, tokens, keys, images, &mut points)?;
        let mut key_ends = Vec::new();
        push_ends(self.architecture, tokens, &mut key_ends);
        if keys.is_empty() {
            points.clear();
            key_ends.clear();
        }
        self.ops.prefill = Some(KvSegment::new(layers, heads, count));
        let mut pass = ForwardPass { ops: &mut self.ops, dropout: None };
        let (embeddings, deepstack) = match features {
            Some(ImageFeatures { embeddings, deepstack }) => (Some(embeddings), Deepstack::new(deepstack, &sources)),
            None => (None, Deepstack::none()),
        };
        let x = self.model.embed(&mut pass, embeddings.as_ref(), &sources)?;
        let row = 0..count;
        let rows = std::slice::from_ref(&row);
        let plans = self.model.attention.plans(|rotary, window| {
            let rope = rotary.rotations(count, &points);
            pass.ops.plan_attention(heads, rows, Some(&rope), key_ranges(rows, &key_ends, window).as_ref())
        })?;
        let last = self.model.decode(&mut pass, x, &plans, &deepstack, Some(&[count - 1]))?;
        let logits = self.model.logits(pass.ops, &last)?.into_values();
        let Some(mut prefilled) = self.ops.prefill.take() else { panic!("BUG: the prompt's cache is gone") };
        prefilled.advance(count);
        let prefilled = Arc::new(prefilled);
        let capacity = max_tokens.min(positions - count);
        for _ in 0..samples {
            let fits = self.free.iter().position(|free| free.fits(capacity));
            let generated = if let Some(index) = fits {
                let mut segment = self.free.swap_remove(index);
                segment.clear();
                segment
            } else {
                // Frees one that is too small for each new one, so that their number does not grow.
                self.free.pop();
                KvSegment::new(layers, heads, capacity)
            };
            self.ops.caches.push(KvCache { prompt: prefilled.clone(), generated, behind });
        }
        Ok(logits)
    }

    /// Continues every sequence by its token. The logits of the next tokens: (sequences, v).
    pub(super) fn step(&mut self, tokens: &[u32]) -> Result<Buffer> {
        assert_eq!(tokens.len(), self.ops.caches.len(), "BUG: one token per sequence");
        let longest = self.ops.caches.iter().map(KvCache::length).max().unwrap_or(0);
        let sources: Vec<EmbeddingSource> = tokens.iter().map(|&token| EmbeddingSource::Token(token)).collect();
        let mut pass = ForwardPass { ops: &mut self.ops, dropout: None };
        let x = self.model.embed(&mut pass, None, &sources)?;
        let heads = self.model.attention.heads;
        let plans = self
            .model
            .attention
            .plans(|rotary, window| Ok(AttentionPlan::Step { heads, rope: rotary.table(longest + 1), window }))?;
        let hidden = self.model.decode(&mut pass, x, &plans, &Deepstack::none(), None)?;
        let logits = self.model.logits(pass.ops, &hidden)?.into_values();
        for cache in &mut self.ops.caches {
            cache.generated.advance(1);
        }
        Ok(logits)
    }

    /// Removes the sequence at `index`. The others keep their order, so the samples of a prompt stay next to each other.
    pub(super) fn remove(&mut self, index: usize) {
        let cache = self.ops.caches.remove(index);
        self.free.push(cache.generated);
    }

    /// The features of a prompt's images, and their order in the sequence. An image that occurs twice is encoded once.
    fn encode_images(
        &mut self,
        keys: &[String],
        images: &dyn PixelSource,
    ) -> Result<(Option<ImageFeatures<CpuTensor>>, Vec<EmbeddingSource>)> {
        let (Some(vision), Some(tower)) = (&self.architecture.vision, &self.model.vision_tower) else {
            return Ok((None, Vec::new()));
        };
        let mut batch = ImageBatch::default();
        let mut by_image: BTreeMap<&str, Vec<EmbeddingSource>> = BTreeMap::new();
        let mut sources = Vec::new();
        for key in keys {
            if !by_image.contains_key(key.as_str()) {
                by_image.insert(key, batch.push(vision, key, &images.pixel_values(key)?)?);
            }
            sources.extend_from_slice(&by_image[key.as_str()]);
        }
        if batch.tiles.is_empty() {
            return Ok((None, Vec::new()));
        }
        let mut pass = ForwardPass { ops: &mut self.ops, dropout: None };
        Ok((Some(tower.forward(&mut pass, &batch.tiles, &batch.patches, None)?), sources))
    }
}
