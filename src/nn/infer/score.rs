//! Log-probabilities of the tokens of given responses.

use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{Context, Result};

use crate::auto_batch::AutoBatch;
use crate::session::Session;
use crate::trainable_model::TrainableModel;
use crate::{Batch, Checkpoint, PixelSource, Resources, Sequence, batch};
use ablate_data::tokens::TokenRow;

/// Rows per batch, or fewer if they do not fit into memory. It does not change the results.
const BATCH: usize = 32;

/// `log p(token)` in nats of the loss tokens of each row. Their sum is the log-probability of the response.
pub fn log_probs(
    model: &Checkpoint,
    rows: &[TokenRow],
    images: &dyn PixelSource,
    resources: &Resources,
) -> Result<Vec<Vec<f32>>> {
    let sequences: Vec<Sequence> =
        rows.iter().map(|row| Sequence { tokens: &row.tokens, loss: &row.loss, images: &row.images }).collect();
    for (index, sequence) in sequences.iter().enumerate() {
        batch::check_sequence(&model.architecture, sequence, images)
            .with_context(|| format!("row {index} (counted from 0)"))?;
    }
    let session = Session::new(&TrainableModel::frozen(model), resources)?;
    AutoBatch::at_most("row", BATCH).run(sequences.len(), resources.progress, |rows| {
        let chunks: Vec<&[Sequence]> = sequences.chunks(rows).collect();
        let build = |chunk: usize| Batch::new(&model.architecture, chunks[chunk], false, images);
        let done = AtomicU64::new(0);
        let by_row = |chunk: usize, batch: &Batch, values: &[f32]| {
            let mut rows = vec![Vec::new(); chunks[chunk].len()];
            for (&owner, &value) in batch.target_rows().iter().zip(values) {
                rows[owner].push(value);
            }
            let done = done.fetch_add(1, Ordering::Relaxed) + 1;
            resources.progress.step(done, chunks.len() as u64, "batches");
            rows
        };
        Ok(session.log_probs(chunks.len(), &build, &by_row)?.concat())
    })
}
