//! The losses of preference optimization and the weights of a response's tokens, as functions of numbers.

use std::f64::consts::PI;

use serde::{Deserialize, Serialize};

/// The loss of a pair as a function of its difference of log-ratios.
///
/// With `l(y) = log policy(y | x) - log reference(y | x)` and `h = l(chosen) - l(rejected)`:
///
/// | loss | formula | source |
/// |---|---|---|
/// | `Sigmoid` | `-log sigmoid(beta h)` | DPO, equation 7 of Rafailov et al. 2023 |
/// | `Sigmoid`, smoothing `e` | `-(1 - e) log sigmoid(beta h) - e log sigmoid(-beta h)` | cDPO, equation 3 of Mitchell 2023 |
/// | `Hinge` | `max(0, 1 - beta h)` | SLiC-HF, Zhao et al. 2023 (its margin is 1 / `beta` here) |
/// | `Ipo` | `(h - 1 / (2 beta))^2` | IPO, equation 17 of Azar et al. 2023 |
///
/// `log policy(y | x)` is the sum over the response's tokens, and for `Ipo` their mean, because a sum would have the same target
/// `1 / (2 beta)` for long and short responses. TRL does the same (`loss_type = "ipo"`).
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum PreferenceLoss {
    /// `label_smoothing` is the assumed share of pairs with a wrong label: from 0 to below 0.5.
    Sigmoid {
        label_smoothing: f64,
    },
    Hinge,
    Ipo,
}

impl PreferenceLoss {
    /// The loss at a difference of log-ratios, and its derivative. The derivative of the hinge loss at its kink is 0.
    pub fn at(self, h: f64, beta: f64) -> (f64, f64) {
        let margin = beta * h;
        match self {
            PreferenceLoss::Sigmoid { label_smoothing } => {
                let (right, wrong) = (1.0 - label_smoothing, label_smoothing);
                let loss = right * softplus(-margin) + wrong * softplus(margin);
                (loss, -beta * (right * sigmoid(-margin) - wrong * sigmoid(margin)))
            }
            PreferenceLoss::Hinge if margin < 1.0 => (1.0 - margin, -beta),
            PreferenceLoss::Hinge => (0.0, 0.0),
            PreferenceLoss::Ipo => {
                let error = h - 0.5 / beta;
                (error * error, 2.0 * error)
            }
        }
    }

    /// Whether a response's log-probability is the mean over its tokens instead of the sum.
    pub fn averages(self) -> bool {
        self == PreferenceLoss::Ipo
    }
}

/// Weights of a response's tokens that decrease with their position: 1 at the first token, 0 from token `n` on (counted from
/// 0). The paper's code has both forms; its text gives neither a formula nor a horizon (section 3.4).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum TokenWeights {
    /// `(1 + cos(pi t / n)) / 2`.
    Cosine(usize),
    /// `1 - t / n`.
    Linear(usize),
}

impl TokenWeights {
    /// The weight of the token at `position`, counted from 0.
    pub fn weight(self, position: usize) -> f64 {
        let (TokenWeights::Cosine(horizon) | TokenWeights::Linear(horizon)) = self;
        if position >= horizon {
            return 0.0;
        }
        let passed = position as f64 / horizon as f64;
        match self {
            TokenWeights::Cosine(_) => 0.5 * (1.0 + (PI * passed).cos()),
            TokenWeights::Linear(_) => 1.0 - passed,
        }
    }
}

/// The reduction of the log-probabilities of a response's tokens to one number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Reduction {
    pub(super) weights: Option<TokenWeights>,
    /// Divided by the sum of the weights.
    pub(super) mean: bool,
}

impl Reduction {
    /// The factor of each token's log-probability in the sum. `target_rows` has each token's sequence; the tokens of a sequence
    /// are contiguous.
    pub(super) fn factors(self, target_rows: &[usize]) -> Vec<f64> {
        let mut factors = Vec::with_capacity(target_rows.len());
        for response in target_rows.chunk_by(|one, other| one == other) {
            let weight = |position| self.weights.map_or(1.0, |weights| weights.weight(position));
            let start = factors.len();
            factors.extend((0..response.len()).map(weight));
            if self.mean {
                // The first token's weight is 1, so the sum is never 0.
                let sum: f64 = factors[start..].iter().sum();
                factors[start..].iter_mut().for_each(|factor| *factor /= sum);
            }
        }
        factors
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

#[cfg(test)]
mod tests {
    use super::*;

    const PLAIN: PreferenceLoss = PreferenceLoss::Sigmoid { label_smoothing: 0.0 };
    const SMOOTH: PreferenceLoss = PreferenceLoss::Sigmoid { label_smoothing: 0.1 };

    fn near(ours: (f64, f64), expected: (f64, f64)) {
        let close = |one: f64, other: f64| (one - other).abs() < 1e-9;
        assert!(close(ours.0, expected.0) && close(ours.1, expected.1), "{ours:?}, not {expected:?}");
    }

    #[test]
    fn losses_match_hand_computed_ones() {
        // h = 2, beta = 0.5, so that beta h = 1. sigmoid(1) = 0.7310585786, sigmoid(-1) = 0.2689414214.
        // -log sigmoid(1) = 0.3132616875; slope -0.5 x 0.2689414214.
        near(PLAIN.at(2.0, 0.5), (0.313_261_687_518, -0.134_470_710_685));
        // -log sigmoid(-1) = 1.3132616875; 0.9 x 0.3132616875 + 0.1 x 1.3132616875 = 0.4132616875;
        // slope -0.5 x (0.9 x 0.2689414214 - 0.1 x 0.7310585786) = -0.5 x 0.1689414214.
        near(SMOOTH.at(2.0, 0.5), (0.413_261_687_518, -0.084_470_710_685));
        // 1 - 0.5 x 1.2 = 0.4, slope -0.5; from beta h = 1 on both are 0.
        near(PreferenceLoss::Hinge.at(1.2, 0.5), (0.4, -0.5));
        near(PreferenceLoss::Hinge.at(2.0, 0.5), (0.0, 0.0));
        near(PreferenceLoss::Hinge.at(-2.0, 0.5), (2.0, -0.5));
        // Target 1 / (2 x 0.5) = 1: (2 - 1)^2 = 1, slope 2 (2 - 1); on the other side of it (0.5 - 1)^2 and -1.
        near(PreferenceLoss::Ipo.at(2.0, 0.5), (1.0, 2.0));
        near(PreferenceLoss::Ipo.at(0.5, 0.5), (0.25, -1.0));
    }

    #[test]
    fn derivatives_match_finite_differences() {
        for loss in [PLAIN, SMOOTH, PreferenceLoss::Hinge, PreferenceLoss::Ipo] {
            for h in [-30.0, -2.0, -0.1, 0.0, 0.7, 3.0, 30.0] {
                let step = 1e-5;
                let slope = (loss.at(h + step, 0.3).0 - loss.at(h - step, 0.3).0) / (2.0 * step);
                assert!((slope - loss.at(h, 0.3).1).abs() < 1e-6, "{loss:?} at {h}: {slope}");
            }
        }
        // Large values do not overflow.
        near(PLAIN.at(-1e6, 0.1), (1e5, -0.1));
        near(PLAIN.at(1e6, 0.1), (0.0, 0.0));
    }

    #[test]
    fn smoothing_stops_at_its_confidence() {
        // The slope is 0 where sigmoid(beta h) = 0.9: beta h = ln 9.
        assert!(SMOOTH.at(9f64.ln(), 1.0).1.abs() < 1e-12);
    }

    #[test]
    fn weights_fall_from_1_to_0() {
        let list = |weights: TokenWeights| (0..6).map(|position| weights.weight(position)).collect::<Vec<_>>();
        assert_eq!(list(TokenWeights::Linear(4)), [1.0, 0.75, 0.5, 0.25, 0.0, 0.0]);
        // cos of 0, 45, 90, 135 degrees: 1, 0.70710678, 0, -0.70710678.
        let cosine = list(TokenWeights::Cosine(4));
        for (ours, expected) in cosine.iter().zip([1.0, 0.853_553_391, 0.5, 0.146_446_609, 0.0, 0.0]) {
            assert!((ours - expected).abs() < 1e-9, "{cosine:?}");
        }
    }

    #[test]
    fn weights_start_at_the_first_token_of_a_response() {
        let factors = |weights, mean| Reduction { weights, mean }.factors(&[0, 0, 0, 1, 1]);
        assert_eq!(factors(None, false), [1.0; 5]);
        assert_eq!(factors(None, true), [1.0 / 3.0, 1.0 / 3.0, 1.0 / 3.0, 0.5, 0.5]);
        assert_eq!(factors(Some(TokenWeights::Linear(2)), false), [1.0, 0.5, 0.0, 1.0, 0.5]);
        // A weighted mean: 1 + 0.5 + 0 = 1.5.
        assert_eq!(factors(Some(TokenWeights::Linear(2)), true), [1.0 / 1.5, 0.5 / 1.5, 0.0, 1.0 / 1.5, 0.5 / 1.5]);
    }
}
