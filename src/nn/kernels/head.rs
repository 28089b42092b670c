//! The head and the log-softmax together, so that no table of tokens x vocabulary need exist at once.

use super::elementwise::{accumulate, scale};
use super::math::{exp_and_sum, exp_in_place, ln, maximum};
use super::matmul::{Into, View, matmul};

/// Tokens per chunk.
const CHUNK: usize = 64;
/// Logits are kept for the backward pass up to this many numbers (64 MiB); above, they are computed again.
const KEEP: usize = 1 << 24;

/// What the forward pass leaves behind.
pub(crate) struct LogProbs {
    /// The logarithm of the target's probability, per token.
    pub(crate) values: Vec<f32>,
    /// The logarithm of the softmax's denominator, per token.
    log_sums: Vec<f32>,
    /// All logits, when there was room and a backward pass to come.
    logits: Option<Vec<f32>>,
}

/// Log-probabilities of `targets` under `softmax(x weight^T)`: x (n, d), weight (v, d).
pub(crate) fn log_probs(x: &[f32], weight: &[f32], targets: &[u32], d: usize, keep: bool) -> LogProbs {
    let v = weight.len() / d;
    let n = targets.len();
    let keep = keep && n * v <= KEEP;
    let mut kept = vec![0.0; if keep { n * v } else { CHUNK.min(n) * v }];
    let mut scratch = vec![0.0; v];
    let (mut values, mut log_sums) = (Vec::with_capacity(n), Vec::with_capacity(n));
    for (chunk, (x, targets)) in x.chunks(CHUNK * d).zip(targets.chunks(CHUNK)).enumerate() {
        let m = targets.len();
        let start = if keep { chunk * CHUNK * v } else { 0 };
        let logits = &mut kept[start..start + m * v];
        matmul(m, v, d, View::rows(x, d), View::transposed(weight, d), logits, v, Into::Replace);
        for (logits, &target) in logits.chunks_exact(v).zip(targets) {
            let shift = maximum(logits);
            scratch.copy_from_slice(logits);
            let log_sum = shift + ln(exp_and_sum(&mut scratch, 1.0, shift));
            values.push(logits[target as usize] - log_sum);
            log_sums.push(log_sum);
        }
    }
    LogProbs { values, log_sums, logits: keep.then_some(kept) }
}

/// The gradients of [`log_probs`] for the gradient `dy` of its values: adds to `dx` and, if the weight
/// learns, to `dweight`.
#[expect(clippy::too_many_arguments, reason = "two factors, two gradients and what the forward pass left")]
pub(crate) fn log_probs_backward(
    forward: LogProbs,
    x: &[f32],
    weight: &[f32],
    targets: &[u32],
    d: usize,
    dy: &[f32],
    dx: &mut [f32],
    mut dweight: Option<&mut [f32]>,
) {
    let v = weight.len() / d;
    let LogProbs { log_sums, logits: mut kept, .. } = forward;
    let mut again = vec![0.0; if kept.is_some() { 0 } else { CHUNK.min(targets.len()) * v }];
    let mut dx_chunk = vec![0.0; CHUNK.min(targets.len()) * d];
    for (chunk, targets) in targets.chunks(CHUNK).enumerate() {
        let (first, m) = (chunk * CHUNK, targets.len());
        let x = View::rows(&x[first * d..], d);
        let logits = if let Some(kept) = &mut kept {
            &mut kept[first * v..(first + m) * v]
        } else {
            matmul(m, v, d, x, View::transposed(weight, d), &mut again, v, Into::Replace);
            &mut again[..m * v]
        };
        for (i, (logits, &target)) in logits.chunks_exact_mut(v).zip(targets).enumerate() {
            exp_in_place(logits, 1.0, log_sums[first + i]);
            scale(logits, -dy[first + i]);
            logits[target as usize] += dy[first + i];
        }
        matmul(m, d, v, View::rows(logits, v), View::rows(weight, d), &mut dx_chunk, d, Into::Replace);
        accumulate(&mut dx[first * d..(first + m) * d], &dx_chunk[..m * d]);
        if let Some(dweight) = dweight.as_deref_mut() {
            matmul(v, d, m, View::transposed(logits, v), x, dweight, d, Into::Add);
        }
    }
}
