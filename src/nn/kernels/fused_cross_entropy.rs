//! The output head and the log-softmax in one kernel, in chunks of tokens, so that a large batch needs no full table of logits.

use super::elementwise::scale;
use super::math::{exp_and_sum, ln, maximum};
use super::matmul::{Accumulate, MatrixView, matmul};
use super::weight::Weight;
use crate::profile::timer;

/// Tokens per chunk where the table would be too large.
const CHUNK: usize = 256;
/// The table is kept for the backward pass up to this size in numbers (64 MiB). A larger one is recomputed.
const MAX_KEPT: usize = 1 << 24;

/// Whether the table of `n` tokens and a vocabulary of `v` is kept for the backward pass.
pub(crate) fn keeps(n: usize, v: usize) -> bool {
    n * v <= MAX_KEPT
}

/// The size of the table of a chunk, for a table that is not kept.
pub(crate) fn chunk_size(n: usize, v: usize) -> usize {
    CHUNK.min(n) * v
}

/// The results of the forward pass. The table holds `exp(logit - largest)`, of all tokens if it is kept.
pub(crate) struct LogProbs {
    /// The logarithm of the target's probability, per token.
    pub(crate) values: Vec<f32>,
    /// The sum of each token's row of the table.
    pub(crate) sums: Vec<f32>,
}

/// Log-probabilities of `targets` under `softmax(x weight^T)`: x (n, d), weight (v, d). `table` has at least one row of v
/// numbers and arbitrary contents.
pub(crate) fn log_probs(x: &[f32], weight: &Weight, targets: &[u32], table: &mut [f32]) -> LogProbs {
    let (v, d, n) = (weight.outputs(), weight.inputs(), targets.len());
    let size = (table.len() / v).max(1);
    let (mut values, mut sums) = (Vec::with_capacity(n), Vec::with_capacity(n));
    for (x, targets) in x.chunks(size * d).zip(targets.chunks(size)) {
        let table = &mut table[..targets.len() * v];
        forward(x, weight, table);
        let _timer = timer("log-softmax", 0, 2 * table.len());
        for (row, &target) in table.chunks_exact_mut(v).zip(targets) {
            let (logit, largest) = (row[target as usize], maximum(row));
            let sum = exp_and_sum(row, 1.0, largest);
            values.push(logit - (largest + ln(sum)));
            sums.push(sum);
        }
    }
    LogProbs { values, sums }
}

/// The gradients of [`log_probs`] by `x` and, if it is trainable, by the weight, for the gradient `dy` of its values. `sums`
/// comes from the forward pass, and so does the table if it was `kept`. Otherwise the table is recomputed.
#[expect(clippy::too_many_arguments, reason = "two factors, two gradients and the results of the forward pass")]
pub(crate) fn log_probs_backward(
    (table, kept): (&mut [f32], bool),
    sums: &[f32],
    x: &[f32],
    weight: &Weight,
    targets: &[u32],
    dy: &[f32],
    (dx, accumulate_dx): (&mut [f32], Accumulate),
    mut dweight: Option<(&mut [f32], Accumulate)>,
) {
    let (v, d) = (weight.outputs(), weight.inputs());
    let size = (table.len() / v).max(1);
    for (chunk, targets) in targets.chunks(size).enumerate() {
        let (first, m) = (chunk * size, targets.len());
        let x = &x[first * d..(first + m) * d];
        let table = &mut table[..m * v];
        if !kept {
            forward(x, weight, table);
            let _timer = timer("log-softmax", 0, 2 * table.len());
            for row in table.chunks_exact_mut(v) {
                let largest = maximum(row);
                exp_and_sum(row, 1.0, largest);
            }
        }
        let softmax = timer("log-softmax, backward", 0, 2 * table.len());
        for (i, (row, &target)) in table.chunks_exact_mut(v).zip(targets).enumerate() {
            scale(row, -dy[first + i] / sums[first + i]);
            row[target as usize] += dy[first + i];
        }
        drop(softmax);
        let dx = &mut dx[first * d..(first + m) * d];
        let product = weight.timer("head, backward", m);
        weight.backward(table, dx, accumulate_dx);
        drop(product);
        if let Some((dweight, accumulate)) = &mut dweight {
            weight_backward(table, x, weight, dweight, *accumulate);
            *accumulate = Accumulate::Yes;
        }
    }
}

/// The gradient (v, d) of the weight. `table` holds the gradient of the logits, as [`log_probs_backward`] leaves it in a kept
/// table.
pub(crate) fn weight_backward(table: &[f32], x: &[f32], weight: &Weight, dweight: &mut [f32], accumulate: Accumulate) {
    let (v, d) = (weight.outputs(), weight.inputs());
    let m = x.len() / d;
    let _timer = weight.timer("head, weight gradient", m);
    matmul(v, d, m, MatrixView::transposed(table, v), MatrixView::row_major(x, d), dweight, d, accumulate);
}

fn forward(x: &[f32], weight: &Weight, table: &mut [f32]) {
    let _timer = weight.timer("head", x.len() / weight.inputs());
    weight.forward(x, table);
}
