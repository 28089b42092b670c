//! Log-probabilities of given responses.

use anyhow::{Context, Result};

use crate::data::images::PixelSource;
use crate::data::tokens::TokenRow;
use crate::nn::engine::Engine;
use crate::nn::{Batch, Checkpoint, Resources, Sequence, batch};

/// Rows per batch. Changes no result.
const BATCH: usize = 32;

/// The sum of `log p(token)` over the loss tokens of each row, in nats. A row without loss tokens has 0.
pub fn log_probs(
    model: &Checkpoint,
    rows: &[TokenRow],
    pixels: &dyn PixelSource,
    resources: &Resources,
) -> Result<Vec<f64>> {
    let sequences: Vec<Sequence> =
        rows.iter().map(|row| Sequence { tokens: &row.tokens, loss: &row.loss, image: row.image.as_deref() }).collect();
    for (index, sequence) in sequences.iter().enumerate() {
        batch::check(model, sequence).with_context(|| format!("row {index} (counted from 0)"))?;
    }
    let engine = Engine::new(model, resources)?;
    let padded = engine.padded();
    let chunks: Vec<&[Sequence]> = sequences.chunks(BATCH).collect();
    let build = |chunk: usize| Batch::new(model, chunks[chunk], padded, &|key, size| pixels.pixels(key, size));
    let sums = |_: usize, batch: &Batch, values: &[f32]| batch.sum_by_sequence(values);
    Ok(engine.log_probs(chunks.len(), &build, &sums)?.concat())
}
