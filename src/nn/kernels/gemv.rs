//! Products of one row with packed panels, for the attention of one query: its scores over the keys, and the weighted sum of
//! the values. Both prefetch the operands of the next call, since the hardware prefetcher is too late for short runs that
//! lie far apart. The caller must be compiled for AVX2 and FMA.

#![expect(clippy::inline_always, reason = "without inlining, it is not compiled for the wider registers")]

use super::microkernel::TILE_COLUMNS;
use super::simd::prefetch;

/// `scores[j] = sum over i of query[i] * keys[i][j]` for packed keys and whole panels of scores. Prefetches as many numbers
/// of `next`.
#[inline(always)]
pub(crate) fn scores(query: &[f32], keys: &[f32], next: &[f32], scores: &mut [f32]) {
    let w = query.len();
    let (keys, _) = keys.as_chunks::<TILE_COLUMNS>();
    let (next, _) = next.as_chunks::<TILE_COLUMNS>();
    let next = if next.len() < keys.len() { keys } else { next };
    let (scores, _) = scores.as_chunks_mut::<TILE_COLUMNS>();
    for (index, scores) in scores.chunks_mut(PANELS).enumerate() {
        let range = index * PANELS * w..(index * PANELS + scores.len()) * w;
        let (keys, next) = (&keys[range.clone()], &next[range]);
        match scores.len() {
            PANELS => scores_of_panels::<PANELS>(query, keys, next, scores),
            3 => scores_of_panels::<3>(query, keys, next, scores),
            2 => scores_of_panels::<2>(query, keys, next, scores),
            _ => scores_of_panels::<1>(query, keys, next, scores),
        }
    }
}

/// Panels that are computed at a time: few enough that the sums stay in registers, and enough to hide the latency of an
/// addition.
const PANELS: usize = 4;

/// The scores of `N` panels.
#[inline(always)]
fn scores_of_panels<const N: usize>(
    query: &[f32],
    keys: &[[f32; TILE_COLUMNS]],
    next: &[[f32; TILE_COLUMNS]],
    scores: &mut [[f32; TILE_COLUMNS]],
) {
    let w = query.len();
    let panels: [&[[f32; TILE_COLUMNS]]; N] = std::array::from_fn(|n| &keys[n * w..][..w]);
    let nexts: [&[[f32; TILE_COLUMNS]]; N] = std::array::from_fn(|n| &next[n * w..][..w]);
    let mut sums = [[0.0f32; TILE_COLUMNS]; N];
    for (i, &q) in query.iter().enumerate() {
        for next in nexts {
            prefetch(&next[i]);
        }
        for (sums, panel) in sums.iter_mut().zip(panels) {
            for (sum, &key) in sums.iter_mut().zip(&panel[i]) {
                *sum = q.mul_add(key, *sum);
            }
        }
    }
    scores.copy_from_slice(&sums);
}

/// Independent partial sums over the positions, to hide the latency of an addition.
const PARTIAL_SUMS: usize = 4;

/// `sum over j of weights[j] * values[j]` for one panel of values. Prefetches as many numbers of `next`.
#[inline(always)]
pub(crate) fn weighted_sum(weights: &[f32], values: &[f32], next: &[f32]) -> [f32; TILE_COLUMNS] {
    let (rows, _) = values.as_chunks::<TILE_COLUMNS>();
    let next = if next.len() < values.len() { values } else { next };
    let (next, _) = next.as_chunks::<TILE_COLUMNS>();
    let (fours, rest) = weights.as_chunks::<PARTIAL_SUMS>();
    let (rows, last) = rows.split_at(fours.len() * PARTIAL_SUMS);
    let mut sums = [[0.0f32; TILE_COLUMNS]; PARTIAL_SUMS];
    let rows = rows.chunks_exact(PARTIAL_SUMS).zip(next.chunks_exact(PARTIAL_SUMS));
    for (weights, (rows, next)) in fours.iter().zip(rows) {
        prefetch(next.as_flattened());
        add_four(&mut sums, weights, [&rows[0], &rows[1], &rows[2], &rows[3]]);
    }
    if !rest.is_empty() {
        let zeros = [0.0f32; TILE_COLUMNS];
        let mut weights = [0.0f32; PARTIAL_SUMS];
        weights[..rest.len()].copy_from_slice(rest);
        add_four(&mut sums, &weights, std::array::from_fn(|i| if i < rest.len() { &last[i] } else { &zeros }));
    }
    let mut total = [0.0f32; TILE_COLUMNS];
    for (i, total) in total.iter_mut().enumerate() {
        *total = (sums[0][i] + sums[1][i]) + (sums[2][i] + sums[3][i]);
    }
    total
}

/// One loop over all four sums: with one loop for each, the compiler splits the rows into scalars.
#[inline(always)]
fn add_four(
    sums: &mut [[f32; TILE_COLUMNS]; PARTIAL_SUMS],
    weights: &[f32; PARTIAL_SUMS],
    rows: [&[f32; TILE_COLUMNS]; PARTIAL_SUMS],
) {
    for i in 0..TILE_COLUMNS {
        sums[0][i] = weights[0].mul_add(rows[0][i], sums[0][i]);
        sums[1][i] = weights[1].mul_add(rows[1][i], sums[1][i]);
        sums[2][i] = weights[2].mul_add(rows[2][i], sums[2][i]);
        sums[3][i] = weights[3].mul_add(rows[3][i], sums[3][i]);
    }
}
