//! Keys and values of the positions that a sequence has passed, in buffers of fixed size. Knows no model.
//!
//! Keys lie transposed (width by width, position beside position), so that a query meets all of them with products
//! of whole registers; values lie position by position.

use std::sync::Arc;

use super::kernels::attention::Heads;
use super::kernels::elementwise::scale;
use super::kernels::math::{exp_and_sum, maximum};
use super::kernels::simd;

/// Positions whose scores are computed at a time.
const BLOCK: usize = 32;

/// Keys and values of positions that follow each other.
pub(crate) struct Stretch {
    /// Positions that fit; a multiple of [`BLOCK`].
    capacity: usize,
    /// Positions that are there.
    length: usize,
    /// By layer: (k, w, capacity).
    keys: Vec<Vec<f32>>,
    /// By layer: (k, capacity, w).
    values: Vec<Vec<f32>>,
}

impl Stretch {
    /// Room for `capacity` positions.
    pub(crate) fn new(layers: usize, heads: Heads, capacity: usize) -> Stretch {
        let capacity = capacity.next_multiple_of(BLOCK);
        let empty = vec![vec![0.0; heads.key() * capacity]; layers];
        Stretch { capacity, length: 0, keys: empty.clone(), values: empty }
    }

    /// Whether there is room for so many positions in all.
    pub(crate) fn fits(&self, positions: usize) -> bool {
        self.capacity >= positions
    }

    /// Empty again.
    pub(crate) fn clear(&mut self) {
        self.length = 0;
    }

    /// After every layer has put its positions in.
    pub(crate) fn advance(&mut self, positions: usize) {
        self.length += positions;
    }

    /// Puts the rotated key (k w) and the value (k w) of the position `ahead` of those that are there.
    pub(crate) fn put(&mut self, layer: usize, heads: Heads, ahead: usize, key: &[f32], value: &[f32]) {
        let (width, position) = (heads.width, self.length + ahead);
        for (row, &number) in self.keys[layer].chunks_exact_mut(self.capacity).zip(key) {
            row[position] = number;
        }
        let blocks = self.values[layer].chunks_exact_mut(self.capacity * width).zip(value.chunks_exact(width));
        for (block, value) in blocks {
            block[position * width..(position + 1) * width].copy_from_slice(value);
        }
    }

    /// The products of a head's query with its keys; what follows the last position is of no position.
    fn score(&self, layer: usize, kv_head: usize, query: &[f32], scores: &mut [f32]) {
        let size = query.len() * self.capacity;
        products(query, &self.keys[layer][kv_head * size..][..size], self.capacity, scores);
    }

    /// Adds the head's values, weighed, to `out`.
    fn mix(&self, layer: usize, kv_head: usize, weights: &[f32], out: &mut [f32]) {
        let size = out.len() * self.capacity;
        mix(weights, &self.values[layer][kv_head * size..][..size], out);
    }
}

/// The cache of one sequence: its prompt, which it may share with others that continue the same, and its own positions.
pub(crate) struct Cache {
    pub(crate) prompt: Arc<Stretch>,
    pub(crate) own: Stretch,
}

impl Cache {
    /// Positions that are there.
    pub(crate) fn length(&self) -> usize {
        self.prompt.length + self.own.length
    }

    /// Attention of one rotated query (h w) over all positions and the one that was just put in.
    pub(crate) fn attend(&self, layer: usize, heads: Heads, query: &[f32], out: &mut [f32], scores: &mut Vec<f32>) {
        let Heads { heads: h, kv_heads, width: w, .. } = heads;
        let (prompt, count) = (self.prompt.length, self.length() + 1);
        let whole = prompt + (count - prompt).next_multiple_of(BLOCK);
        scores.resize(whole, 0.0);
        let factor = 1.0 / (w as f32).sqrt();
        for head in 0..h {
            let kv = head / (h / kv_heads);
            let (query, out) = (&query[head * w..(head + 1) * w], &mut out[head * w..(head + 1) * w]);
            // The own positions come second, over what the blocks of the prompt wrote behind its end.
            self.prompt.score(layer, kv, query, &mut scores[..prompt.next_multiple_of(BLOCK)]);
            self.own.score(layer, kv, query, &mut scores[prompt..whole]);
            let scores = &mut scores[..count];
            let shift = maximum(scores) * factor;
            let sum = exp_and_sum(scores, factor, shift);
            scale(scores, 1.0 / sum);
            out.fill(0.0);
            self.prompt.mix(layer, kv, &scores[..prompt], out);
            self.own.mix(layer, kv, &scores[prompt..], out);
        }
    }
}

simd! {
/// `scores[j] = sum over i of query[i] * keys[i][j]`, the rows of `keys` lying `stride` apart. There are whole blocks of
/// scores.
pub(crate) fn products(query: &[f32], keys: &[f32], stride: usize, scores: &mut [f32]) {
    let (blocks, _) = scores.as_chunks_mut::<BLOCK>();
    for (block, scores) in blocks.iter_mut().enumerate() {
        // A block of sums stays in registers.
        let mut sums = [0.0f32; BLOCK];
        for (&q, keys) in query.iter().zip(keys.chunks_exact(stride)) {
            for (sum, &key) in sums.iter_mut().zip(&keys[block * BLOCK..][..BLOCK]) {
                *sum = q.mul_add(key, *sum);
            }
        }
        *scores = sums;
    }
}}

/// Numbers of an output that are summed at a time, and positions that are summed apart, so that no addition waits for
/// the one before.
const SIDE: usize = 16;
const APART: usize = 4;

simd! {
/// `out += sum over j of weights[j] * values[j]`, a row of `values` being as wide as `out`.
pub(crate) fn mix(weights: &[f32], values: &[f32], out: &mut [f32]) {
    let width = out.len();
    let (fours, rest) = weights.as_chunks::<APART>();
    for (block, out) in out.chunks_mut(SIDE).enumerate() {
        let mut sums = [[0.0f32; SIDE]; APART];
        let at = |position: usize| &values[position * width + block * SIDE..][..out.len()];
        if out.len() == SIDE {
            for (four, weights) in fours.iter().enumerate() {
                for (i, (sums, &weight)) in sums.iter_mut().zip(weights).enumerate() {
                    let values = &values[(four * APART + i) * width + block * SIDE..][..SIDE];
                    for (sum, &value) in sums.iter_mut().zip(values) {
                        *sum = weight.mul_add(value, *sum);
                    }
                }
            }
        } else {
            for (position, &weight) in weights[..fours.len() * APART].iter().enumerate() {
                for (sum, &value) in sums[position % APART].iter_mut().zip(at(position)) {
                    *sum = weight.mul_add(value, *sum);
                }
            }
        }
        for (i, (sums, &weight)) in sums.iter_mut().zip(rest).enumerate() {
            for (sum, &value) in sums.iter_mut().zip(at(fours.len() * APART + i)) {
                *sum = weight.mul_add(value, *sum);
            }
        }
        for (i, out) in out.iter_mut().enumerate() {
            *out += (sums[0][i] + sums[1][i]) + (sums[2][i] + sums[3][i]);
        }
    }
}}
