//! The head and the log-softmax together, so that a large table of tokens x vocabulary need not exist at once.

use super::super::profile::timer;
use super::elementwise::scale;
use super::math::{exp_and_sum, ln, maximum};
use super::matmul::{Into, View, matmul};
use super::weight::Weight;

/// Tokens per chunk where the table would be too large.
const CHUNK: usize = 256;
/// The table is kept for the backward pass up to this many numbers (64 MiB); above, it is computed again.
const KEEP: usize = 1 << 24;

/// Whether the table of `n` tokens and `v` words is kept for the backward pass.
pub(crate) fn keeps(n: usize, v: usize) -> bool {
    n * v <= KEEP
}

/// Numbers of a table that is not kept.
pub(crate) fn chunk(n: usize, v: usize) -> usize {
    CHUNK.min(n) * v
}

/// What the forward pass leaves behind, besides the table: `exp(logit - largest)` of all tokens, if it holds them.
pub(crate) struct LogProbs {
    /// The logarithm of the target's probability, per token.
    pub(crate) values: Vec<f32>,
    /// The sum of a token's row of the table.
    pub(crate) sums: Vec<f32>,
}

/// Log-probabilities of `targets` under `softmax(x weight^T)`: x (n, d), weight (v, d). The table, of some rows at
/// least, may hold anything.
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

/// The gradients of [`log_probs`] for the gradient `dy` of its values: adds to `dx`, and to that of the weight, if it
/// learns, or replaces them. The sums are the forward pass's, and so is the table if it was kept; else it is computed again.
#[expect(clippy::too_many_arguments, reason = "two factors, two gradients and what the forward pass left")]
pub(crate) fn log_probs_backward(
    (table, kept): (&mut [f32], bool),
    sums: &[f32],
    x: &[f32],
    weight: &Weight,
    targets: &[u32],
    dy: &[f32],
    (dx, dx_into): (&mut [f32], Into),
    mut dweight: Option<(&mut [f32], Into)>,
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
        let softmax = timer("log-softmax, back", 0, 2 * table.len());
        for (i, (row, &target)) in table.chunks_exact_mut(v).zip(targets).enumerate() {
            scale(row, -dy[first + i] / sums[first + i]);
            row[target as usize] += dy[first + i];
        }
        drop(softmax);
        let dx = &mut dx[first * d..(first + m) * d];
        let product = weight.timer("head, back", m);
        weight.backward(table, dx, dx_into);
        drop(product);
        if let Some((dweight, into)) = &mut dweight {
            weight_backward(table, x, weight, dweight, *into);
            *into = Into::Add;
        }
    }
}

/// The gradient of the weight, (v, d), for that of the logits, which [`log_probs_backward`] leaves in a table of all tokens.
pub(crate) fn weight_backward(table: &[f32], x: &[f32], weight: &Weight, dweight: &mut [f32], into: Into) {
    let (v, d) = (weight.outputs(), weight.inputs());
    let m = x.len() / d;
    let _timer = weight.timer("head, back to weight", m);
    matmul(v, d, m, View::transposed(table, v), View::rows(x, d), dweight, d, into);
}

fn forward(x: &[f32], weight: &Weight, table: &mut [f32]) {
    let _timer = weight.timer("head", x.len() / weight.inputs());
    weight.forward(x, table);
}
