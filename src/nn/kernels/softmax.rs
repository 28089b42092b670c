//! The softmax of a row of scores, forward and backward, in whole registers. A row is padded to whole registers.

use super::LANES;
use super::math::{exp_lanes, max_of_lanes, sum_lanes};
use super::simd::simd;

simd! {
/// Replaces the first `visible` scores of a row by `softmax(factor * score)` and the others by 0. Returns the number that was
/// subtracted before the exponentials, and their sum. `factor` is above 0. The row has at least `visible` numbers, rounded
/// up to a multiple of [`LANES`].
pub(crate) fn softmax(row: &mut [f32], visible: usize, factor: f32) -> (f32, f32) {
    let chunks = registers(row, visible, f32::NEG_INFINITY);
    let mut maxima = [f32::NEG_INFINITY; LANES];
    for chunk in chunks.iter() {
        for (max, &score) in maxima.iter_mut().zip(chunk) {
            *max = if score > *max { score } else { *max };
        }
    }
    let shift = max_of_lanes(maxima) * factor;
    let mut sums = [0.0f32; LANES];
    for chunk in chunks.iter_mut() {
        exp_lanes(chunk, factor, shift);
        for (sum, &e) in sums.iter_mut().zip(chunk.iter()) {
            *sum += e;
        }
    }
    let sum = sum_lanes(sums);
    let inverse = 1.0 / sum;
    for chunk in chunks {
        for p in chunk {
            *p *= inverse;
        }
    }
    (shift, sum)
}}

simd! {
/// Recomputes `p = softmax(factor * score)` of the first `visible` scores in place from the logarithm `lse` of its denominator,
/// and replaces the gradient `dp` by that of the scores, `p * (dp - delta) * factor`. The other numbers become 0.
pub(crate) fn softmax_backward(
    row: &mut [f32],
    dp: &mut [f32],
    visible: usize,
    factor: f32,
    lse: f32,
    delta: f32,
) {
    let (chunks, gradients) = (registers(row, visible, f32::NEG_INFINITY), registers(dp, visible, 0.0));
    for (chunk, gradients) in chunks.iter_mut().zip(gradients) {
        exp_lanes(chunk, factor, lse);
        for (&p, dp) in chunk.iter().zip(gradients) {
            *dp = p * (*dp - delta) * factor;
        }
    }
}}

/// The first `count` numbers of a row as registers, of which the last is filled up. The rest of the row becomes 0.
#[expect(clippy::inline_always, reason = "without inlining, it is not compiled for the wider registers")]
#[inline(always)]
fn registers(row: &mut [f32], count: usize, filling: f32) -> &mut [[f32; LANES]] {
    let (row, hidden) = row.split_at_mut(count.next_multiple_of(LANES));
    hidden.fill(0.0);
    row[count..].fill(filling);
    row.as_chunks_mut().0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn softmax_and_gradient_match_f64_at_every_length() {
        let factor = 0.5f32;
        for visible in 1..40 {
            let scores: Vec<f32> = (0..48).map(|i| ((i * 7) as f32).sin() * 3.0).collect();
            let dp: Vec<f32> = (0..48).map(|i| ((i * 5) as f32).cos()).collect();
            let weights: Vec<f64> = scores[..visible].iter().map(|&score| f64::from(factor * score).exp()).collect();
            let total: f64 = weights.iter().sum();
            let mean: f64 = weights.iter().zip(&dp).map(|(w, &dp)| w / total * f64::from(dp)).sum();
            let mut row = scores.clone();
            let (shift, sum) = softmax(&mut row, visible, factor);
            let lse = shift + sum.ln();
            assert!((f64::from(lse) - total.ln()).abs() < 1e-5);
            let (mut again, mut gradient) = (scores, dp.clone());
            softmax_backward(&mut again, &mut gradient, visible, factor, lse, mean as f32);
            for i in 0..visible {
                let p = weights[i] / total;
                let slope = p * (f64::from(dp[i]) - mean) * f64::from(factor);
                for (ours, expected) in [(row[i], p), (again[i], p), (gradient[i], slope)] {
                    assert!((f64::from(ours) - expected).abs() < 1e-6, "{visible} {i}");
                }
            }
            for row in [row, again, gradient] {
                assert!(row[visible..].iter().all(|&value| value == 0.0), "{visible}");
            }
        }
    }
}
