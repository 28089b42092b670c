//! Direct preference optimization (Rafailov et al. 2023), with an optional cross-entropy term on the chosen response.

use anyhow::{Context, Result, bail};

use super::optimizer::OptimizerConfig;
use super::run::{Objective, Run, Told, Trained, Whole};
use super::sft::{sequence, targets};
use super::state::TrainState;
use crate::base::Seed;
use crate::data::batches::{self, Extent};
use crate::data::images::PixelSource;
use crate::data::tokens::TokenPair;
use crate::nn::engine::Engine;
use crate::nn::{Batch, Checkpoint, Resources, Sequence, batch};

/// Pairs per batch when the reference's log-probabilities are computed. Changes no result.
const REFERENCE_BATCH: usize = 16;

/// How to optimize preferences.
#[derive(Clone, Debug, PartialEq)]
pub struct DpoConfig {
    /// Passes over the pairs.
    pub epochs: usize,
    /// Pairs per step.
    pub batch: usize,
    /// Batches whose rows are sorted by length together; see [`batches::plan`].
    pub length_window: usize,
    /// Strength of the pull to the reference.
    pub beta: f64,
    /// Weight of the mean `-log p(token)` over the chosen responses' tokens; 0 for plain DPO.
    pub sft_weight: f64,
    pub optimizer: OptimizerConfig,
}

/// Optimizes `policy` on `pairs`. With `l(y) = log policy(y | x) - log reference(y | x)`, summed over the loss tokens,
/// the loss is the mean over a batch's pairs of
///
/// ```text
/// -log sigmoid(beta (l(chosen) - l(rejected)))        (equation 7 of the paper)
/// ```
///
/// plus `sft_weight` times the mean of `-log p(token)` over the loss tokens of the batch's chosen responses. The
/// reference is evaluated once, before the first step.
#[expect(clippy::too_many_arguments, reason = "two models, data, config and circumstances")]
pub fn dpo(
    policy: &Checkpoint,
    reference: &Checkpoint,
    pairs: &[TokenPair],
    pixels: &dyn PixelSource,
    config: &DpoConfig,
    seed: Seed,
    state: &TrainState,
    resources: &Resources,
) -> Result<Trained> {
    if pairs.is_empty() {
        bail!("there are no pairs to train on");
    }
    for (index, pair) in pairs.iter().enumerate() {
        for (name, row) in [("chosen", &pair.chosen), ("rejected", &pair.rejected)] {
            let place = || format!("{name} response of pair {index} (counted from 0)");
            batch::check(policy, &sequence(row)).with_context(place)?;
            batch::check(reference, &sequence(row)).with_context(|| format!("{}, reference", place()))?;
            if targets(row) == 0 {
                bail!("{}: no token of it is a target", place());
            }
        }
    }
    let reference = reference_ratios(reference, pairs, pixels, resources)?;
    let extent = |TokenPair { chosen, rejected }: &TokenPair| Extent {
        length: chosen.tokens.len() + rejected.tokens.len(),
        image: chosen.image.is_some(),
    };
    let extents: Vec<Extent> = pairs.iter().map(extent).collect();
    let plan = batches::plan(&extents, config.batch, config.epochs, false, config.length_window, seed);
    let run = Run { plan, optimizer: &config.optimizer, pixels, state, resources };
    run.train(policy, &Preference { pairs, reference, beta: config.beta, sft_weight: config.sft_weight })
}

/// `log reference(chosen) - log reference(rejected)` per pair.
fn reference_ratios(
    reference: &Checkpoint,
    pairs: &[TokenPair],
    pixels: &dyn PixelSource,
    resources: &Resources,
) -> Result<Vec<f64>> {
    let engine = Engine::new(reference, resources)?;
    let padded = engine.padded();
    let chunks: Vec<&[TokenPair]> = pairs.chunks(REFERENCE_BATCH).collect();
    let build = |chunk: usize| {
        let sequences: Vec<Sequence> = chunks[chunk].iter().flat_map(both).collect();
        Batch::new(reference, &sequences, padded, &|key, size| pixels.pixels(key, size))
    };
    let ratios = |_: usize, batch: &Batch, values: &[f32]| -> Vec<f64> {
        batch.sum_by_sequence(values).chunks_exact(2).map(|pair| pair[0] - pair[1]).collect()
    };
    Ok(engine.log_probs(chunks.len(), &build, &ratios)?.concat())
}

fn both(pair: &TokenPair) -> [Sequence<'_>; 2] {
    [sequence(&pair.chosen), sequence(&pair.rejected)]
}

pub(super) struct Preference<'a> {
    pub(super) pairs: &'a [TokenPair],
    /// `log reference(chosen) - log reference(rejected)` per pair.
    pub(super) reference: Vec<f64>,
    pub(super) beta: f64,
    pub(super) sft_weight: f64,
}

impl Objective for Preference<'_> {
    const EXAMPLE: &'static str = "pair";

    fn sequences(&self, example: usize) -> Vec<Sequence<'_>> {
        both(&self.pairs[example]).to_vec()
    }

    fn whole(&self, examples: &[usize]) -> Whole {
        let targets = examples.iter().map(|&example| targets(&self.pairs[example].chosen)).sum();
        Whole { examples: examples.len(), targets }
    }

    fn derivative(&self, examples: &[usize], whole: Whole, batch: &Batch, log_probs: &[f32]) -> (Vec<f32>, Told) {
        let sums = batch.sum_by_sequence(log_probs);
        let mut told = Told::default();
        // By sequence: chosen and rejected of each pair in turn.
        let mut by_sequence = Vec::with_capacity(sums.len());
        let per_token = self.sft_weight / whole.targets as f64;
        for (pair, &example) in sums.chunks_exact(2).zip(examples) {
            let margin = self.beta * (pair[0] - pair[1] - self.reference[example]);
            told.loss += softplus(-margin) / whole.examples as f64 - per_token * pair[0];
            told.pairs += 1;
            told.preferred += u64::from(margin > 0.0);
            told.margin += margin;
            let slope = -self.beta * sigmoid(-margin) / whole.examples as f64;
            by_sequence.extend([slope - per_token, -slope]);
        }
        (batch.owners().iter().map(|&owner| by_sequence[owner] as f32).collect(), told)
    }
}

/// `log(1 + exp(x))` without overflow.
fn softplus(x: f64) -> f64 {
    x.max(0.0) + (-x.abs()).exp().ln_1p()
}

fn sigmoid(x: f64) -> f64 {
    let e = (-x.abs()).exp();
    if x >= 0.0 { 1.0 / (1.0 + e) } else { e / (1.0 + e) }
}
