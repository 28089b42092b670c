//! Supervised fine-tuning: cross-entropy on the response. Pre-training and rejection sampling fine-tuning use the same loop with
//! other rows.

use anyhow::{Context, Result};

use super::run::{BatchTotals, LossStats, Objective, Run, Trained};
use super::state::TrainState;
use super::tuning::Tuning;
use crate::ops::TargetGroups;
use crate::optimizer::OptimizerConfig;
use crate::{Batch, Checkpoint, PixelSource, Resources, Sequence, batch};
use ablate_core::base::Seed;
use ablate_data::batches::{BatchConfig, BatchSampler, ExampleSize};
use ablate_data::tokens::TokenRow;

/// The configuration of fine-tuning.
#[derive(Clone, Debug, PartialEq)]
pub struct SftConfig {
    pub batches: BatchConfig,
    pub optimizer: OptimizerConfig,
    pub tuning: Tuning,
}

impl SftConfig {
    /// The batches of training on `rows`.
    pub fn sampler(&self, rows: &[TokenRow], seed: Seed) -> Result<BatchSampler> {
        let size = |row: &TokenRow| ExampleSize { tokens: positions(row), has_image: !row.images.is_empty() };
        BatchSampler::new(rows.iter().map(size).collect(), CrossEntropy::EXAMPLE, self.batches, seed)
    }
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
    let batches = config.sampler(rows, seed)?;
    for (index, row) in rows.iter().enumerate() {
        batch::check_sequence(&start.architecture, &sequence(row), images)
            .with_context(|| format!("row {index} (counted from 0)"))?;
    }
    let (optimizer, tuning) = (&config.optimizer, &config.tuning);
    let trainable_model = tuning.trainable_model(start, optimizer, seed)?;
    let run = Run::new(&batches, (optimizer, tuning), seed, images, state, resources);
    run.train(trainable_model, &CrossEntropy { rows })
}

/// A row as a sequence.
pub(super) fn sequence(row: &TokenRow) -> Sequence<'_> {
    Sequence { tokens: &row.tokens, loss: &row.loss, images: &row.images }
}

/// The number of positions that a forward pass of a row computes. The last token is only a target.
pub(super) fn positions(row: &TokenRow) -> usize {
    row.tokens.len().saturating_sub(1)
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

    /// One group.
    fn groups(&self, batch: &Batch) -> TargetGroups {
        TargetGroups { ends: vec![batch.targets()], factors: vec![1.0; batch.targets()] }
    }

    fn slopes(&self, _: &[usize], totals: BatchTotals, sums: &[[f64; 2]]) -> (Vec<[f64; 2]>, LossStats) {
        // loss = -1/N sum log p with N loss tokens in the whole batch, so each shard has the weight of its tokens.
        let slope = -1.0 / totals.targets.max(1) as f64;
        let loss = slope * sums.iter().map(|[sum, _]| sum).sum::<f64>();
        (vec![[slope, 0.0]; sums.len()], LossStats { loss, ..LossStats::default() })
    }
}
