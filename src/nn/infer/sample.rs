//! From logits to the next token. Plain numbers only.

use std::cmp::Ordering;
use std::collections::BTreeSet;

use rand::Rng;
use rand_chacha::ChaCha8Rng;

use crate::kernels::math::{exp_and_sum, find_cumulative, maximum};

/// How to choose.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Choice {
    /// 0: the likeliest token.
    pub(super) temperature: f64,
    /// Only the `top_k` likeliest; 0: all.
    pub(super) top_k: usize,
    /// Only the likeliest whose probabilities just reach `top_p` together (Holtzman et al. 2020); 1: all.
    pub(super) top_p: f64,
}

/// Chooses a token. Equal logits are ranked by index. A logit of minus infinity is never chosen; `logits` is used up.
pub(super) fn choose(choice: Choice, logits: &mut [f32], generator: &mut ChaCha8Rng) -> u32 {
    if choice.temperature <= 0.0 {
        return greedy(logits);
    }
    let factor = (1.0 / choice.temperature) as f32;
    // exp((l - max) / T), so that the largest weight is 1.
    let shift = maximum(logits) * factor;
    let total = f64::from(exp_and_sum(logits, factor, shift));
    let weights = &*logits;
    let uniform = (generator.next_u64() >> 11) as f64 / (1u64 << 53) as f64;
    let limited = choice.top_k > 0 && choice.top_k < weights.len();
    if !limited && choice.top_p >= 1.0 {
        let (block, before) = find_cumulative(weights, uniform * total);
        return pick(block.map(|index| (index, weights[index])), uniform * total - before);
    }
    let kept = if limited { likeliest(weights, choice.top_k) } else { nucleus(weights, choice.top_p, total) };
    let total: f64 = kept.iter().map(|&index| f64::from(weights[index])).sum();
    let mut kept = kept;
    if limited && choice.top_p < 1.0 {
        kept.truncate(reach(weights, &kept, choice.top_p * total));
    }
    let total: f64 = kept.iter().map(|&index| f64::from(weights[index])).sum();
    pick(kept.into_iter().map(|index| (index, weights[index])), uniform * total)
}

/// Makes the tokens that a sequence has already less likely, as transformers does.
pub(super) fn penalize(logits: &mut [f32], seen: &BTreeSet<u32>, penalty: f64) {
    let penalty = penalty as f32;
    for &token in seen {
        if let Some(logit) = logits.get_mut(token as usize) {
            *logit = if *logit < 0.0 { *logit * penalty } else { *logit / penalty };
        }
    }
}

fn greedy(logits: &[f32]) -> u32 {
    let mut best = 0;
    for (index, &logit) in logits.iter().enumerate() {
        if logit > logits[best] {
            best = index;
        }
    }
    best as u32
}

/// The candidate in whose stretch of the summed weights `target` falls.
fn pick(candidates: impl Iterator<Item = (usize, f32)>, target: f64) -> u32 {
    let (mut sum, mut last) = (0.0, 0);
    for (index, weight) in candidates {
        if weight > 0.0 {
            sum += f64::from(weight);
            last = index;
            if sum > target {
                break;
            }
        }
    }
    // Rounding may leave `target` a hair above the sum: then it is the last candidate.
    last as u32
}

/// The `count` likeliest, likeliest first.
fn likeliest(weights: &[f32], count: usize) -> Vec<usize> {
    let order = |a: &usize, b: &usize| -> Ordering { weights[*b].total_cmp(&weights[*a]).then(a.cmp(b)) };
    let mut indices: Vec<usize> = (0..weights.len()).collect();
    if count < indices.len() {
        indices.select_nth_unstable_by(count, order);
        indices.truncate(count);
    }
    indices.sort_unstable_by(order);
    indices
}

/// The likeliest that reach `top_p` of `total` together. The whole vocabulary is sorted only if it must be.
fn nucleus(weights: &[f32], top_p: f64, total: f64) -> Vec<usize> {
    let mut count = 64.min(weights.len());
    loop {
        let mut kept = likeliest(weights, count);
        let needed = reach(weights, &kept, top_p * total);
        if needed < kept.len() || count == weights.len() {
            kept.truncate(needed);
            return kept;
        }
        count = (count * 8).min(weights.len());
    }
}

/// How many of `kept` it takes to reach `target`; all if they do not.
fn reach(weights: &[f32], kept: &[usize], target: f64) -> usize {
    let mut sum = 0.0;
    for (count, &index) in kept.iter().enumerate() {
        sum += f64::from(weights[index]);
        if sum >= target {
            return count + 1;
        }
    }
    kept.len()
}

#[cfg(test)]
mod tests {
    use super::*;
    use ablate_core::base::Seed;

    /// How often each of the tokens comes in 20,000 draws from probabilities .5, .25, .125, .125 at temperature 1.
    fn shares(choice: Choice) -> Vec<f64> {
        let mut generator = Seed(1).stream("shares");
        let mut counts = vec![0.0; 4];
        for _ in 0..20_000 {
            let mut logits = [0.5f32, 0.25, 0.125, 0.125].map(f32::ln);
            counts[choose(choice, &mut logits, &mut generator) as usize] += 1.0 / 20_000.0;
        }
        counts
    }

    fn close(choice: Choice, expected: [f64; 4]) {
        let shares = shares(choice);
        // The deviation of a share of 20,000 draws is at most 0.0036.
        assert!(shares.iter().zip(expected).all(|(a, b)| (a - b).abs() < 0.015), "{choice:?}: {shares:?}");
    }

    #[test]
    fn shares_of_samples_are_the_probabilities_that_the_settings_leave() {
        let all = Choice { temperature: 1.0, top_k: 0, top_p: 1.0 };
        close(all, [0.5, 0.25, 0.125, 0.125]);
        // Temperature 1/2 squares the weights: 16 : 4 : 1 : 1.
        close(Choice { temperature: 0.5, ..all }, [16.0 / 22.0, 4.0 / 22.0, 1.0 / 22.0, 1.0 / 22.0]);
        close(Choice { top_k: 2, ..all }, [2.0 / 3.0, 1.0 / 3.0, 0.0, 0.0]);
        close(Choice { top_p: 0.7, ..all }, [2.0 / 3.0, 1.0 / 3.0, 0.0, 0.0]);
        // Of the three likeliest (4 : 2 : 1) the first two hold 6/7, more than 0.6: the first alone holds 4/7.
        close(Choice { top_k: 3, top_p: 0.6, ..all }, [2.0 / 3.0, 1.0 / 3.0, 0.0, 0.0]);
        close(Choice { temperature: 0.0, ..all }, [1.0, 0.0, 0.0, 0.0]);
    }

    #[test]
    fn ties_go_to_the_lower_index_and_a_banned_token_never_comes() {
        let mut generator = Seed(2).stream("ties");
        let greedy = Choice { temperature: 0.0, top_k: 0, top_p: 1.0 };
        assert_eq!(choose(greedy, &mut [1.0, 3.0, 3.0], &mut generator), 1);
        let banned = [0.0, f32::NEG_INFINITY];
        let all = Choice { temperature: 1.0, top_k: 0, top_p: 1.0 };
        assert!((0..1000).all(|_| choose(all, &mut banned.clone(), &mut generator) == 0));
    }

    #[test]
    fn a_penalty_pulls_logits_of_seen_tokens_down_on_either_side_of_zero() {
        let mut logits = [2.0f32, 2.0, -1.0, -1.0, 0.0];
        penalize(&mut logits, &BTreeSet::from([0, 2, 4, 9]), 1.25);
        let expected = [1.6f32, 2.0, -1.25, -1.0, 0.0];
        assert!(logits.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-6), "{logits:?}");
    }

    #[test]
    fn a_nucleus_of_a_large_vocabulary_is_what_sorting_it_all_gives() {
        let weights: Vec<f32> = (0..5000).map(|i| 1.0 / (1.0 + ((i * 7919) % 5000) as f32).sqrt()).collect();
        let total: f64 = weights.iter().map(|&w| f64::from(w)).sum();
        for top_p in [0.01, 0.3, 0.9, 0.9999] {
            let sorted = likeliest(&weights, weights.len());
            let needed = reach(&weights, &sorted, top_p * total);
            assert_eq!(nucleus(&weights, top_p, total), sorted[..needed], "{top_p}");
        }
    }
}
