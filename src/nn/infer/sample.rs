//! Samples the next token from logits.

use std::cmp::Ordering;
use std::collections::BTreeSet;

use crate::kernels::math::{exp_and_sum, find_cumulative, maximum};

/// Temperature, top-k and top-p.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Sampling {
    /// 0: the most likely token.
    pub(crate) temperature: f64,
    /// Sample from the `top_k` most likely tokens; 0: all.
    pub(crate) top_k: usize,
    /// Sample from the fewest most likely tokens whose total probability reaches `top_p` (Holtzman et al. 2020); 1: all.
    pub(crate) top_p: f64,
}

/// Samples a token with a uniform number in [0, 1), which temperature 0 does not use. Equal logits are ranked by index, and a logit of
/// minus infinity is never sampled. Overwrites `logits`. `sample.cuh` does the same on a GPU.
pub(crate) fn sample(sampling: Sampling, logits: &mut [f32], uniform: f64) -> u32 {
    if sampling.temperature <= 0.0 {
        return greedy(logits);
    }
    let factor = (1.0 / sampling.temperature) as f32;
    // exp((l - max) / T): the largest weight is 1.
    let shift = maximum(logits) * factor;
    let total = f64::from(exp_and_sum(logits, factor, shift));
    let weights = &*logits;
    let limited = sampling.top_k > 0 && sampling.top_k < weights.len();
    if !limited && sampling.top_p >= 1.0 {
        let (block, before) = find_cumulative(weights, uniform * total);
        return take_at(block.map(|index| (index, weights[index])), uniform * total - before);
    }
    let mut kept = if limited { most_likely(weights, sampling.top_k) } else { nucleus(weights, sampling.top_p, total) };
    let total: f64 = kept.iter().map(|&index| f64::from(weights[index])).sum();
    if limited && sampling.top_p < 1.0 {
        kept.truncate(count_to_reach(weights, &kept, sampling.top_p * total));
    }
    let total: f64 = kept.iter().map(|&index| f64::from(weights[index])).sum();
    take_at(kept.into_iter().map(|index| (index, weights[index])), uniform * total)
}

/// Applies the repetition penalty to the used tokens, as transformers does.
pub(crate) fn penalize(logits: &mut [f32], used: &BTreeSet<u32>, penalty: f64) {
    let penalty = penalty as f32;
    for &token in used {
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

/// The candidate at which the cumulative weight exceeds `target`.
fn take_at(candidates: impl Iterator<Item = (usize, f32)>, target: f64) -> u32 {
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
    // Because of rounding, `target` may exceed the total: then the last candidate is taken.
    last as u32
}

/// The `count` most likely tokens in descending order.
fn most_likely(weights: &[f32], count: usize) -> Vec<usize> {
    let order = |a: &usize, b: &usize| -> Ordering { weights[*b].total_cmp(&weights[*a]).then(a.cmp(b)) };
    let mut indices: Vec<usize> = (0..weights.len()).collect();
    if count < indices.len() {
        indices.select_nth_unstable_by(count, order);
        indices.truncate(count);
    }
    indices.sort_unstable_by(order);
    indices
}

/// The fewest most likely tokens whose weights reach `top_p * total`. The whole vocabulary is sorted only if necessary.
fn nucleus(weights: &[f32], top_p: f64, total: f64) -> Vec<usize> {
    let mut count = 64.min(weights.len());
    loop {
        let mut kept = most_likely(weights, count);
        let needed = count_to_reach(weights, &kept, top_p * total);
        if needed < kept.len() || count == weights.len() {
            kept.truncate(needed);
            return kept;
        }
        count = (count * 8).min(weights.len());
    }
}

/// How many of `kept` are needed to reach `target`; all if they do not reach it.
fn count_to_reach(weights: &[f32], kept: &[usize], target: f64) -> usize {
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
    use ablate_data::rng::uniform;

    /// The frequencies of the tokens in 20,000 samples from the probabilities 0.5, 0.25, 0.125, 0.125.
    fn frequencies(sampling: Sampling) -> Vec<f64> {
        let mut generator = Seed(1).stream("shares");
        let mut counts = vec![0.0; 4];
        for _ in 0..20_000 {
            let mut logits = [0.5f32, 0.25, 0.125, 0.125].map(f32::ln);
            counts[sample(sampling, &mut logits, uniform(&mut generator)) as usize] += 1.0 / 20_000.0;
        }
        counts
    }

    fn close(sampling: Sampling, expected: [f64; 4]) {
        let frequencies = frequencies(sampling);
        // The standard deviation of a frequency in 20,000 samples is at most 0.0036.
        assert!(frequencies.iter().zip(expected).all(|(a, b)| (a - b).abs() < 0.015), "{sampling:?}: {frequencies:?}");
    }

    #[test]
    fn frequencies_match_the_probabilities() {
        let all = Sampling { temperature: 1.0, top_k: 0, top_p: 1.0 };
        close(all, [0.5, 0.25, 0.125, 0.125]);
        // Temperature 1/2 squares the weights: 16 : 4 : 1 : 1.
        close(Sampling { temperature: 0.5, ..all }, [16.0 / 22.0, 4.0 / 22.0, 1.0 / 22.0, 1.0 / 22.0]);
        close(Sampling { top_k: 2, ..all }, [2.0 / 3.0, 1.0 / 3.0, 0.0, 0.0]);
        close(Sampling { top_p: 0.7, ..all }, [2.0 / 3.0, 1.0 / 3.0, 0.0, 0.0]);
        // Of the three most likely tokens (4 : 2 : 1), the first has 4/7 < 0.6 and the first two have 6/7.
        close(Sampling { top_k: 3, top_p: 0.6, ..all }, [2.0 / 3.0, 1.0 / 3.0, 0.0, 0.0]);
        close(Sampling { temperature: 0.0, ..all }, [1.0, 0.0, 0.0, 0.0]);
    }

    #[test]
    fn ties_take_the_lower_index() {
        let mut generator = Seed(2).stream("ties");
        let greedy = Sampling { temperature: 0.0, top_k: 0, top_p: 1.0 };
        assert_eq!(sample(greedy, &mut [1.0, 3.0, 3.0], 0.0), 1);
        let banned = [0.0, f32::NEG_INFINITY];
        let all = Sampling { temperature: 1.0, top_k: 0, top_p: 1.0 };
        assert!((0..1000).all(|_| sample(all, &mut banned.clone(), uniform(&mut generator)) == 0));
    }

    #[test]
    fn the_penalty_lowers_positive_and_negative_logits() {
        let mut logits = [2.0f32, 2.0, -1.0, -1.0, 0.0];
        penalize(&mut logits, &BTreeSet::from([0, 2, 4, 9]), 1.25);
        let expected = [1.6f32, 2.0, -1.25, -1.0, 0.0];
        assert!(logits.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-6), "{logits:?}");
    }

    #[test]
    fn top_p_equals_a_full_sort() {
        let weights: Vec<f32> = (0..5000).map(|i| 1.0 / (1.0 + ((i * 7919) % 5000) as f32).sqrt()).collect();
        let total: f64 = weights.iter().map(|&w| f64::from(w)).sum();
        for top_p in [0.01, 0.3, 0.9, 0.9999] {
            let sorted = most_likely(&weights, weights.len());
            let needed = count_to_reach(&weights, &sorted, top_p * total);
            assert_eq!(nucleus(&weights, top_p, total), sorted[..needed], "{top_p}");
        }
    }
}
