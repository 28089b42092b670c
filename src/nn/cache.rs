//! Keys and values of the positions that a sequence has passed, in buffers of fixed size. Knows no model.
//!
//! Both lie in panels as products read them: of 16 positions for keys, of 16 numbers of their width for values. So the samples
//! of a prompt meet its positions all together, in one matrix product per head, and each its own positions alone.

use std::sync::Arc;

use super::kernels::LANES;
use super::kernels::attention::Heads;
use super::kernels::gemv;
use super::kernels::matmul::multiply_panel;
use super::kernels::microkernel::{Lhs, TILE_COLUMNS};
use super::kernels::simd::simd;
use super::kernels::softmax::softmax;

/// Keys and values of positions that follow each other.
pub(crate) struct Stretch {
    /// Positions that fit; a multiple of [`TILE_COLUMNS`].
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
        let capacity = capacity.next_multiple_of(TILE_COLUMNS);
        let keys = vec![vec![0.0; heads.key() * capacity]; layers];
        let width = heads.width.next_multiple_of(TILE_COLUMNS);
        let values = vec![vec![0.0; heads.kv_heads * width * capacity]; layers];
        Stretch { capacity, length: 0, keys, values }
    }

    /// Bytes of one with room for `capacity` positions.
    pub(crate) fn bytes(layers: usize, heads: Heads, capacity: usize) -> usize {
        let numbers = heads.key() + heads.kv_heads * heads.width.next_multiple_of(TILE_COLUMNS);
        layers * numbers * capacity.next_multiple_of(TILE_COLUMNS) * size_of::<f32>()
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

    /// Puts a head's rotated key (w) and value (w) of the position `ahead` of those that are there.
    pub(crate) fn put(&mut self, layer: usize, kv_head: usize, ahead: usize, key: &[f32], value: &[f32]) {
        let (width, position) = (key.len(), self.length + ahead);
        let keys = &mut self.keys[layer][kv_head * width * self.capacity..][..width * self.capacity];
        let (panel, place) = (position / TILE_COLUMNS, position % TILE_COLUMNS);
        let rows = keys[panel * width * TILE_COLUMNS..].chunks_exact_mut(TILE_COLUMNS);
        for (row, &number) in rows.zip(key) {
            row[place] = number;
        }
        let size = width.next_multiple_of(TILE_COLUMNS) * self.capacity;
        let panels = self.values[layer][kv_head * size..][..size].chunks_exact_mut(TILE_COLUMNS * self.capacity);
        let (whole, rest) = value.as_chunks::<TILE_COLUMNS>();
        for (index, panel) in panels.enumerate() {
            let row = &mut panel[position * TILE_COLUMNS..][..TILE_COLUMNS];
            match whole.get(index) {
                Some(part) => row.copy_from_slice(part),
                None => row[..rest.len()].copy_from_slice(rest),
            }
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

/// A step's rotated queries (n, h w), rotated keys (n, k w) and values (n, k w), a token per sequence.
pub(crate) struct Step<'a> {
    pub(crate) queries: &'a [f32],
    pub(crate) keys: &'a [f32],
    pub(crate) values: &'a [f32],
}

/// What attention computes with, for all sequences and the query heads of a key head.
#[derive(Default)]
pub(crate) struct Scratch {
    scores: Vec<f32>,
    /// Sums over the own positions.
    sums: Vec<f32>,
}

/// Attention of sequences that continue one prompt: puts in each one's key and value, and looks with its query at all its
/// positions. `outs`: (n, h w).
pub(crate) fn attend(
    sequences: &mut [Cache],
    layer: usize,
    heads: Heads,
    step: &Step,
    outs: &mut [f32],
    scratch: &mut Scratch,
) {
    let Some(prompt) = sequences.first().map(|sequence| sequence.prompt.clone()) else { return };
    let Heads { kv_heads, width: w, .. } = heads;
    let (count, read, query) = (sequences.len(), prompt.length, heads.query());
    let factor = 1.0 / (w as f32).sqrt();
    let longest = sequences.iter().map(|sequence| sequence.own.length + 1).max().unwrap_or(0);
    let room = read.next_multiple_of(TILE_COLUMNS) + longest.next_multiple_of(TILE_COLUMNS);
    let group = heads.group(0).len();
    let Scratch { scores, sums } = scratch;
    scores.resize(group * count * room, 0.0);
    sums.resize(group * count * w, 0.0);
    for kv in 0..kv_heads {
        let by_head = || heads.group(kv).map(|head| head * w).enumerate();
        for (place, at) in by_head() {
            let rows = Lhs::RowMajor { data: &step.queries[at..], stride: query };
            let panels = prompt.keys(layer, kv, w).chunks_exact(w * TILE_COLUMNS).take(read.div_ceil(TILE_COLUMNS));
            for (number, keys) in panels.enumerate() {
                let scores = &mut scores[place * count * room + number * TILE_COLUMNS..];
                multiply_panel(count, TILE_COLUMNS, w, rows, keys, scores, room, true);
            }
        }
        own_scores(sequences, layer, heads, kv, step, scores, room);
        for (row, scores) in scores.chunks_exact_mut(room).enumerate().take(group * count) {
            let seen = read + sequences[row % count].own.length + 1;
            softmax(&mut scores[..seen.next_multiple_of(LANES)], seen, factor);
        }
        own_values(sequences, layer, heads, kv, scores, room, sums);
        for (place, at) in by_head() {
            for (number, values) in prompt.values(layer, kv, w).enumerate() {
                let (column, columns) = (at + number * TILE_COLUMNS, TILE_COLUMNS.min(w - number * TILE_COLUMNS));
                let weights = Lhs::RowMajor { data: &scores[place * count * room..], stride: room };
                multiply_panel(
                    count,
                    columns,
                    read,
                    weights,
                    &values[..read * TILE_COLUMNS],
                    &mut outs[column..],
                    query,
                    true,
                );
            }
            let sums = sums[place * count * w..].chunks_exact(w);
            for (out, sums) in outs[at..].chunks_mut(query).zip(sums) {
                for (out, sum) in out.iter_mut().zip(sums) {
                    *out += sum;
                }
            }
        }
    }
}

simd! {
/// Puts in each sequence's key and value for a key head, and the scores of its queries by the sequence's own positions into
/// `scores` (heads, n, room), behind those of the prompt and over what its last panel wrote there.
pub(crate) fn own_scores(
    sequences: &mut [Cache],
    layer: usize,
    heads: Heads,
    kv: usize,
    step: &Step,
    scores: &mut [f32],
    room: usize,
) {
    let (count, w) = (sequences.len(), heads.width);
    for index in 0..count {
        let at = index * heads.key() + kv * w;
        sequences[index].own.put(layer, kv, 0, &step.keys[at..][..w], &step.values[at..][..w]);
        let (read, own) = (sequences[index].prompt.length, &sequences[index].own);
        let next = &sequences[(index + 1).min(count - 1)].own;
        for (place, head) in heads.group(kv).enumerate() {
            let query = &step.queries[index * heads.query() + head * w..][..w];
            let own_count = (own.length + 1).next_multiple_of(TILE_COLUMNS);
            let scores = &mut scores[(place * count + index) * room + read..][..own_count];
            // One head fetches the next sequence for all.
            let next = if place == 0 { next } else { own };
            gemv::scores(query, own.keys(layer, kv, w), next.keys(layer, kv, w), scores);
        }
    }
}}

simd! {
/// Sums (heads, n, w) of the sequences' own values, of which `scores` (heads, n, room) has become the weights.
pub(crate) fn own_values(
    sequences: &[Cache],
    layer: usize,
    heads: Heads,
    kv: usize,
    weights: &[f32],
    room: usize,
    sums: &mut [f32],
) {
    let (count, w) = (sequences.len(), heads.width);
    for (index, sequence) in sequences.iter().enumerate() {
        let (read, own) = (sequence.prompt.length, &sequence.own);
        let next = &sequences[(index + 1).min(count - 1)].own;
        for place in 0..heads.group(kv).len() {
            let row = place * count + index;
            let weights = &weights[row * room + read..][..=own.length];
            let next = if place == 0 { next } else { own };
            let values = own.values(layer, kv, w).zip(next.values(layer, kv, w));
            for (sums, (values, next)) in sums[row * w..][..w].chunks_mut(TILE_COLUMNS).zip(values) {
                let sum = gemv::weighted_sum(weights, values, next);
                match <&mut [f32; TILE_COLUMNS]>::try_from(&mut *sums) {
                    Ok(sums) => *sums = sum,
                    Err(_) => sums.copy_from_slice(&sum[..sums.len()]),
                }
            }
        }
    }
}}

#[cfg(test)]
mod tests {
    use super::*;

    const HEADS: Heads = Heads { heads: 4, kv_heads: 2, width: 24, causal: true };
    const PROMPT: usize = 21;

    fn numbers(count: usize, salt: usize) -> Vec<f32> {
        (0..count).map(|i| ((i * 7919 + salt * 104_729) % 2003) as f32 / 1001.0 - 1.0).collect()
    }

    /// The key, or the value, of a position: those of the prompt are everybody's.
    fn token(sequence: usize, position: usize, value: bool) -> Vec<f32> {
        let sequence = if position < PROMPT { 0 } else { sequence + 1 };
        numbers(HEADS.key(), sequence * 10_000 + 2 * position + usize::from(value))
    }

    fn fill(stretch: &mut Stretch, sequence: usize, first: usize, count: usize) {
        for position in first..first + count {
            let (key, value) = (token(sequence, position, false), token(sequence, position, true));
            for kv in 0..HEADS.kv_heads {
                let part = kv * HEADS.width..(kv + 1) * HEADS.width;
                stretch.put(0, kv, 0, &key[part.clone()], &value[part]);
            }
            stretch.advance(1);
        }
    }

    /// What sequences with so many own positions see, computed together.
    fn together(sequences: &[(usize, usize)]) -> Vec<f32> {
        let mut prompt = Stretch::new(1, HEADS, PROMPT);
        fill(&mut prompt, 0, 0, PROMPT);
        let prompt = Arc::new(prompt);
        let cache = |&(sequence, length): &(usize, usize)| {
            let mut own = Stretch::new(1, HEADS, length + 1);
            fill(&mut own, sequence, PROMPT, length);
            Cache { prompt: prompt.clone(), own }
        };
        let mut caches: Vec<Cache> = sequences.iter().map(cache).collect();
        let step = |value: bool| sequences.iter().flat_map(move |&(i, length)| token(i, PROMPT + length, value));
        let (keys, values): (Vec<f32>, Vec<f32>) = (step(false).collect(), step(true).collect());
        let queries: Vec<f32> = sequences.iter().flat_map(|&(i, _)| numbers(HEADS.query(), 77 + i)).collect();
        let step = Step { queries: &queries, keys: &keys, values: &values };
        let mut outs = vec![f32::NAN; queries.len()];
        // What was computed before leaves something behind.
        let mut scratch = Scratch { scores: vec![f32::NAN; 9], sums: vec![f32::NAN; 9] };
        attend(&mut caches, 0, HEADS, &step, &mut outs, &mut scratch);
        outs
    }

    /// The definition, for one head of one sequence.
    fn definition(sequence: usize, length: usize, head: usize) -> Vec<f32> {
        let part = |token: Vec<f32>, head: usize| token[head * HEADS.width..][..HEADS.width].to_vec();
        let (query, kv) = (part(numbers(HEADS.query(), 77 + sequence), head), head / 2);
        let weights: Vec<f64> = (0..=PROMPT + length)
            .map(|position| {
                let key = part(token(sequence, position, false), kv);
                let product: f32 = query.iter().zip(&key).map(|(q, k)| q * k).sum();
                f64::from(product / (HEADS.width as f32).sqrt()).exp()
            })
            .collect();
        let sum: f64 = weights.iter().sum();
        let mut out = vec![0.0; HEADS.width];
        for (position, weight) in weights.iter().enumerate() {
            for (out, value) in out.iter_mut().zip(part(token(sequence, position, true), kv)) {
                *out += (weight / sum) as f32 * value;
            }
        }
        out
    }

    #[test]
    fn every_sequence_sees_its_prompt_and_its_own_positions_whatever_its_neighbours() {
        // Lengths within a panel, at its end and beyond, so neighbours of many capacities, small after large, too.
        let sequences: Vec<(usize, usize)> = [0, 31, 32, 100, 3, 64, 33, 90, 15].into_iter().enumerate().collect();
        let outs = together(&sequences);
        for (outs, &(sequence, length)) in outs.chunks_exact(HEADS.query()).zip(&sequences) {
            assert_eq!(together(&[(sequence, length)]), outs, "sequence {sequence} alone");
            for (head, out) in outs.chunks_exact(HEADS.width).enumerate() {
                for (ours, theirs) in out.iter().zip(definition(sequence, length, head)) {
                    assert!((ours - theirs).abs() < 1e-5, "sequence {sequence}, head {head}: {ours}, not {theirs}");
                }
            }
        }
    }
}
