//! Norms, activations, sums and the optimizer's update, over slices. The backward pass of a norm adds to its output, that of
//! an activation overwrites the incoming gradient.

use super::LANES;
use super::math::{dot_inline, normal_cdf, sigmoid, sum_lanes};
use super::simd::simd;
use crate::architecture::Activation;

simd! {
/// `y = x / sqrt(mean(x^2) + eps) * weight` for rows as wide as `weight`; `inverse` stores `1 / sqrt(..)` per row.
pub(crate) fn rms_norm(x: &[f32], weight: &[f32], eps: f32, y: &mut [f32], inverse: &mut [f32]) {
    let d = weight.len();
    for ((x, y), inverse) in x.chunks_exact(d).zip(y.chunks_exact_mut(d)).zip(inverse) {
        let r = 1.0 / (dot_inline(x, x) / d as f32 + eps).sqrt();
        *inverse = r;
        for ((y, &x), &w) in y.iter_mut().zip(x).zip(weight) {
            *y = x * r * w;
        }
    }
}}

simd! {
/// The gradient of [`rms_norm`] by its input: adds to `dx`.
pub(crate) fn rms_norm_backward(x: &[f32], weight: &[f32], inverse: &[f32], dy: &[f32], dx: &mut [f32]) {
    let d = weight.len();
    let rows = x.chunks_exact(d).zip(dy.chunks_exact(d)).zip(dx.chunks_exact_mut(d)).zip(inverse);
    for (((x, dy), dx), &r) in rows {
        let mut lanes = [0.0f32; LANES];
        let whole = d / LANES * LANES;
        let chunks = x[..whole].chunks_exact(LANES).zip(dy[..whole].chunks_exact(LANES));
        for ((x, dy), w) in chunks.zip(weight[..whole].chunks_exact(LANES)) {
            for i in 0..LANES {
                lanes[i] += x[i] * dy[i] * w[i];
            }
        }
        let mut sum = sum_lanes(lanes);
        for i in whole..d {
            sum += x[i] * dy[i] * weight[i];
        }
        let c = sum * r * r * r / d as f32;
        for (((dx, &x), &dy), &w) in dx.iter_mut().zip(x).zip(dy).zip(weight) {
            *dx += dy * w * r - x * c;
        }
    }
}}

simd! {
/// The gradient of [`rms_norm`] by its weight: adds to `dweight`.
pub(crate) fn rms_norm_weight_backward(x: &[f32], inverse: &[f32], dy: &[f32], dweight: &mut [f32]) {
    let d = dweight.len();
    for ((x, dy), &r) in x.chunks_exact(d).zip(dy.chunks_exact(d)).zip(inverse) {
        for ((dweight, &x), &dy) in dweight.iter_mut().zip(x).zip(dy) {
            *dweight += dy * x * r;
        }
    }
}}

simd! {
/// `y = gate * sigmoid(gate) * up` (Shazeer 2020).
pub(crate) fn swiglu(gate: &[f32], up: &[f32], y: &mut [f32]) {
    for ((y, &g), &u) in y.iter_mut().zip(gate).zip(up) {
        *y = g * sigmoid(g) * u;
    }
}}

simd! {
/// The gradients of [`swiglu`]: that of `gate` overwrites `dy`.
pub(crate) fn swiglu_backward(gate: &[f32], up: &[f32], dy: &mut [f32], dup: &mut [f32]) {
    for (((&g, &u), dy), dup) in gate.iter().zip(up).zip(dy).zip(dup) {
        let s = sigmoid(g);
        *dup = *dy * g * s;
        *dy = *dy * u * (s + g * s * (1.0 - s));
    }
}}

simd! {
/// `y = gelu(gate) * up` with the tanh approximation (Shazeer 2020).
pub(crate) fn geglu(gate: &[f32], up: &[f32], y: &mut [f32]) {
    for ((y, &g), &u) in y.iter_mut().zip(gate).zip(up) {
        *y = g * sigmoid(g * (TANH_LINEAR + TANH_CUBIC * g * g)) * u;
    }
}}

simd! {
/// The gradients of [`geglu`]: that of `gate` overwrites `dy`.
pub(crate) fn geglu_backward(gate: &[f32], up: &[f32], dy: &mut [f32], dup: &mut [f32]) {
    for (((&g, &u), dy), dup) in gate.iter().zip(up).zip(dy).zip(dup) {
        let s = sigmoid(g * (TANH_LINEAR + TANH_CUBIC * g * g));
        *dup = *dy * g * s;
        *dy = *dy * u * (s + g * s * (1.0 - s) * (TANH_LINEAR + 3.0 * TANH_CUBIC * g * g));
    }
}}

/// `y = f(gate, up)` of an activation with two inputs.
pub(crate) fn gated(activation: Activation, gate: &[f32], up: &[f32], y: &mut [f32]) {
    match activation {
        Activation::Swiglu => swiglu(gate, up, y),
        Activation::Geglu => geglu(gate, up, y),
        Activation::Gelu | Activation::GeluTanh | Activation::QuickGelu => panic!("BUG: an activation with one input"),
    }
}

/// The gradients of [`gated`]: that of `gate` overwrites `dy`.
pub(crate) fn gated_backward(activation: Activation, [gate, up]: [&[f32]; 2], dy: &mut [f32], dup: &mut [f32]) {
    match activation {
        Activation::Swiglu => swiglu_backward(gate, up, dy, dup),
        Activation::Geglu => geglu_backward(gate, up, dy, dup),
        Activation::Gelu | Activation::GeluTanh | Activation::QuickGelu => panic!("BUG: an activation with one input"),
    }
}

simd! {
/// `y = x * Phi(x)` with the normal distribution function (Hendrycks and Gimpel 2016), the exact form.
pub(crate) fn gelu(x: &[f32], y: &mut [f32]) {
    for (y, &x) in y.iter_mut().zip(x) {
        *y = x * normal_cdf(x).0;
    }
}}

simd! {
/// The gradient of [`gelu`]: overwrites `dy`.
pub(crate) fn gelu_backward(x: &[f32], dy: &mut [f32]) {
    for (dy, &x) in dy.iter_mut().zip(x) {
        let (cdf, density) = normal_cdf(x);
        *dy *= cdf + x * density;
    }
}}

simd! {
/// `y = x * sigmoid(c x)` with `c` = 1.702: CLIP's approximation of [`gelu`].
pub(crate) fn quick_gelu(x: &[f32], y: &mut [f32]) {
    for (y, &x) in y.iter_mut().zip(x) {
        *y = x * sigmoid(1.702 * x);
    }
}}

simd! {
/// The gradient of [`quick_gelu`]: overwrites `dy`.
pub(crate) fn quick_gelu_backward(x: &[f32], dy: &mut [f32]) {
    for (dy, &x) in dy.iter_mut().zip(x) {
        let s = sigmoid(1.702 * x);
        *dy *= s + 1.702 * x * s * (1.0 - s);
    }
}}

/// `A = 2 sqrt(2 / pi)` and `B = 0.044715 A`: [`gelu_tanh`] is `x sigmoid(A x + B x^3)`.
const TANH_LINEAR: f32 = 1.595_769;
const TANH_CUBIC: f32 = 0.071_354_814;

simd! {
/// `y = x (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))) / 2` (Hendrycks and Gimpel 2016), since `(1 + tanh u) / 2` is the
/// sigmoid of `2 u`.
pub(crate) fn gelu_tanh(x: &[f32], y: &mut [f32]) {
    for (y, &x) in y.iter_mut().zip(x) {
        *y = x * sigmoid(x * (TANH_LINEAR + TANH_CUBIC * x * x));
    }
}}

simd! {
/// The gradient of [`gelu_tanh`]: overwrites `dy`.
pub(crate) fn gelu_tanh_backward(x: &[f32], dy: &mut [f32]) {
    for (dy, &x) in dy.iter_mut().zip(x) {
        let s = sigmoid(x * (TANH_LINEAR + TANH_CUBIC * x * x));
        *dy *= s + x * s * (1.0 - s) * (TANH_LINEAR + 3.0 * TANH_CUBIC * x * x);
    }
}}

simd! {
/// `y += bias` for rows as wide as `bias`.
pub(crate) fn add_bias(y: &mut [f32], bias: &[f32]) {
    for row in y.chunks_exact_mut(bias.len()) {
        for (y, &b) in row.iter_mut().zip(bias) {
            *y += b;
        }
    }
}}

simd! {
/// The gradient of a bias: adds the rows of `dy` to `dbias`.
pub(crate) fn add_rows(dbias: &mut [f32], dy: &[f32]) {
    for row in dy.chunks_exact(dbias.len()) {
        for (dbias, &dy) in dbias.iter_mut().zip(row) {
            *dbias += dy;
        }
    }
}}

simd! {
/// `y *= factors`.
pub(crate) fn multiply(y: &mut [f32], factors: &[f32]) {
    for (y, &f) in y.iter_mut().zip(factors) {
        *y *= f;
    }
}}

simd! {
/// `y += x * factor`.
pub(crate) fn accumulate_scaled(y: &mut [f32], x: &[f32], factor: f32) {
    for (y, &x) in y.iter_mut().zip(x) {
        *y += x * factor;
    }
}}

simd! {
/// `y = a + b`.
pub(crate) fn add(a: &[f32], b: &[f32], y: &mut [f32]) {
    for ((y, &a), &b) in y.iter_mut().zip(a).zip(b) {
        *y = a + b;
    }
}}

simd! {
/// `y += a`.
pub(crate) fn accumulate(y: &mut [f32], a: &[f32]) {
    for (y, &a) in y.iter_mut().zip(a) {
        *y += a;
    }
}}

simd! {
/// `y *= factor`.
pub(crate) fn scale(y: &mut [f32], factor: f32) {
    for y in y {
        *y *= factor;
    }
}}

/// `y = f(x)` of an activation with one input.
pub(crate) fn activate(activation: Activation, x: &[f32], y: &mut [f32]) {
    match activation {
        Activation::Gelu => gelu(x, y),
        Activation::GeluTanh => gelu_tanh(x, y),
        Activation::QuickGelu => quick_gelu(x, y),
        Activation::Swiglu | Activation::Geglu => panic!("BUG: a gated activation has two inputs"),
    }
}

/// The gradient of [`activate`]: overwrites `dy`.
pub(crate) fn activate_backward(activation: Activation, x: &[f32], dy: &mut [f32]) {
    match activation {
        Activation::Gelu => gelu_backward(x, dy),
        Activation::GeluTanh => gelu_tanh_backward(x, dy),
        Activation::QuickGelu => quick_gelu_backward(x, dy),
        Activation::Swiglu | Activation::Geglu => panic!("BUG: a gated activation has two inputs"),
    }
}

/// The scalars of an AdamW update.
#[derive(Clone, Copy)]
pub(crate) struct AdamW {
    /// Factor on the gradient, from clipping.
    pub(crate) scale: f32,
    pub(crate) beta1: f32,
    pub(crate) beta2: f32,
    /// Learning rate divided by the bias correction of the first moment.
    pub(crate) rate: f32,
    /// Inverse of the bias correction of the second moment.
    pub(crate) correction2: f32,
    pub(crate) eps: f32,
    /// `1 - learning rate * weight decay`.
    pub(crate) keep: f32,
}

simd! {
/// One step of AdamW (Loshchilov and Hutter 2019) over parameters `p` with gradients `g` and moments `m`, `v`.
pub(crate) fn adamw(step: AdamW, p: &mut [f32], g: &[f32], m: &mut [f32], v: &mut [f32]) {
    let AdamW { scale, beta1, beta2, rate, correction2, eps, keep } = step;
    for (((p, &g), m), v) in p.iter_mut().zip(g).zip(m).zip(v) {
        let g = g * scale;
        *m = *m * beta1 + g * (1.0 - beta1);
        *v = *v * beta2 + g * g * (1.0 - beta2);
        *p = *p * keep - rate * *m / ((*v * correction2).sqrt() + eps);
    }
}}

simd! {
/// Every row of `x` times `scale`, into `y`.
pub(crate) fn scale_columns(x: &[f32], scale: &[f32], y: &mut [f32]) {
    let d = scale.len();
    for (x, y) in x.chunks_exact(d).zip(y.chunks_exact_mut(d)) {
        for ((y, &x), &scale) in y.iter_mut().zip(x).zip(scale) {
            *y = x * scale;
        }
    }
}}

simd! {
/// Adds `a * b` to `sum`.
pub(crate) fn accumulate_product(sum: &mut [f32], a: &[f32], b: &[f32]) {
    for ((sum, &a), &b) in sum.iter_mut().zip(a).zip(b) {
        *sum += a * b;
    }
}}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn adamw_matches_a_hand_computed_step() {
        // g = 0.5: m = 0.05, v = 0.0125; corrected m = 0.5, v = 0.25; p = 1 (1 - 0.1 x 0.2) - 0.1 x 0.5 / 0.5.
        let step = AdamW {
            scale: 1.0,
            beta1: 0.9,
            beta2: 0.95,
            rate: 0.1 / 0.1,
            correction2: 1.0 / 0.05,
            eps: 0.0,
            keep: 0.98,
        };
        let (mut p, mut m, mut v) = ([1.0], [0.0], [0.0]);
        adamw(step, &mut p, &[0.5], &mut m, &mut v);
        assert!((p[0] - 0.88).abs() < 1e-6 && (m[0] - 0.05).abs() < 1e-7 && (v[0] - 0.0125).abs() < 1e-8, "{p:?}");
    }
}
