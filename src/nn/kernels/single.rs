//! A single row times panels: a query by keys, and its weights by values, for code that is compiled for the wider registers
//! itself. Each fetches what the next row will meet, since short stretches far apart come too late by themselves.

#![expect(
    clippy::inline_always,
    reason = "a function that is not inlined would not be compiled for the wider registers"
)]

use super::super::raw::{TILE_COLUMNS, prefetch};

/// `scores[j] = sum over i of query[i] * keys[i][j]`, for keys in panels. There are whole panels of scores. Meanwhile fetches
/// as many of the keys that come next.
#[inline(always)]
pub(crate) fn products(query: &[f32], keys: &[f32], next: &[f32], scores: &mut [f32]) {
    let w = query.len();
    let (keys, _) = keys.as_chunks::<TILE_COLUMNS>();
    let (next, _) = next.as_chunks::<TILE_COLUMNS>();
    let next = if next.len() < keys.len() { keys } else { next };
    let (scores, _) = scores.as_chunks_mut::<TILE_COLUMNS>();
    for (index, scores) in scores.chunks_mut(MOST).enumerate() {
        let here = index * MOST * w..(index * MOST + scores.len()) * w;
        let (keys, next) = (&keys[here.clone()], &next[here]);
        match scores.len() {
            MOST => side_by_side::<MOST>(query, keys, next, scores),
            3 => side_by_side::<3>(query, keys, next, scores),
            2 => side_by_side::<2>(query, keys, next, scores),
            _ => side_by_side::<1>(query, keys, next, scores),
        }
    }
}

/// Panels whose scores are computed at a time: so few that the sums stay in registers, so many that none waits for itself.
const MOST: usize = 4;

/// The scores of `N` panels.
#[inline(always)]
fn side_by_side<const N: usize>(
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

/// Positions that are summed apart, so that no addition waits for the one before.
const APART: usize = 4;

/// `sum over j of weights[j] * values[j]`, for one panel of values. Meanwhile fetches as many of the values that come next.
#[inline(always)]
pub(crate) fn mix(weights: &[f32], values: &[f32], next: &[f32]) -> [f32; TILE_COLUMNS] {
    let (rows, _) = values.as_chunks::<TILE_COLUMNS>();
    let next = if next.len() < values.len() { values } else { next };
    let (next, _) = next.as_chunks::<TILE_COLUMNS>();
    let (fours, rest) = weights.as_chunks::<APART>();
    let (rows, last) = rows.split_at(fours.len() * APART);
    let mut parts = [[0.0f32; TILE_COLUMNS]; APART];
    let rows = rows.chunks_exact(APART).zip(next.chunks_exact(APART));
    for (weights, (rows, next)) in fours.iter().zip(rows) {
        prefetch(next.as_flattened());
        add_four(&mut parts, weights, [&rows[0], &rows[1], &rows[2], &rows[3]]);
    }
    if !rest.is_empty() {
        let nothing = [0.0f32; TILE_COLUMNS];
        let mut weights = [0.0f32; APART];
        weights[..rest.len()].copy_from_slice(rest);
        add_four(&mut parts, &weights, std::array::from_fn(|i| if i < rest.len() { &last[i] } else { &nothing }));
    }
    let mut total = [0.0f32; TILE_COLUMNS];
    for (i, total) in total.iter_mut().enumerate() {
        *total = (parts[0][i] + parts[1][i]) + (parts[2][i] + parts[3][i]);
    }
    total
}

/// One loop over all four: else the compiler takes them apart to single numbers.
#[inline(always)]
fn add_four(parts: &mut [[f32; TILE_COLUMNS]; APART], weights: &[f32; APART], rows: [&[f32; TILE_COLUMNS]; APART]) {
    for i in 0..TILE_COLUMNS {
        parts[0][i] = weights[0].mul_add(rows[0][i], parts[0][i]);
        parts[1][i] = weights[1].mul_add(rows[1][i], parts[1][i]);
        parts[2][i] = weights[2].mul_add(rows[2][i], parts[2][i]);
        parts[3][i] = weights[3].mul_add(rows[3][i], parts[3][i]);
    }
}
