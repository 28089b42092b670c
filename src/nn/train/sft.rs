//! Supervised fine-tuning: cross-entropy on the response. Pre-training and rejection sampling fine-tuning use the same loop with
//! other rows.

use anyhow::{Context, Result, bail};

use super::optimizer::OptimizerConfig;
use super::run::{BatchTotals, LossStats, Objective, Run, Trained};
use super::state::TrainState;
use super::tuning::Tuning;
use crate::{Batch, Checkpoint, PixelSource, Resources, Sequence, batch};
use ablate_core::base::Seed;
use ablate_data::batches::{self, RowSize};
use ablate_data::tokens::TokenRow;

/// The configuration of fine-tuning.
#[derive(Clone, Debug, PartialEq)]
pub struct SftConfig {
    /// Passes over the rows.
    pub epochs: usize,
    /// Rows per step.
    pub batch: usize,
    /// Number of batches whose rows are sorted by length together; see [`batches::plan`].
    pub length_window: usize,
    pub optimizer: OptimizerConfig,
    pub tuning: Tuning,
}

/// Fine-tunes `start` on `rows`: the loss is the mean of `-log p(token)` over the loss tokens of a batch.
///
/// `start` is taken by value, so that the result can reuse its memory. `seed` determines the order of the rows. A row that
/// does not fit the model is an error before the first step.
pub fn sft(
    start: Checkpoint,
    rows: &[TokenRow],
    images: &dyn PixelSource,
    config: &SftConfig,
    seed: Seed,
    state: &TrainState,
    resources: &Resources,
) -> Result<Trained> {
    if rows.is_empty() {
        bail!("there are no rows to train on");
    }
    for (index, row) in rows.iter().enumerate() {
        batch::check_sequence(&start.architecture, &sequence(row), images)
            .with_context(|| format!("row {index} (counted from 0)"))?;
    }
    let size = |row: &TokenRow| RowSize { tokens: row.tokens.len(), has_image: row.image.is_some() };
    let sizes: Vec<RowSize> = rows.iter().map(size).collect();
    let plan = batches::plan(&sizes, config.batch, config.epochs, false, config.length_window, seed);
    let (optimizer, tuning) = (&config.optimizer, &config.tuning);
    let trainable_model = tuning.trainable_model(start, optimizer, seed)?;
    let run = Run { plan, optimizer, auto_batch: tuning.auto_batch(), seed, images, state, resources };
    run.train(trainable_model, &CrossEntropy { rows })
}

/// A row as a sequence.
pub(super) fn sequence(row: &TokenRow) -> Sequence<'_> {
    Sequence { tokens: &row.tokens, loss: &row.loss, image: row.image.as_deref() }
}

/// The number of targets of a row. The first token is never one.
pub(super) fn targets(row: &TokenRow) -> usize {
    row.loss.iter().skip(1).filter(|loss| **loss).count()
}

pub(super) struct CrossEntropy<'a> {
    pub(super) rows: &'a [TokenRow],
}

impl Objective for CrossEntropy<'_> {
    const EXAMPLE: &'static str = "row";

    fn sequences(&self, example: usize) -> Vec<Sequence<'_>> {
        vec![sequence(&self.rows[example])]
    }

    fn totals(&self, examples: &[usize]) -> BatchTotals {
        let targets = examples.iter().map(|&example| targets(&self.rows[example])).sum();
        BatchTotals { examples: examples.len(), targets }
    }

    fn derivative(&self, _: &[usize], totals: BatchTotals, _: &Batch, log_probs: &[f32]) -> (Vec<f32>, LossStats) {
        // loss = -1/N sum log p with N loss tokens in the whole batch, so each shard has the weight of its tokens.
        let slope = -1.0 / totals.targets.max(1) as f64;
        let loss = slope * log_probs.iter().map(|&value| f64::from(value)).sum::<f64>();
        (vec![slope as f32; log_probs.len()], LossStats { loss, ..LossStats::default() })
    }
}
