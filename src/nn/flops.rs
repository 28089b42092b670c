//! Floating-point operations of a forward pass, computed from the sizes. A multiply-add counts as two.

use super::architecture::{Activation, Architecture, Projector, TileShape, Vision};
use super::batch::Batch;

/// FLOPs of the matrix products and the attention for a batch, without norms and activations. As usual, all positions of
/// the last layer count, although only those whose logits are needed are computed.
pub(crate) fn forward(model: &Architecture, batch: &Batch) -> f64 {
    let Architecture { family: _, vision, decoder, vocab } = model;
    let of_tiles = |vision: &Vision| batch.images.tiles.iter().map(|&tile| of_tile(vision, tile, decoder.dim)).sum();
    let images: f64 = vision.as_ref().map_or(0.0, of_tiles);
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
fn of_tile(vision: &Vision, tile: TileShape, dim: usize) -> f64 {
    let (tower, positions) = (&vision.tower, vision.positions(tile));
    let (width, ff) = tower.widths();
    let layers = if tower.activation() == Activation::Swiglu { 3 } else { 2 };
    let block = (4 * width * width + layers * width * ff) as f64;
    let attended: usize = (0..tower.used_layers()).map(|layer| tower.attended(layer, positions)).sum();
    let attention = (2 * attended * width) as f64;
    let per_position = (tower.patch_values() * width) as f64 + tower.used_layers() as f64 * block + attention;
    let projector = match vision.projector {
        Projector::Mlp { hidden, .. } => hidden * (vision.projector_inputs() + dim),
        Projector::PixelShuffle { .. } | Projector::AveragePool { .. } => vision.projector_inputs() * dim,
        Projector::NormedPixelShuffle { .. } => (vision.projector_inputs() + dim) * dim,
        Projector::PatchMerger { .. } => vision.projector_inputs() * (vision.projector_inputs() + dim),
    };
    // The mergers of inner blocks have the sizes of the last one.
    let mergers = 1 + tower.deepstack().len();
    2.0 * (positions as f64 * per_position + (vision.tile_tokens(tile) * projector * mergers) as f64)
}
