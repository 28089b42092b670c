//! The head and the log-softmax together, so that a large table of tokens x vocabulary need not exist at once.

use super::elementwise::scale;
use super::math::{exp_and_sum, ln, maximum};
use super::matmul::{Into, View, matmul};

/// Tokens per chunk where the table would be too large.
const CHUNK: usize = 256;
/// The table is kept for the backward pass up to this many numbers (64 MiB); above, it is computed again.
const KEEP: usize = 1 << 24;

/// What the forward pass leaves behind.
pub(crate) struct LogProbs {
    /// The logarithm of the target's probability, per token.
    pub(crate) values: Vec<f32>,
    /// `exp(logit - largest)` of all tokens, when there was room and a backward pass to come.
    table: Option<Vec<f32>>,
    /// The sum of a token's row of the table.
    sums: Vec<f32>,
}

/// Log-probabilities of `targets` under `softmax(x weight^T)`: x (n, d), weight (v, d).
pub(crate) fn log_probs(x: &[f32], weight: &[f32], targets: &[u32], d: usize, keep: bool) -> LogProbs {
    let (v, n) = (weight.len() / d, targets.len());
    let keep = keep && n * v <= KEEP;
    let size = if keep { n.max(1) } else { CHUNK.min(n).max(1) };
    let mut table = vec![0.0; size * v];
    let (mut values, mut sums) = (Vec::with_capacity(n), Vec::with_capacity(n));
    for (x, targets) in x.chunks(size * d).zip(targets.chunks(size)) {
        let table = &mut table[..targets.len() * v];
        logits(x, weight, d, table);
        for (row, &target) in table.chunks_exact_mut(v).zip(targets) {
            let (logit, largest) = (row[target as usize], maximum(row));
            let sum = exp_and_sum(row, 1.0, largest);
            values.push(logit - (largest + ln(sum)));
            sums.push(sum);
        }
    }
    LogProbs { values, table: keep.then_some(table), sums }
}

fn logits(x: &[f32], weight: &[f32], d: usize, table: &mut [f32]) {
    let (v, m) = (weight.len() / d, x.len() / d);
    matmul(m, v, d, View::rows(x, d), View::transposed(weight, d), table, v, Into::Replace);
}

/// The gradients of [`log_probs`] for the gradient `dy` of its values: adds to `dx`, and to that of the weight, if it
/// learns, or replaces it.
#[expect(clippy::too_many_arguments, reason = "two factors, two gradients and what the forward pass left")]
pub(crate) fn log_probs_backward(
    forward: LogProbs,
    x: &[f32],
    weight: &[f32],
    targets: &[u32],
    d: usize,
    dy: &[f32],
    dx: &mut [f32],
    mut dweight: Option<(&mut [f32], Into)>,
) {
    let (v, n) = (weight.len() / d, targets.len());
    let LogProbs { sums, table: mut kept, .. } = forward;
    let size = if kept.is_some() { n.max(1) } else { CHUNK.min(n).max(1) };
    let mut again = vec![0.0; if kept.is_some() { 0 } else { size * v }];
    for (chunk, targets) in targets.chunks(size).enumerate() {
        let (first, m) = (chunk * size, targets.len());
        let x = &x[first * d..(first + m) * d];
        let table = if let Some(kept) = &mut kept {
            &mut kept[..]
        } else {
            let table = &mut again[..m * v];
            logits(x, weight, d, table);
            for row in table.chunks_exact_mut(v) {
                let largest = maximum(row);
                exp_and_sum(row, 1.0, largest);
            }
            table
        };
        for (i, (row, &target)) in table.chunks_exact_mut(v).zip(targets).enumerate() {
            scale(row, -dy[first + i] / sums[first + i]);
            row[target as usize] += dy[first + i];
        }
        let dx = &mut dx[first * d..(first + m) * d];
        matmul(m, d, v, View::rows(table, v), View::rows(weight, d), dx, d, Into::Add);
        if let Some((dweight, into)) = &mut dweight {
            matmul(v, d, m, View::transposed(table, v), View::rows(x, d), dweight, d, *into);
            *into = Into::Add;
        }
    }
}
