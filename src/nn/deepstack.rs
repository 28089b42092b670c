//! DeepStack (Meng et al. 2024) as Qwen3-VL has it: the features of inner blocks of the vision tower are added to the hidden states at
//! the image tokens, after the first layers of the decoder.

use anyhow::Result;

use super::batch::EmbeddingSource;
use super::ops::Ops;

/// What is added to the hidden states of a batch.
pub(crate) struct Deepstack<'a, T> {
    /// The features of all images (f, d), for each of the decoder's first layers.
    features: Vec<T>,
    /// Of every position of the batch, as in [`Ops::merge_image_features`].
    sources: &'a [EmbeddingSource],
}

impl<'a, T> Deepstack<'a, T> {
    pub(crate) fn new(features: Vec<T>, sources: &'a [EmbeddingSource]) -> Deepstack<'a, T> {
        Deepstack { features, sources }
    }

    /// Nothing is added.
    pub(crate) fn none() -> Deepstack<'a, T> {
        Deepstack { features: Vec::new(), sources: &[] }
    }

    /// Adds the features of decoder layer `layer`, if it has some, to its output: (n, d), or (needed, d) with `needed`, the positions
    /// that the layer has computed.
    pub(crate) fn add<O: Ops<Tensor = T>>(
        &self,
        ops: &mut O,
        layer: usize,
        x: T,
        needed: Option<&[usize]>,
    ) -> Result<T> {
        let Some(features) = self.features.get(layer) else { return Ok(x) };
        let Some(needed) = needed else { return ops.add_image_features(x, features, self.sources) };
        let sources: Vec<EmbeddingSource> = needed.iter().map(|&position| self.sources[position]).collect();
        ops.add_image_features(x, features, &sources)
    }
}
