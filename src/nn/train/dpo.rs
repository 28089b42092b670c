//! Direct preference optimization (Rafailov et al. 2023) and its variants, with an optional cross-entropy term on the chosen
//! response. The losses are in [`preference`](super::preference).

use anyhow::{Context, Result, bail};

use super::preference::{PreferenceLoss, Reduction, TokenWeights};
use super::run::{BatchTotals, LossStats, Objective, Run, Trained};
use super::sft::{positions, sequence, targets};
use super::state::TrainState;
use super::tuning::Tuning;
use crate::auto_batch::AutoBatch;
use crate::ops::TargetGroups;
use crate::optimizer::OptimizerConfig;
use crate::session::Session;
use crate::trainable_model::TrainableModel;
use crate::{Batch, Checkpoint, PixelSource, Resources, Sequence, batch};
use ablate_core::base::Seed;
use ablate_data::batches::{BatchConfig, BatchSampler, ExampleSize};
use ablate_data::tokens::TokenPair;

/// Pairs per batch for the reference's log-probabilities. It does not change the results.
const REFERENCE_BATCH: usize = 16;

/// The configuration of preference optimization.
#[derive(Clone, Debug, PartialEq)]
pub struct DpoConfig {
    pub batches: BatchConfig,
    pub loss: PreferenceLoss,
    /// Strength of the regularization towards the reference.
    pub beta: f64,
    /// Weights of a response's tokens in the preference loss; 1 by default.
    pub token_weights: Option<TokenWeights>,
    /// Weight of the mean `-log p(token)` over the chosen responses' tokens; 0 for plain DPO.
    pub sft_weight: f64,
    pub optimizer: OptimizerConfig,
    pub tuning: Tuning,
}

impl DpoConfig {
    /// The batches of training on `pairs`.
    pub fn sampler(&self, pairs: &[TokenPair], seed: Seed) -> Result<BatchSampler> {
        let size = |TokenPair { chosen, rejected }: &TokenPair| ExampleSize {
            tokens: positions(chosen) + positions(rejected),
            has_image: !chosen.images.is_empty(),
        };
        BatchSampler::new(pairs.iter().map(size).collect(), Preference::EXAMPLE, self.batches, seed)
    }
}

/// Optimizes `policy` on `pairs`. With `l(y) = sum_t w_t (log policy(y_t | x, y_<t) - log reference(y_t | x, y_<t))`
/// over the loss tokens of a response, divided by `sum_t w_t` for IPO, the loss is the mean over a batch's pairs of
///
/// ```text
/// sigmoid   -(1 - e) log sigmoid(beta h) - e log sigmoid(-beta h)     h = l(chosen) - l(rejected)
/// hinge     max(0, 1 - beta h)
/// ipo       (h - 1 / (2 beta))^2
/// ```
///
/// (see [`PreferenceLoss`] for the papers), plus `sft_weight` times the mean of `-log p(token)` over the loss tokens of
/// the batch's chosen responses. `w_t` is 1 without [`TokenWeights`]; they do not apply to the cross-entropy term.
/// The reference is evaluated once before the first step and then dropped. The result reuses the memory of the policy.
#[expect(clippy::too_many_arguments, reason = "two models, data, config and resources")]
pub fn dpo(
    policy: Checkpoint,
    reference: Checkpoint,
    pairs: &[TokenPair],
    images: &dyn PixelSource,
    config: &DpoConfig,
    seed: Seed,
    state: &TrainState,
    resources: &Resources,
) -> Result<Trained> {
    let batches = config.sampler(pairs, seed)?;
    for (index, pair) in pairs.iter().enumerate() {
        for (name, row) in [("chosen", &pair.chosen), ("rejected", &pair.rejected)] {
            let place = || format!("{name} response of pair {index} (counted from 0)");
            batch::check_sequence(&policy.architecture, &sequence(row), images).with_context(place)?;
            batch::check_sequence(&reference.architecture, &sequence(row), images)
                .with_context(|| format!("{}, reference", place()))?;
            if targets(row) == 0 {
                bail!("{}: it has no target", place());
            }
        }
    }
    let DpoConfig { loss, beta, token_weights, sft_weight, .. } = *config;
    let reduction = Reduction { weights: token_weights, mean: loss.averages() };
    let ratios = reference_ratios(&reference, pairs, reduction, images, resources)?;
    drop(reference);
    let (optimizer, tuning) = (&config.optimizer, &config.tuning);
    let trainable_model = tuning.trainable_model(policy, optimizer, seed)?;
    let run = Run::new(&batches, (optimizer, tuning), seed, images, state, resources);
    run.train(trainable_model, &Preference { pairs, reference: ratios, reduction, loss, beta, sft_weight })
}

/// `log reference(chosen) - log reference(rejected)` per pair.
pub(super) fn reference_ratios(
    reference: &Checkpoint,
    pairs: &[TokenPair],
    reduction: Reduction,
    images: &dyn PixelSource,
    resources: &Resources,
) -> Result<Vec<f64>> {
    let session = Session::new(&TrainableModel::frozen(reference), resources)?;
    let ratios = |_: usize, batch: &Batch, values: &[f32]| -> Vec<f64> {
        let sums = response_groups(batch, reduction).sums(values);
        sums.chunks_exact(2).map(|responses| responses[0][0] - responses[1][0]).collect()
    };
    AutoBatch::at_most("pair", REFERENCE_BATCH).run(pairs.len(), resources.progress, |rows| {
        let chunks: Vec<&[TokenPair]> = pairs.chunks(rows).collect();
        let build = |chunk: usize| {
            let sequences: Vec<Sequence> = chunks[chunk].iter().flat_map(sequences_of).collect();
            Batch::new(&reference.architecture, &sequences, false, images)
        };
        Ok(session.log_probs(chunks.len(), &build, &ratios)?.concat())
    })
}

/// The targets of each response of a batch. Every response has one at least.
fn response_groups(batch: &Batch, reduction: Reduction) -> TargetGroups {
    let rows = batch.target_rows();
    let mut end = 0;
    let ends = rows.chunk_by(|one, other| one == other).map(|response| {
        end += response.len();
        end
    });
    TargetGroups { ends: ends.collect(), factors: reduction.factors(rows) }
}

fn sequences_of(pair: &TokenPair) -> [Sequence<'_>; 2] {
    [sequence(&pair.chosen), sequence(&pair.rejected)]
}

pub(super) struct Preference<'a> {
    pub(super) pairs: &'a [TokenPair],
    /// `log reference(chosen) - log reference(rejected)` per pair.
    pub(super) reference: Vec<f64>,
    pub(super) reduction: Reduction,
    pub(super) loss: PreferenceLoss,
    pub(super) beta: f64,
    pub(super) sft_weight: f64,
}

impl Objective for Preference<'_> {
    const EXAMPLE: &'static str = "pair";

    fn sequences(&self, example: usize) -> Vec<Sequence<'_>> {
        sequences_of(&self.pairs[example]).to_vec()
    }

    fn totals(&self, examples: &[usize]) -> BatchTotals {
        let targets = examples.iter().map(|&example| targets(&self.pairs[example].chosen)).sum();
        BatchTotals { examples: examples.len(), targets }
    }

    /// A group per response.
    fn groups(&self, batch: &Batch) -> TargetGroups {
        response_groups(batch, self.reduction)
    }

    fn slopes(&self, examples: &[usize], totals: BatchTotals, sums: &[[f64; 2]]) -> (Vec<[f64; 2]>, LossStats) {
        let per_token = self.sft_weight / totals.targets as f64;
        let mut stats = LossStats::default();
        let mut slopes = Vec::with_capacity(sums.len());
        for (responses, &example) in sums.chunks_exact(2).zip(examples) {
            // The cross-entropy term does not use the token weights.
            let ([chosen, unweighted], [rejected, _]) = (responses[0], responses[1]);
            let ratio = chosen - rejected - self.reference[example];
            let (loss, slope) = self.loss.at(ratio, self.beta);
            let margin = self.beta * ratio;
            stats.loss += loss / totals.examples as f64 - per_token * unweighted;
            stats.pairs += 1;
            stats.preferred += u64::from(margin > 0.0);
            stats.margin += margin;
            let slope = slope / totals.examples as f64;
            slopes.extend([[slope, -per_token], [-slope, 0.0]]);
        }
        (slopes, stats)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::support::Ramps;
    use crate::{Architecture, ModelConfig};
    use ablate_data::tokens::TokenRow;

    /// A pair whose chosen response has three tokens and whose rejected one has two, as a batch.
    fn pair() -> (TokenPair, Batch) {
        let row = |response: usize| {
            let tokens = vec![2; 2 + response];
            TokenRow { loss: (0..tokens.len()).map(|at| at >= 2).collect(), tokens, images: Vec::new() }
        };
        let pair = TokenPair { chosen: row(3), rejected: row(2) };
        let model = Architecture::from_config(&ModelConfig::default(), 5, 1);
        let batch = Batch::new(&model, &sequences_of(&pair), false, &Ramps).unwrap();
        (pair, batch)
    }

    /// Derivative by token, chosen first, and loss. The reference prefers the chosen response by 0.5.
    fn derivative(
        loss: PreferenceLoss,
        weights: Option<TokenWeights>,
        sft_weight: f64,
        logs: &[f32],
    ) -> (Vec<f32>, f64) {
        let (pair, batch) = pair();
        let reduction = Reduction { weights, mean: loss.averages() };
        let objective = Preference { pairs: &[pair], reference: vec![0.5], reduction, loss, beta: 0.5, sft_weight };
        let groups = objective.groups(&batch);
        let (slopes, stats) = objective.slopes(&[0], objective.totals(&[0]), &groups.sums(logs));
        (groups.spread(&slopes), stats.loss)
    }

    const SIGMOID: PreferenceLoss = PreferenceLoss::Sigmoid { label_smoothing: 0.0 };

    fn near(loss: PreferenceLoss, weights: Option<TokenWeights>, sft_weight: f64, expected: ([f64; 5], f64)) {
        let ours = derivative(loss, weights, sft_weight, &[-0.5, -1.0, -1.5, -2.0, -4.0]);
        let close = ours.0.iter().zip(expected.0).all(|(&one, other)| (f64::from(one) - other).abs() < 1e-6);
        assert!(close && (ours.1 - expected.1).abs() < 1e-6, "{ours:?}, not {expected:?}");
    }

    #[test]
    fn losses_and_slopes_match_hand_computed_ones() {
        // Sums -3 and -6: h = -3 + 6 - 0.5 = 2.5, beta h = 1.25. sigmoid(-1.25) = 0.2227001388,
        // -log sigmoid(1.25) = 0.2519291, slope -0.5 x 0.2227001 = -0.1113501.
        let slope = 0.111_350_1;
        near(SIGMOID, None, 0.0, ([-slope, -slope, -slope, slope, slope], 0.251_929_1));
        // Plus 0.3 times the mean of 0.5, 1, 1.5: 0.3; each chosen token 0.3 / 3 lower.
        let chosen = -0.211_350_1;
        near(SIGMOID, None, 0.3, ([chosen, chosen, chosen, slope, slope], 0.551_929_1));
        // beta h is above 1: the hinge loss is 0, and only the cross-entropy is left.
        near(PreferenceLoss::Hinge, None, 0.3, ([-0.1, -0.1, -0.1, 0.0, 0.0], 0.3));
        // Means -1 and -3: h = -1 + 3 - 0.5 = 1.5; target 1: 0.5^2, slope 1, shared by 3 and by 2 tokens.
        near(PreferenceLoss::Ipo, None, 0.0, ([1.0 / 3.0, 1.0 / 3.0, 1.0 / 3.0, -0.5, -0.5], 0.25));
    }

    #[test]
    fn token_weights_do_not_change_the_cross_entropy() {
        // Weights 1, 0.5, 0: sums -0.5 - 0.5 = -1 and -2 - 2 = -4; h = 3 - 0.5 = 2.5 again, slope -0.1113501.
        let weights = Some(TokenWeights::Linear(2));
        let slopes = [-0.211_350_1, -0.155_675_0, -0.1, 0.111_350_1, 0.055_675_0];
        near(SIGMOID, weights, 0.3, (slopes, 0.551_929_1));
        // Weighted means -1 / 1.5 and -4 / 1.5: h = 2 - 0.5 = 1.5, loss 0.25, slope 1 in shares of 2/3 and 1/3.
        let slopes = [2.0 / 3.0, 1.0 / 3.0, 0.0, -2.0 / 3.0, -1.0 / 3.0];
        near(PreferenceLoss::Ipo, weights, 0.0, (slopes, 0.25));
    }

    #[test]
    fn derivatives_match_finite_differences() {
        let smooth = PreferenceLoss::Sigmoid { label_smoothing: 0.2 };
        for loss in [smooth, PreferenceLoss::Hinge, PreferenceLoss::Ipo] {
            for weights in [None, Some(TokenWeights::Cosine(2)), Some(TokenWeights::Linear(9))] {
                // Close to each other, so that the hinge loss is above 0.
                let log_probs = [-0.5, -1.0, -1.5, -1.25, -1.5];
                let (slopes, _) = derivative(loss, weights, 0.3, &log_probs);
                for (token, slope) in slopes.into_iter().enumerate() {
                    let moved = |by: f32| {
                        let mut log_probs = log_probs;
                        log_probs[token] += by;
                        derivative(loss, weights, 0.3, &log_probs).1
                    };
                    let step = 1.0 / 1024.0;
                    let expected = (moved(step) - moved(-step)) / f64::from(2.0 * step);
                    let close = (expected - f64::from(slope)).abs() < 1e-5;
                    assert!(close, "{loss:?} {weights:?} {token}: {expected}, {slope}");
                }
            }
        }
    }
}
