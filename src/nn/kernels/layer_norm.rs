//! `LayerNorm` (Ba et al. 2016) over rows.

use super::LANES;
use super::math::{dot_inline, sum_lanes};
use super::simd::simd;

/// The mean of a row and the inverse of its standard deviation.
pub(crate) type Moments = (f32, f32);

simd! {
/// `y = (x - mean) / sqrt(variance + eps) * weight + bias` for rows as wide as `weight`; `moments` are stored per row.
pub(crate) fn layer_norm(x: &[f32], weight: &[f32], bias: &[f32], eps: f32, y: &mut [f32], moments: &mut [Moments]) {
    let d = weight.len();
    for ((x, y), moments) in x.chunks_exact(d).zip(y.chunks_exact_mut(d)).zip(moments) {
        let mean = sum(x) / d as f32;
        for (y, &x) in y.iter_mut().zip(x) {
            *y = x - mean;
        }
        let r = 1.0 / (dot_inline(y, y) / d as f32 + eps).sqrt();
        *moments = (mean, r);
        for ((y, &w), &b) in y.iter_mut().zip(weight).zip(bias) {
            *y = *y * r * w + b;
        }
    }
}}

simd! {
/// The gradient of [`layer_norm`] by its input: adds to `dx`.
pub(crate) fn layer_norm_backward(x: &[f32], weight: &[f32], moments: &[Moments], dy: &[f32], dx: &mut [f32]) {
    let d = weight.len();
    let rows = x.chunks_exact(d).zip(dy.chunks_exact(d)).zip(dx.chunks_exact_mut(d)).zip(moments);
    let (mut g, mut n) = (vec![0.0f32; d], vec![0.0f32; d]);
    for (((x, dy), dx), &(mean, r)) in rows {
        for ((((g, n), &x), &dy), &w) in g.iter_mut().zip(n.iter_mut()).zip(x).zip(dy).zip(weight) {
            *n = (x - mean) * r;
            *g = dy * w;
        }
        let (shift, slope) = (sum(&g) / d as f32, dot_inline(&g, &n) / d as f32);
        for ((dx, &g), &n) in dx.iter_mut().zip(&g).zip(&n) {
            *dx += (g - shift - n * slope) * r;
        }
    }
}}

simd! {
/// The gradient of [`layer_norm`] by its weight: adds to `dweight`. That of the bias is the sum of the rows of `dy`.
pub(crate) fn layer_norm_weight_backward(x: &[f32], moments: &[Moments], dy: &[f32], dweight: &mut [f32]) {
    let d = dweight.len();
    for ((x, dy), &(mean, r)) in x.chunks_exact(d).zip(dy.chunks_exact(d)).zip(moments) {
        for ((dweight, &x), &dy) in dweight.iter_mut().zip(x).zip(dy) {
            *dweight += dy * ((x - mean) * r);
        }
    }
}}

/// A sum in [`LANES`] partial sums, which are added in a fixed order.
#[expect(clippy::inline_always, reason = "without inlining, it is not compiled for the wider registers")]
#[inline(always)]
fn sum(x: &[f32]) -> f32 {
    let mut lanes = [0.0f32; LANES];
    let (chunks, rest) = x.as_chunks::<LANES>();
    for chunk in chunks {
        for (lane, &x) in lanes.iter_mut().zip(chunk) {
            *lane += x;
        }
    }
    rest.iter().fold(sum_lanes(lanes), |sum, &x| sum + x)
}

#[cfg(test)]
#[expect(clippy::float_cmp, reason = "a product of three numbers is the same each time")]
mod tests {
    use super::*;

    #[test]
    fn layer_norm_matches_a_hand_computed_row() {
        // Mean 2.5, variance 1.25.
        let (mut y, mut moments) = ([0.0; 4], [(0.0, 0.0)]);
        layer_norm(&[1.0, 2.0, 3.0, 4.0], &[1.0, 1.0, 2.0, 1.0], &[0.0, 0.0, 0.5, 0.0], 0.0, &mut y, &mut moments);
        let r = 1.0 / 1.25f32.sqrt();
        for (ours, expected) in y.iter().zip([-1.5 * r, -0.5 * r, r + 0.5, 1.5 * r]) {
            assert!((ours - expected).abs() < 1e-6, "{y:?}");
        }
    }

    #[test]
    fn gradient_matches_finite_differences() {
        let x: Vec<f32> = (0..19).map(|i| (i as f32 * 1.7).sin()).collect();
        let weight: Vec<f32> = (0..19).map(|i| 1.0 + 0.1 * i as f32).collect();
        let dy: Vec<f32> = (0..19).map(|i| (i as f32 * 0.9).cos()).collect();
        let loss = |x: &[f32]| -> f64 {
            let (mut y, mut moments) = (vec![0.0; 19], [(0.0, 0.0)]);
            layer_norm(x, &weight, &[0.0; 19], 1e-5, &mut y, &mut moments);
            y.iter().zip(&dy).map(|(&y, &dy)| f64::from(y) * f64::from(dy)).sum()
        };
        let (mut y, mut moments) = (vec![0.0; 19], [(0.0, 0.0)]);
        layer_norm(&x, &weight, &[0.0; 19], 1e-5, &mut y, &mut moments);
        let (mut dx, mut dweight) = (vec![0.0; 19], vec![0.0; 19]);
        layer_norm_backward(&x, &weight, &moments, &dy, &mut dx);
        layer_norm_weight_backward(&x, &moments, &dy, &mut dweight);
        for at in 0..19 {
            let moved = |by: f32| {
                let mut x = x.clone();
                x[at] += by;
                loss(&x)
            };
            let slope = (moved(1e-2) - moved(-1e-2)) / 2e-2;
            assert!((slope - f64::from(dx[at])).abs() < 2e-3, "{at}: {slope}, not {}", dx[at]);
        }
        // For one row, the gradient of the weight is that of the output times the normalized row.
        let (mean, r) = moments[0];
        assert!((0..19).all(|at| dweight[at] == dy[at] * ((x[at] - mean) * r)));
    }
}
