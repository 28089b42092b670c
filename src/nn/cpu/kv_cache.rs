//! KV caches of generation: rotated keys, and values, of the positions that a sequence has passed.
//!
//! Both are stored in panels as matrix products read them: keys in panels of 16 positions, values in panels of 16 columns.
//! The samples of a prompt share its keys and values, so one matrix product per head computes all their scores. Each
//! sample's own positions are computed separately.

use std::sync::Arc;

use crate::kernels::attention::{Heads, hide};
use crate::kernels::gemv;
use crate::kernels::matmul::multiply_panel;
use crate::kernels::microkernel::{Lhs, TILE_COLUMNS};
use crate::kernels::softmax::softmax;
use crate::kernels::{LANES, simd::simd};

/// Keys and values of consecutive positions.
pub(crate) struct KvSegment {
    /// In positions; a multiple of [`TILE_COLUMNS`].
    capacity: usize,
    /// Positions that are filled.
    length: usize,
    /// By layer: (k, capacity / 16, w, 16).
    keys: Vec<Vec<f32>>,
    /// By layer: (k, w / 16, capacity, 16); a last panel that is not full is padded with 0.
    values: Vec<Vec<f32>>,
}

impl KvSegment {
    /// An empty segment for `capacity` positions.
    pub(crate) fn new(layers: usize, heads: Heads, capacity: usize) -> KvSegment {
        let capacity = capacity.next_multiple_of(TILE_COLUMNS);
        let keys = vec![vec![0.0; heads.key() * capacity]; layers];
        let width = heads.width.next_multiple_of(TILE_COLUMNS);
        let values = vec![vec![0.0; heads.kv_heads * width * capacity]; layers];
        KvSegment { capacity, length: 0, keys, values }
    }

    /// The bytes of a segment for `capacity` positions.
    pub(crate) fn bytes(layers: usize, heads: Heads, capacity: usize) -> usize {
        let elements = heads.key() + heads.kv_heads * heads.width.next_multiple_of(TILE_COLUMNS);
        layers * elements * capacity.next_multiple_of(TILE_COLUMNS) * size_of::<f32>()
    }

    /// Whether `positions` positions fit in all.
    pub(crate) fn fits(&self, positions: usize) -> bool {
        self.capacity >= positions
    }

    pub(crate) fn clear(&mut self) {
        self.length = 0;
    }

    /// Counts `positions` more as filled, after every layer has written them.
    pub(crate) fn advance(&mut self, positions: usize) {
        self.length += positions;
    }

    /// Writes a head's rotated key (w) and value (w) at the position `ahead` of the filled ones.
    pub(crate) fn write(&mut self, layer: usize, kv_head: usize, ahead: usize, key: &[f32], value: &[f32]) {
        let (width, position) = (key.len(), self.length + ahead);
        let keys = &mut self.keys[layer][kv_head * width * self.capacity..][..width * self.capacity];
        let (panel, column) = (position / TILE_COLUMNS, position % TILE_COLUMNS);
        let rows = keys[panel * width * TILE_COLUMNS..].chunks_exact_mut(TILE_COLUMNS);
        for (row, &element) in rows.zip(key) {
            row[column] = element;
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

/// The cache of one sequence: its prompt, which other samples can share, and the positions that it has generated.
pub(crate) struct KvCache {
    pub(crate) prompt: Arc<KvSegment>,
    pub(crate) generated: KvSegment,
    /// By how much the position of a generated token is below the number of tokens before it: an image has fewer positions than
    /// tokens in multimodal rotary embeddings.
    pub(crate) behind: usize,
}

impl KvCache {
    /// The number of positions.
    pub(crate) fn length(&self) -> usize {
        self.prompt.length + self.generated.length
    }

    /// The position of the next token in rotary embeddings.
    pub(crate) fn position(&self) -> usize {
        self.length() - self.behind
    }
}

/// Inputs of a decoding step, a token per sequence: rotated queries (n, h w), rotated keys (n, k w), values (n, k w).
pub(crate) struct StepInputs<'a> {
    pub(crate) queries: &'a [f32],
    pub(crate) keys: &'a [f32],
    pub(crate) values: &'a [f32],
}

/// Memory for a decoding step, for all sequences and the query heads of a key head.
#[derive(Default)]
pub(crate) struct Scratch {
    scores: Vec<f32>,
    /// Weighted sums of the generated values.
    sums: Vec<f32>,
}

/// Attention of one token per sequence over all positions of its sequence, or the last ones of a window, which the token itself ends.
/// The sequences share one prompt. Writes each token's key and value into its cache. `outs`: (n, h w).
pub(crate) fn decode_attention(
    sequences: &mut [KvCache],
    layer: usize,
    (heads, window): (Heads, Option<usize>),
    step: &StepInputs,
    outs: &mut [f32],
    scratch: &mut Scratch,
) {
    let Some(prompt) = sequences.first().map(|sequence| sequence.prompt.clone()) else { return };
    let Heads { kv_heads, width: w, .. } = heads;
    let (count, prompt_length, query) = (sequences.len(), prompt.length, heads.query());
    let longest = sequences.iter().map(|sequence| sequence.generated.length + 1).max().unwrap_or(0);
    let row_size = prompt_length.next_multiple_of(TILE_COLUMNS) + longest.next_multiple_of(TILE_COLUMNS);
    let group = heads.group(0).len();
    let Scratch { scores, sums } = scratch;
    scores.resize(group * count * row_size, 0.0);
    sums.resize(group * count * w, 0.0);
    for kv in 0..kv_heads {
        let query_heads = || heads.group(kv).map(|head| head * w).enumerate();
        for (member, offset) in query_heads() {
            let rows = Lhs::RowMajor { data: &step.queries[offset..], stride: query };
            let keys = prompt.keys(layer, kv, w).chunks_exact(w * TILE_COLUMNS);
            for (index, keys) in keys.take(prompt_length.div_ceil(TILE_COLUMNS)).enumerate() {
                let scores = &mut scores[member * count * row_size + index * TILE_COLUMNS..];
                multiply_panel(count, TILE_COLUMNS, w, rows, keys, scores, row_size, true);
            }
        }
        generated_scores(sequences, layer, heads, kv, step, scores, row_size);
        for (row, scores) in scores.chunks_exact_mut(row_size).enumerate().take(group * count) {
            let positions = prompt_length + sequences[row % count].generated.length + 1;
            hide(scores, window.map_or(0, |window| positions.saturating_sub(window)));
            softmax(&mut scores[..positions.next_multiple_of(LANES)], positions, heads.factor);
        }
        generated_values(sequences, layer, heads, kv, scores, row_size, sums);
        for (member, offset) in query_heads() {
            for (index, values) in prompt.values(layer, kv, w).enumerate() {
                let (column, columns) = (offset + index * TILE_COLUMNS, TILE_COLUMNS.min(w - index * TILE_COLUMNS));
                let weights = Lhs::RowMajor { data: &scores[member * count * row_size..], stride: row_size };
                let values = &values[..prompt_length * TILE_COLUMNS];
                multiply_panel(count, columns, prompt_length, weights, values, &mut outs[column..], query, true);
            }
            let sums = sums[member * count * w..].chunks_exact(w);
            for (out, sums) in outs[offset..].chunks_mut(query).zip(sums) {
                for (out, sum) in out.iter_mut().zip(sums) {
                    *out += sum;
                }
            }
        }
    }
}

simd! {
/// Writes each sequence's key and value for a key head, and the scores of its queries by its generated positions, into
/// `scores` (heads, n, row_size), after those of the prompt. They overwrite the padding of the prompt's last panel.
pub(crate) fn generated_scores(
    sequences: &mut [KvCache],
    layer: usize,
    heads: Heads,
    kv: usize,
    step: &StepInputs,
    scores: &mut [f32],
    row_size: usize,
) {
    let (count, w) = (sequences.len(), heads.width);
    for index in 0..count {
        let offset = index * heads.key() + kv * w;
        sequences[index].generated.write(layer, kv, 0, &step.keys[offset..][..w], &step.values[offset..][..w]);
        let (prompt_length, generated) = (sequences[index].prompt.length, &sequences[index].generated);
        let next = &sequences[(index + 1).min(count - 1)].generated;
        for (member, head) in heads.group(kv).enumerate() {
            let query = &step.queries[index * heads.query() + head * w..][..w];
            let padded = (generated.length + 1).next_multiple_of(TILE_COLUMNS);
            let scores = &mut scores[(member * count + index) * row_size + prompt_length..][..padded];
            // The first head prefetches the next sequence for the others.
            let next = if member == 0 { next } else { generated };
            gemv::scores(query, generated.keys(layer, kv, w), next.keys(layer, kv, w), scores);
        }
    }
}}

simd! {
/// Sums (heads, n, w) of the sequences' generated values, weighted by `weights` (heads, n, row_size).
pub(crate) fn generated_values(
    sequences: &[KvCache],
    layer: usize,
    heads: Heads,
    kv: usize,
    weights: &[f32],
    row_size: usize,
    sums: &mut [f32],
) {
    let (count, w) = (sequences.len(), heads.width);
    for (index, sequence) in sequences.iter().enumerate() {
        let (prompt_length, generated) = (sequence.prompt.length, &sequence.generated);
        let next = &sequences[(index + 1).min(count - 1)].generated;
        for member in 0..heads.group(kv).len() {
            let row = member * count + index;
            let weights = &weights[row * row_size + prompt_length..][..=generated.length];
            let next = if member == 0 { next } else { generated };
            let values = generated.values(layer, kv, w).zip(next.values(layer, kv, w));
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

    const HEADS: Heads = Heads { heads: 4, kv_heads: 2, width: 24, causal: true, factor: 0.2 };
    const PROMPT: usize = 21;

    fn numbers(count: usize, salt: usize) -> Vec<f32> {
        (0..count).map(|i| ((i * 7919 + salt * 104_729) % 2003) as f32 / 1001.0 - 1.0).collect()
    }

    /// The key or value of a position. All sequences share those of the prompt.
    fn token(sequence: usize, position: usize, value: bool) -> Vec<f32> {
        let sequence = if position < PROMPT { 0 } else { sequence + 1 };
        numbers(HEADS.key(), sequence * 10_000 + 2 * position + usize::from(value))
    }

    fn fill(segment: &mut KvSegment, sequence: usize, first: usize, count: usize) {
        for position in first..first + count {
            let (key, value) = (token(sequence, position, false), token(sequence, position, true));
            for kv in 0..HEADS.kv_heads {
                let part = kv * HEADS.width..(kv + 1) * HEADS.width;
                segment.write(0, kv, 0, &key[part.clone()], &value[part]);
            }
            segment.advance(1);
        }
    }

    /// The outputs of sequences with these numbers of generated positions, computed in one step.
    fn outputs(sequences: &[(usize, usize)], window: Option<usize>) -> Vec<f32> {
        let mut prompt = KvSegment::new(1, HEADS, PROMPT);
        fill(&mut prompt, 0, 0, PROMPT);
        let prompt = Arc::new(prompt);
        let cache = |&(sequence, length): &(usize, usize)| {
            let mut generated = KvSegment::new(1, HEADS, length + 1);
            fill(&mut generated, sequence, PROMPT, length);
            KvCache { prompt: prompt.clone(), generated, behind: 0 }
        };
        let mut caches: Vec<KvCache> = sequences.iter().map(cache).collect();
        let step = |value: bool| sequences.iter().flat_map(move |&(i, length)| token(i, PROMPT + length, value));
        let (keys, values): (Vec<f32>, Vec<f32>) = (step(false).collect(), step(true).collect());
        let queries: Vec<f32> = sequences.iter().flat_map(|&(i, _)| numbers(HEADS.query(), 77 + i)).collect();
        let step = StepInputs { queries: &queries, keys: &keys, values: &values };
        let mut outs = vec![f32::NAN; queries.len()];
        // Values of an earlier step.
        let mut scratch = Scratch { scores: vec![f32::NAN; 9], sums: vec![f32::NAN; 9] };
        decode_attention(&mut caches, 0, (HEADS, window), &step, &mut outs, &mut scratch);
        outs
    }

    /// Attention by its formula, for one head of one sequence.
    fn reference(sequence: usize, length: usize, head: usize, window: Option<usize>) -> Vec<f32> {
        let part = |token: Vec<f32>, head: usize| token[head * HEADS.width..][..HEADS.width].to_vec();
        let (query, kv) = (part(numbers(HEADS.query(), 77 + sequence), head), head / 2);
        let first = window.map_or(0, |window| (PROMPT + length + 1).saturating_sub(window));
        let weights: Vec<f64> = (first..=PROMPT + length)
            .map(|position| {
                let key = part(token(sequence, position, false), kv);
                let product: f32 = query.iter().zip(&key).map(|(q, k)| q * k).sum();
                f64::from(product * HEADS.factor).exp()
            })
            .collect();
        let sum: f64 = weights.iter().sum();
        let mut out = vec![0.0; HEADS.width];
        for (position, weight) in (first..).zip(&weights) {
            for (out, value) in out.iter_mut().zip(part(token(sequence, position, true), kv)) {
                *out += (weight / sum) as f32 * value;
            }
        }
        out
    }

    #[test]
    fn sequences_do_not_depend_on_their_neighbours() {
        // Lengths within a panel, at its end and beyond it; short sequences after long ones.
        let sequences: Vec<(usize, usize)> = [0, 31, 32, 100, 3, 64, 33, 90, 15].into_iter().enumerate().collect();
        for window in [None, Some(7), Some(40)] {
            let outs = outputs(&sequences, window);
            for (outs, &(sequence, length)) in outs.chunks_exact(HEADS.query()).zip(&sequences) {
                assert_eq!(outputs(&[(sequence, length)], window), outs, "sequence {sequence} alone");
                for (head, out) in outs.chunks_exact(HEADS.width).enumerate() {
                    for (ours, theirs) in out.iter().zip(reference(sequence, length, head, window)) {
                        assert!((ours - theirs).abs() < 1e-5, "sequence {sequence}, head {head}: {ours}, not {theirs}");
                    }
                }
            }
        }
    }
}
