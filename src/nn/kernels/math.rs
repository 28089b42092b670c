//! Scalar functions that vectorize, and reductions over rows in a fixed order.

#![expect(clippy::inline_always, reason = "without inlining, it is not compiled for the wider registers")]

use std::ops::Range;

use super::LANES;
use super::simd::simd;

/// The exponential, to about 2 units in the last place; 0 below -87, `exp(88)` above 88. NaN stays NaN.
#[inline(always)]
pub(crate) fn exp(x: f32) -> f32 {
    // Cephes' expf: x = n ln 2 + r with n rounded to nearest by adding 1.5 x 2^23, which leaves n in the lowest bits.
    let clamped = x.clamp(-87.0, 88.0);
    let magic = 12_582_912.0f32;
    let shifted = clamped.mul_add(std::f32::consts::LOG2_E, magic);
    let n = shifted - magic;
    let r = n.mul_add(2.121_944_4e-4, n.mul_add(-0.693_359_4, clamped));
    let p = 1.987_569_1e-4f32;
    let p = p.mul_add(r, 1.398_199_9e-3);
    let p = p.mul_add(r, 8.333_452e-3);
    let p = p.mul_add(r, 4.166_579_6e-2);
    let p = p.mul_add(r, 1.666_666_5e-1);
    let p = p.mul_add(r, 0.5);
    let y = (p * r).mul_add(r, r) + 1.0;
    let power = f32::from_bits((shifted.to_bits() << 23).wrapping_add(127 << 23));
    if x < -87.0 { 0.0 } else { y * power }
}

/// The logistic function.
#[inline(always)]
pub(crate) fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + exp(-x))
}

/// The standard normal distribution function and its density at `x`, each to about 1e-7
/// (Abramowitz and Stegun 7.1.26 for the error function).
#[inline(always)]
pub(crate) fn normal_cdf(x: f32) -> (f32, f32) {
    let bell = exp(-0.5 * x * x);
    let t = 1.0 / (1.0 + 0.327_591_1 * x.abs() * std::f32::consts::FRAC_1_SQRT_2);
    let p = 1.061_405_4f32;
    let p = p * t - 1.453_152;
    let p = p * t + 1.421_413_7;
    let p = p * t - 0.284_496_74;
    let p = p * t + 0.254_829_6;
    let tail = 0.5 * p * t * bell;
    (if x < 0.0 { tail } else { 1.0 - tail }, 0.398_942_3 * bell)
}

/// The natural logarithm, computed in `f64`.
pub(crate) fn ln(x: f32) -> f32 {
    f64::from(x).ln() as f32
}

/// The sum of partial sums, always in the same order.
#[inline(always)]
pub(crate) fn sum_lanes(mut lanes: [f32; LANES]) -> f32 {
    let mut width = LANES / 2;
    while width > 0 {
        for i in 0..width {
            lanes[i] += lanes[i + width];
        }
        width /= 2;
    }
    lanes[0]
}

/// The inner product of two slices of equal length.
#[inline(always)]
pub(crate) fn dot_inline(a: &[f32], b: &[f32]) -> f32 {
    let mut lanes = [0.0f32; LANES];
    let (a_chunks, b_chunks) = (a.chunks_exact(LANES), b.chunks_exact(LANES));
    let (a_rest, b_rest) = (a_chunks.remainder(), b_chunks.remainder());
    for (x, y) in a_chunks.zip(b_chunks) {
        for i in 0..LANES {
            lanes[i] += x[i] * y[i];
        }
    }
    let mut sum = sum_lanes(lanes);
    for (x, y) in a_rest.iter().zip(b_rest) {
        sum += x * y;
    }
    sum
}

simd! {
/// The inner product of two slices of equal length.
pub(crate) fn dot(a: &[f32], b: &[f32]) -> f32 {
    dot_inline(a, b)
}}

/// The sum of squares, in `f64` over chunks of 1,024.
pub(crate) fn sum_of_squares(values: &[f32]) -> f64 {
    values.chunks(1024).map(|chunk| f64::from(dot(chunk, chunk))).sum()
}

simd! {
/// The largest value, ignoring NaN; minus infinity for an empty slice.
pub(crate) fn maximum(values: &[f32]) -> f32 {
    let mut lanes = [f32::NEG_INFINITY; LANES];
    let (chunks, rest) = values.as_chunks::<LANES>();
    for chunk in chunks {
        for i in 0..LANES {
            lanes[i] = if chunk[i] > lanes[i] { chunk[i] } else { lanes[i] };
        }
    }
    rest.iter().fold(max_of_lanes(lanes), |max, &value| if value > max { value } else { max })
}}

/// The largest of [`LANES`] numbers without NaN.
#[inline(always)]
pub(super) fn max_of_lanes(mut lanes: [f32; LANES]) -> f32 {
    let mut width = LANES / 2;
    while width > 0 {
        for i in 0..width {
            lanes[i] = if lanes[i + width] > lanes[i] { lanes[i + width] } else { lanes[i] };
        }
        width /= 2;
    }
    lanes[0]
}

simd! {
/// Replaces each value `v` by `exp(v * factor - shift)` and returns their sum. `factor` is above 0.
pub(crate) fn exp_and_sum(values: &mut [f32], factor: f32, shift: f32) -> f32 {
    let mut lanes = [0.0f32; LANES];
    let (chunks, rest) = values.as_chunks_mut::<LANES>();
    for chunk in chunks {
        exp_lanes(chunk, factor, shift);
        for (lane, e) in lanes.iter_mut().zip(chunk) {
            *lane += *e;
        }
    }
    // The rest is padded to a chunk: number by number it would take as long as all the others.
    if !rest.is_empty() {
        let last = exp_rest(rest, factor, shift);
        for (lane, e) in lanes.iter_mut().zip(last) {
            *lane += e;
        }
    }
    sum_lanes(lanes)
}}

/// Numbers per block of [`find_cumulative`].
const CUMULATIVE_BLOCK: usize = 32;

simd! {
/// Finds the block of weights in which their cumulative sum, in `f64`, exceeds `target`, or else the last block with a weight
/// above 0. Returns its range and the sum before it.
pub(crate) fn find_cumulative(weights: &[f32], target: f64) -> (Range<usize>, f64) {
    let (mut found, mut before, mut sum) = (0..0, 0.0, 0.0);
    for (number, block) in weights.chunks(CUMULATIVE_BLOCK).enumerate() {
        let mut lanes = [0.0f64; 8];
        let (chunks, rest) = block.as_chunks::<8>();
        for chunk in chunks {
            for (lane, &weight) in lanes.iter_mut().zip(chunk) {
                *lane += f64::from(weight);
            }
        }
        for (lane, &weight) in lanes.iter_mut().zip(rest) {
            *lane += f64::from(weight);
        }
        let [a, b, c, d, e, f, g, h] = lanes;
        let block_sum = ((a + e) + (c + g)) + ((b + f) + (d + h));
        if block_sum > 0.0 {
            let start = number * CUMULATIVE_BLOCK;
            (found, before) = (start..start + block.len(), sum);
        }
        sum += block_sum;
        if sum > target {
            break;
        }
    }
    (found, before)
}}

/// Replaces each value `v` by `exp(v * factor - shift)`.
#[inline(always)]
pub(super) fn exp_lanes(values: &mut [f32; LANES], factor: f32, shift: f32) {
    for value in values {
        *value = exp(*value * factor - shift);
    }
}

/// [`exp_lanes`] of fewer than [`LANES`] values. The result is padded with 0.
#[inline(always)]
fn exp_rest(values: &mut [f32], factor: f32, shift: f32) -> [f32; LANES] {
    let mut lanes = [f32::NEG_INFINITY; LANES];
    lanes[..values.len()].copy_from_slice(values);
    exp_lanes(&mut lanes, factor, shift);
    values.copy_from_slice(&lanes[..values.len()]);
    lanes
}

#[cfg(test)]
#[expect(clippy::float_cmp, reason = "the results are exact")]
mod tests {
    use super::*;

    #[test]
    fn exp_is_within_a_few_ulps_of_the_platform() {
        let mut x = -86.0f32;
        while x < 86.0 {
            let (ours, theirs) = (f64::from(exp(x)), f64::from(x).exp());
            assert!((ours / theirs - 1.0).abs() < 3e-7, "exp({x}) = {ours}, not {theirs}");
            x += 0.37;
        }
        assert_eq!(exp(f32::NEG_INFINITY), 0.0);
        assert!(exp(f32::NAN).is_nan());
        assert!(exp(f32::INFINITY) > 1e38);
    }

    #[test]
    fn the_normal_distribution_matches_its_table() {
        // Abramowitz and Stegun, table 26.1.
        for (x, cdf, density) in
            [(0.0, 0.5, 0.398_942_3), (1.0, 0.841_344_8, 0.241_970_72), (2.5, 0.993_790_3, 0.017_528_3)]
        {
            let (ours, bell) = normal_cdf(x);
            assert!((ours - cdf).abs() < 3e-7 && (bell - density).abs() < 1e-7, "{x}: {ours} {bell}");
            assert!((normal_cdf(-x).0 - (1.0 - cdf)).abs() < 3e-7);
        }
    }

    #[test]
    fn the_cumulative_sum_exceeds_the_target() {
        // Each weight is a power of two, so every sum is exact.
        let mut weights = vec![0.25f32; 100];
        weights[80..].fill(0.0);
        assert_eq!(find_cumulative(&weights, 0.0), (0..32, 0.0));
        assert_eq!(find_cumulative(&weights, 7.99), (0..32, 0.0));
        // A target that is reached exactly is not exceeded.
        assert_eq!(find_cumulative(&weights, 8.0), (32..64, 8.0));
        assert_eq!(find_cumulative(&weights, 19.9), (64..96, 16.0));
        assert_eq!(find_cumulative(&weights, 20.0), (64..96, 16.0));
        weights[99] = 0.5;
        assert_eq!(find_cumulative(&weights, 20.0), (96..100, 20.0));
        assert_eq!(find_cumulative(&[0.0; 40], 0.0), (0..0, 0.0));
    }

    #[test]
    fn reductions_are_right_at_every_length() {
        for n in 0..70 {
            let a: Vec<f32> = (0..n).map(|i| i as f32).collect();
            let b = vec![2.0; n];
            let twice_sum = (n * n.saturating_sub(1)) as f32;
            assert_eq!(dot(&a, &b), twice_sum);
            assert_eq!(maximum(&a), if n == 0 { f32::NEG_INFINITY } else { (n - 1) as f32 });
            let mut e = vec![0.5; n];
            assert_eq!(exp_and_sum(&mut e, 2.0, 1.0), n as f32);
        }
    }
}
