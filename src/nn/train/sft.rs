//! Supervised fine-tuning: cross-entropy on the response. Pre-training and rejection fine-tuning are the same loop over
//! other rows.

use anyhow::{Context, Result, bail};

use super::optimizer::OptimizerConfig;
use super::run::{Objective, Run, Told, Trained, Whole};
use super::state::TrainState;
use super::tuning::Tuning;
use crate::{Batch, Checkpoint, PixelSource, Resources, Sequence, batch};
use ablate_core::base::Seed;
use ablate_data::batches::{self, RowSize};
use ablate_data::tokens::TokenRow;

/// How to fine-tune.
#[derive(Clone, Debug, PartialEq)]
pub struct SftConfig {
    /// Passes over the rows.
    pub epochs: usize,
    /// Rows per step.
    pub batch: usize,
    /// Batches whose rows are sorted by length together; see [`batches::plan`].
    pub length_window: usize,
    pub optimizer: OptimizerConfig,
    pub tuning: Tuning,
}

/// Fine-tunes `start` on `rows`: the loss is the mean of `-log p(token)` over the loss tokens of a batch.
///
/// `start` is taken, so that its memory can become the result's. The order of the rows comes from `seed`. A row that does not fit the model is an error before the first step.
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

/// A row as the model takes it.
pub(super) fn sequence(row: &TokenRow) -> Sequence<'_> {
    Sequence { tokens: &row.tokens, loss: &row.loss, image: row.image.as_deref() }
}

/// How many targets a row has: its first token is never one.
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

    fn whole(&self, examples: &[usize]) -> Whole {
        let targets = examples.iter().map(|&example| targets(&self.rows[example])).sum();
        Whole { examples: examples.len(), targets }
    }

    fn derivative(&self, _: &[usize], whole: Whole, _: &Batch, log_probs: &[f32]) -> (Vec<f32>, Told) {
        // loss = -1/N sum log p, N the loss tokens of the whole batch: parts of unequal length weigh by their tokens.
        let each = -1.0 / whole.targets.max(1) as f64;
        let loss = each * log_probs.iter().map(|&value| f64::from(value)).sum::<f64>();
        (vec![each as f32; log_probs.len()], Told { loss, ..Told::default() })
    }
}
