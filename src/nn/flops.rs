//! Floating-point operations of a forward pass, computed from the sizes. A multiply-add counts as two.

use super::architecture::{Activation, Architecture, Vision};
use super::batch::Batch;

/// FLOPs of the matrix products and the attention for a batch, without norms and activations. As usual, all positions of
/// the last layer count, although only those whose logits are needed are computed.
pub(crate) fn forward(model: &Architecture, batch: &Batch) -> f64 {
    let Architecture { vision, decoder, vocab } = model;
    let images = vision.as_ref().map_or(0.0, |vision| batch.tiles as f64 * tile(vision, decoder.dim));
    let (query, key) = (decoder.query_width(), decoder.kv_width());
    let block = (2 * decoder.dim * (query + key) + 3 * decoder.dim * decoder.ff) as f64;
    let linear = 2.0 * batch.tokens() as f64 * decoder.layers as f64 * block;
    // A position attends to those before it and itself: t (t + 1) / 2 scores, used twice.
    let scores: f64 = batch.rows.iter().map(|row| (row.len() * (row.len() + 1)) as f64 / 2.0).sum();
    let attention = 4.0 * scores * (decoder.layers * query) as f64;
    let head = 2.0 * (batch.targets() * vocab * decoder.dim) as f64;
    images + linear + attention + head
}

/// FLOPs of one tile.
fn tile(vision: &Vision, dim: usize) -> f64 {
    let Vision { dim: width, ff, .. } = *vision;
    let positions = vision.positions();
    let layers = if vision.activation == Activation::Swiglu { 3 } else { 2 };
    let block = (4 * width * width + layers * width * ff + 2 * positions * width) as f64;
    let per_position = (vision.patch_values() * width) as f64 + vision.used_layers() as f64 * block;
    let projector = (vision.projector.hidden * (vision.feature_width() + dim)) as f64;
    2.0 * (positions as f64 * per_position + vision.tile_tokens() as f64 * projector)
}
