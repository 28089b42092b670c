//! The softmax of rows of scores, forward and back, by whole registers: a row has room for what fills up its last one.

use super::math::{exp_lanes, fold, largest};
use super::{LANES, simd};

simd! {
/// Replaces the first `seen` scores of a row by `softmax(factor * score)`, those behind them by 0. What was taken off
/// before the exponentials, and their sum. `factor` is above 0; the row is at least as long as `seen` rounded up to
/// [`LANES`].
pub(crate) fn softmax(row: &mut [f32], seen: usize, factor: f32) -> (f32, f32) {
    let chunks = visible(row, seen, f32::NEG_INFINITY);
    let mut most = [f32::NEG_INFINITY; LANES];
    for chunk in chunks.iter() {
        for (most, &score) in most.iter_mut().zip(chunk) {
            *most = if score > *most { score } else { *most };
        }
    }
    let shift = largest(most) * factor;
    let mut sums = [0.0f32; LANES];
    for chunk in chunks.iter_mut() {
        exp_lanes(chunk, factor, shift);
        for (sum, &e) in sums.iter_mut().zip(chunk.iter()) {
            *sum += e;
        }
    }
    let sum = fold(sums);
    let share = 1.0 / sum;
    for chunk in chunks {
        for p in chunk {
            *p *= share;
        }
    }
    (shift, sum)
}}

simd! {
/// Computes `p = softmax(factor * score)` of the first `seen` scores again, in their place, from the logarithm of its
/// denominator, and the scores' gradient, `p * (dp - delta) * factor`, in the place of that of `p`. Both are 0 behind.
pub(crate) fn softmax_backward(
    row: &mut [f32],
    dp: &mut [f32],
    seen: usize,
    factor: f32,
    log_sum: f32,
    delta: f32,
) {
    let (chunks, gradients) = (visible(row, seen, f32::NEG_INFINITY), visible(dp, seen, 0.0));
    for (chunk, gradients) in chunks.iter_mut().zip(gradients) {
        exp_lanes(chunk, factor, log_sum);
        for (&p, dp) in chunk.iter().zip(gradients) {
            *dp = p * (*dp - delta) * factor;
        }
    }
}}

/// The registers of the first `seen` numbers of a row, filled up; the row behind them is zeroed.
#[expect(clippy::inline_always, reason = "it would not be compiled for the wider registers")]
#[inline(always)]
fn visible(row: &mut [f32], seen: usize, filling: f32) -> &mut [[f32; LANES]] {
    let (row, hidden) = row.split_at_mut(seen.next_multiple_of(LANES));
    hidden.fill(0.0);
    row[seen..].fill(filling);
    row.as_chunks_mut().0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_is_its_softmax_at_every_length_and_back() {
        let factor = 0.5f32;
        for seen in 1..40 {
            let scores: Vec<f32> = (0..48).map(|i| ((i * 7) as f32).sin() * 3.0).collect();
            let dp: Vec<f32> = (0..48).map(|i| ((i * 5) as f32).cos()).collect();
            let weights: Vec<f64> = scores[..seen].iter().map(|&score| f64::from(factor * score).exp()).collect();
            let total: f64 = weights.iter().sum();
            let mean: f64 = weights.iter().zip(&dp).map(|(w, &dp)| w / total * f64::from(dp)).sum();
            let mut row = scores.clone();
            let (shift, sum) = softmax(&mut row, seen, factor);
            let log_sum = shift + sum.ln();
            assert!((f64::from(log_sum) - total.ln()).abs() < 1e-5);
            let (mut again, mut gradient) = (scores, dp.clone());
            softmax_backward(&mut again, &mut gradient, seen, factor, log_sum, mean as f32);
            for i in 0..seen {
                let p = weights[i] / total;
                let slope = p * (f64::from(dp[i]) - mean) * f64::from(factor);
                assert!((f64::from(row[i]) - p).abs() < 1e-6 && (f64::from(again[i]) - p).abs() < 1e-6, "{seen} {i}");
                assert!((f64::from(gradient[i]) - slope).abs() < 1e-6, "{seen} {i}");
            }
            assert!([row, again, gradient].iter().all(|row| row[seen..].iter().all(|&value| value == 0.0)), "{seen}");
        }
    }
}
