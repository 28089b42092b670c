//! Keys and values of the positions that a sequence has passed, in buffers of fixed size. Knows no model.
//!
//! Keys lie transposed (width by width, position beside position), so that a query meets all of them with products
//! of whole registers; values lie position by position.

use super::kernels::attention::Heads;
use super::kernels::elementwise::scale;
use super::kernels::math::{exp_and_sum, maximum};
use super::kernels::simd;

/// The cache of one sequence.
pub(crate) struct Cache {
    /// Positions that fit.
    capacity: usize,
    /// Positions that are there.
    pub(crate) length: usize,
    /// By layer: (k, w, capacity).
    keys: Vec<Vec<f32>>,
    /// By layer: (k, capacity, w).
    values: Vec<Vec<f32>>,
}

impl Cache {
    pub(crate) fn new(layers: usize, heads: Heads, capacity: usize) -> Cache {
        let empty = vec![vec![0.0; heads.key() * capacity]; layers];
        Cache { capacity, length: 0, keys: empty.clone(), values: empty }
    }

    /// Room for `capacity` positions, with those of `other` already there.
    pub(crate) fn fork(&mut self, heads: Heads, other: &Cache) {
        self.length = other.length;
        for (to, from) in self.keys.iter_mut().zip(&other.keys) {
            for (to, from) in to.chunks_exact_mut(self.capacity).zip(from.chunks_exact(other.capacity)) {
                to[..other.length].copy_from_slice(&from[..other.length]);
            }
        }
        let (size, other_size) = (self.capacity * heads.width, other.capacity * heads.width);
        let filled = other.length * heads.width;
        for (to, from) in self.values.iter_mut().zip(&other.values) {
            for (to, from) in to.chunks_exact_mut(size).zip(from.chunks_exact(other_size)) {
                to[..filled].copy_from_slice(&from[..filled]);
            }
        }
    }

    pub(crate) fn capacity(&self) -> usize {
        self.capacity
    }

    /// Puts the rotated key (k w) and the value (k w) of a position in.
    pub(crate) fn put(&mut self, layer: usize, heads: Heads, position: usize, key: &[f32], value: &[f32]) {
        let Heads { width, .. } = heads;
        for (row, &number) in self.keys[layer].chunks_exact_mut(self.capacity).zip(key) {
            row[position] = number;
        }
        let blocks = self.values[layer].chunks_exact_mut(self.capacity * width).zip(value.chunks_exact(width));
        for (block, value) in blocks {
            block[position * width..(position + 1) * width].copy_from_slice(value);
        }
    }

    /// Attention of one rotated query (h w) over the first `count` positions.
    pub(crate) fn attend(
        &self,
        layer: usize,
        heads: Heads,
        count: usize,
        query: &[f32],
        out: &mut [f32],
        scores: &mut Vec<f32>,
    ) {
        let Heads { heads: h, kv_heads, width: w, .. } = heads;
        scores.resize(count, 0.0);
        let factor = 1.0 / (w as f32).sqrt();
        for head in 0..h {
            let kv = head / (h / kv_heads);
            let keys = &self.keys[layer][kv * w * self.capacity..][..w * self.capacity];
            let values = &self.values[layer][kv * w * self.capacity..][..count * w];
            products(&query[head * w..(head + 1) * w], keys, self.capacity, scores);
            let shift = maximum(scores) * factor;
            let sum = exp_and_sum(scores, factor, shift);
            scale(scores, 1.0 / sum);
            mix(scores, values, &mut out[head * w..(head + 1) * w]);
        }
    }
}

simd! {
/// `scores[j] = sum over i of query[i] * keys[i][j]`, the rows of `keys` lying `stride` apart.
pub(crate) fn products(query: &[f32], keys: &[f32], stride: usize, scores: &mut [f32]) {
    scores.fill(0.0);
    for (&q, keys) in query.iter().zip(keys.chunks_exact(stride)) {
        for (score, &key) in scores.iter_mut().zip(keys) {
            *score += q * key;
        }
    }
}}

simd! {
/// `out = sum over j of weights[j] * values[j]`, a row of `values` being as wide as `out`.
pub(crate) fn mix(weights: &[f32], values: &[f32], out: &mut [f32]) {
    let width = out.len();
    // Sixteen sums at a time stay in registers.
    for (block, out) in out.chunks_mut(16).enumerate() {
        let mut sums = [0.0f32; 16];
        if let Ok(out) = <&mut [f32; 16]>::try_from(&mut *out) {
            for (&weight, value) in weights.iter().zip(values.chunks_exact(width)) {
                for (sum, &value) in sums.iter_mut().zip(&value[block * 16..block * 16 + 16]) {
                    *sum += weight * value;
                }
            }
            *out = sums;
        } else {
            for (&weight, value) in weights.iter().zip(values.chunks_exact(width)) {
                for (sum, &value) in sums.iter_mut().zip(&value[block * 16..]) {
                    *sum += weight * value;
                }
            }
            let count = out.len();
            out.copy_from_slice(&sums[..count]);
        }
    }
}}
