//! Floating-point operations of a forward pass, counted from the sizes: a multiply-add is two.

use super::batch::Batch;
use super::checkpoint::Checkpoint;

/// Operations of matrix products and attention for a batch; norms and activations are left out.
pub(crate) fn forward(model: &Checkpoint, batch: &Batch) -> f64 {
    let config = &model.config;
    let (vision, decoder) = (&config.vision, &config.decoder);
    let block = |dim: usize, kv_dim: usize, ff: usize| (2 * dim * dim + 2 * dim * kv_dim + 3 * dim * ff) as f64;
    let patches = config.image_tokens();
    let kv_dim = decoder.dim / decoder.heads * decoder.kv_heads;
    let per_patch = (config.patch_values() * vision.dim + config.projector.hidden * (vision.dim + decoder.dim)) as f64
        + vision.layers as f64 * (block(vision.dim, vision.dim, vision.ff) + (2 * patches * vision.dim) as f64);
    let images = 2.0 * (batch.images * patches) as f64 * per_patch;
    let linear = 2.0 * batch.tokens() as f64 * decoder.layers as f64 * block(decoder.dim, kv_dim, decoder.ff);
    // A position attends to those before it and itself: t (t + 1) / 2 scores, used twice.
    let scores: f64 = batch.rows.iter().map(|row| (row.len() * (row.len() + 1)) as f64 / 2.0).sum();
    let attention = 4.0 * scores * (decoder.layers * decoder.dim) as f64;
    let head = 2.0 * (batch.targets() * model.vocab * decoder.dim) as f64;
    images + linear + attention + head
}
