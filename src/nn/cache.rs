//! Keys and values of the positions that a sequence has passed, in buffers of fixed size. Knows no model.
//!
//! Both lie in panels as products read them: of 16 positions for keys, of 16 numbers of their width for values. So the samples
//! of a prompt meet its positions all together, in one matrix product per head, and each its own positions alone.

use std::sync::Arc;

use super::kernels::attention::Heads;
use super::kernels::packing::panel;
use super::kernels::simd;
use super::kernels::softmax::softmax;
use super::raw::{Rows, TILE_COLUMNS, prefetch};

/// Own positions whose scores are computed at a time: two panels.
const BLOCK: usize = 2 * TILE_COLUMNS;

/// Keys and values of positions that follow each other.
pub(crate) struct Stretch {
    /// Positions that fit; a multiple of [`BLOCK`].
    capacity: usize,
    /// Positions that are there.
    length: usize,
    /// By layer: (k, capacity / 16, w, 16).
    keys: Vec<Vec<f32>>,
    /// By layer: (k, w / 16, capacity, 16), the last numbers of a width that is no multiple being 0.
    values: Vec<Vec<f32>>,
}

impl Stretch {
    /// Room for `capacity` positions.
    pub(crate) fn new(layers: usize, heads: Heads, capacity: usize) -> Stretch {
        let capacity = capacity.next_multiple_of(BLOCK);
        let keys = vec![vec![0.0; heads.key() * capacity]; layers];
        let width = heads.width.next_multiple_of(TILE_COLUMNS);
        let values = vec![vec![0.0; heads.kv_heads * width * capacity]; layers];
        Stretch { capacity, length: 0, keys, values }
    }

    /// Bytes of one with room for `capacity` positions.
    pub(crate) fn bytes(layers: usize, heads: Heads, capacity: usize) -> usize {
        let numbers = heads.key() + heads.kv_heads * heads.width.next_multiple_of(TILE_COLUMNS);
        layers * numbers * capacity.next_multiple_of(BLOCK) * size_of::<f32>()
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
        let (block, place) = (position / TILE_COLUMNS * width * TILE_COLUMNS, position % TILE_COLUMNS);
        let by_head = self.keys[layer].chunks_exact_mut(self.capacity * width).zip(key.chunks_exact(width));
        for (keys, key) in by_head {
            let rows = keys[block..].chunks_exact_mut(TILE_COLUMNS);
            for (row, &number) in rows.zip(key) {
                row[place] = number;
            }
        }
        let mut panels = self.values[layer].chunks_exact_mut(self.capacity * TILE_COLUMNS);
        for part in value.chunks_exact(width).flat_map(|value| value.chunks(TILE_COLUMNS)) {
            let Some(panel) = panels.next() else { panic!("BUG: more values than panels") };
            panel[position * TILE_COLUMNS..][..part.len()].copy_from_slice(part);
        }
    }

    /// A head's keys.
    fn keys(&self, layer: usize, kv_head: usize, width: usize) -> &[f32] {
        let size = width * self.capacity;
        &self.keys[layer][kv_head * size..][..size]
    }

    /// The panels of a head's values.
    fn values(&self, layer: usize, kv_head: usize, width: usize) -> impl Iterator<Item = &[f32]> {
        let size = width.next_multiple_of(TILE_COLUMNS) * self.capacity;
        self.values[layer][kv_head * size..][..size].chunks_exact(TILE_COLUMNS * self.capacity)
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
}

/// Attention of sequences that continue one prompt: each with its rotated query (h w) over all its positions and the one that
/// was just put in.
pub(crate) fn attend(
    sequences: &[Cache],
    layer: usize,
    heads: Heads,
    queries: &[f32],
    outs: &mut [f32],
    scores: &mut Vec<f32>,
) {
    let Some(Cache { prompt, .. }) = sequences.first() else { return };
    let Heads { heads: h, kv_heads, width: w, .. } = heads;
    let (count, read, query) = (sequences.len(), prompt.length, heads.query());
    let longest = sequences.iter().map(|sequence| sequence.own.length + 1).max().unwrap_or(0);
    let room = read.next_multiple_of(TILE_COLUMNS) + longest.next_multiple_of(BLOCK);
    scores.resize(count * room, 0.0);
    let factor = 1.0 / (w as f32).sqrt();
    for head in 0..h {
        let (at, kv) = (head * w, head / (h / kv_heads));
        let rows = Rows::Along { data: &queries[at..], row: query };
        let panels = prompt.keys(layer, kv, w).chunks_exact(w * TILE_COLUMNS).take(read.div_ceil(TILE_COLUMNS));
        for (number, keys) in panels.enumerate() {
            let scores = &mut scores[number * TILE_COLUMNS..];
            panel(count, TILE_COLUMNS, w, rows, keys, scores, room, true);
        }
        for (index, Cache { own, .. }) in sequences.iter().enumerate() {
            if let Some(Cache { own, .. }) = sequences.get(index + 1) {
                prefetch(&own.keys(layer, kv, w)[..(own.length + 1).next_multiple_of(TILE_COLUMNS) * w]);
            }
            let (query, scores) = (&queries[index * query + at..][..w], &mut scores[index * room..][..room]);
            let own_count = own.length + 1;
            // The own positions come second, over what the panels of the prompt wrote behind its end.
            let own_scores = &mut scores[read..][..own_count.next_multiple_of(BLOCK)];
            products(query, own.keys(layer, kv, w), own_scores);
            softmax(scores, read + own_count, factor);
        }
        for (number, values) in prompt.values(layer, kv, w).enumerate() {
            let (column, columns) = (at + number * TILE_COLUMNS, TILE_COLUMNS.min(w - number * TILE_COLUMNS));
            let weights = Rows::Along { data: scores, row: room };
            panel(count, columns, read, weights, &values[..read * TILE_COLUMNS], &mut outs[column..], query, true);
        }
        for (index, Cache { own, .. }) in sequences.iter().enumerate() {
            if let Some(Cache { own, .. }) = sequences.get(index + 1) {
                let panels = own.values(layer, kv, w);
                panels.for_each(|panel| prefetch(&panel[..(own.length + 1) * TILE_COLUMNS]));
            }
            let weights = &scores[index * room + read..][..=own.length];
            let out = outs[index * query + at..][..w].chunks_mut(TILE_COLUMNS);
            for (out, values) in out.zip(own.values(layer, kv, w)) {
                mix(weights, values, out);
            }
        }
    }
}

simd! {
/// `scores[j] = sum over i of query[i] * keys[i][j]`, for keys in panels. There are whole blocks of scores.
pub(crate) fn products(query: &[f32], keys: &[f32], scores: &mut [f32]) {
    let (blocks, _) = scores.as_chunks_mut::<BLOCK>();
    let (rows, _) = keys.as_chunks::<TILE_COLUMNS>();
    for (scores, panels) in blocks.iter_mut().zip(rows.chunks_exact(2 * query.len())) {
        let (first, second) = panels.split_at(query.len());
        // A block of sums stays in registers.
        let mut sums = [[0.0f32; TILE_COLUMNS]; 2];
        for ((&q, first), second) in query.iter().zip(first).zip(second) {
            for j in 0..TILE_COLUMNS {
                sums[0][j] = q.mul_add(first[j], sums[0][j]);
                sums[1][j] = q.mul_add(second[j], sums[1][j]);
            }
        }
        scores.copy_from_slice(sums.as_flattened());
    }
}}

/// Positions that are summed apart, so that no addition waits for the one before.
const APART: usize = 4;

simd! {
/// `out += sum over j of weights[j] * values[j]`, for one panel of values; `out` may be narrower.
pub(crate) fn mix(weights: &[f32], values: &[f32], out: &mut [f32]) {
    let (fours, rest) = weights.as_chunks::<APART>();
    let (rows, _) = values.as_chunks::<TILE_COLUMNS>();
    let (rows, last) = rows.split_at(fours.len() * APART);
    let mut sums = [[0.0f32; TILE_COLUMNS]; APART];
    for (weights, rows) in fours.iter().zip(rows.chunks_exact(APART)) {
        for ((sums, &weight), row) in sums.iter_mut().zip(weights).zip(rows) {
            for (sum, &value) in sums.iter_mut().zip(row) {
                *sum = weight.mul_add(value, *sum);
            }
        }
    }
    for ((sums, &weight), row) in sums.iter_mut().zip(rest).zip(last) {
        for (sum, &value) in sums.iter_mut().zip(row) {
            *sum = weight.mul_add(value, *sum);
        }
    }
    for (i, out) in out.iter_mut().enumerate() {
        *out += (sums[0][i] + sums[1][i]) + (sums[2][i] + sums[3][i]);
    }
}}
