//! Attention over the rows of a batch, which have different lengths and no padding. Queries and keys are already rotated.
//!
//! Letters in shapes: `t` tokens of a row, `h` query heads, `g` query heads per key head, `w` width of a head.

use std::cell::RefCell;
use std::ops::Range;
use std::sync::Arc;

use rayon::prelude::*;

use super::LANES;
use super::math::{dot, ln};
use super::matmul::{Accumulate, MatrixView, PanelBuffer, even_chunks};
use super::microkernel::Lhs;
use super::softmax::{softmax, softmax_backward};

/// Largest number of query positions per block. It bounds the scores in memory and the masked scores computed for nothing.
const BLOCK: usize = 40;

/// The heads of an attention layer.
#[derive(Clone, Copy, Debug, PartialEq)]
#[expect(clippy::struct_field_names, reason = "the terms of the field")]
pub(crate) struct Heads {
    pub(crate) heads: usize,
    /// Divides `heads`.
    pub(crate) kv_heads: usize,
    pub(crate) width: usize,
    /// Whether a position attends only to itself and those before it.
    pub(crate) causal: bool,
    /// Factor of the scores, above 0.
    pub(crate) factor: f32,
}

/// The keys that each token of a batch attends to, by their numbers in the token's row. The token itself is one of them.
pub(crate) type KeyRanges = Arc<[Range<u32>]>;

/// The keys that the tokens of a row attend to.
#[derive(Clone, Copy)]
enum Keys<'a> {
    All,
    UpToItself,
    Ranges(&'a [Range<u32>]),
}

impl<'a> Keys<'a> {
    fn new(heads: Heads, ranges: Option<&'a KeyRanges>, row: &Range<usize>) -> Keys<'a> {
        match ranges {
            Some(ranges) => Keys::Ranges(&ranges[row.clone()]),
            None if heads.causal => Keys::UpToItself,
            None => Keys::All,
        }
    }

    /// Those of a token of a row of `t` tokens.
    fn of(self, token: usize, t: usize) -> Range<usize> {
        match self {
            Keys::All => 0..t,
            Keys::UpToItself => 0..token + 1,
            Keys::Ranges(ranges) => ranges[token].start as usize..ranges[token].end as usize,
        }
    }

    /// The end of those of several tokens.
    fn end(self, tokens: Range<usize>, t: usize) -> usize {
        match self {
            Keys::All => t,
            Keys::UpToItself => tokens.end,
            Keys::Ranges(ranges) => ranges[tokens].iter().map(|range| range.end as usize).max().unwrap_or(0),
        }
    }
}

/// Hides the scores of the keys before `start`: their exponentials are 0.
pub(crate) fn hide(scores: &mut [f32], start: usize) {
    scores[..start].fill(f32::NEG_INFINITY);
}

impl Heads {
    /// Width of a query or output token.
    pub(crate) fn query(&self) -> usize {
        self.heads * self.width
    }

    /// Width of a key or value token.
    pub(crate) fn key(&self) -> usize {
        self.kv_heads * self.width
    }

    /// The query heads that share a key head.
    pub(crate) fn group(&self, kv_head: usize) -> Range<usize> {
        let size = self.heads / self.kv_heads;
        kv_head * size..(kv_head + 1) * size
    }

    /// The usual factor of the scores of heads of this width (Vaswani et al. 2017).
    pub(crate) fn usual_factor(width: usize) -> f32 {
        1.0 / (width as f32).sqrt()
    }
}

/// `out = softmax(factor q k^T) v` for every row and head. `rows` covers the tokens in order, and `ranges` limits their keys.
/// `lse` (h numbers per token) stores the logarithm of each softmax's denominator (log-sum-exp), head by head within a row.
#[expect(clippy::too_many_arguments, reason = "three inputs, two outputs, and which tokens attend to which")]
pub(crate) fn attention(
    heads: Heads,
    rows: &[Range<usize>],
    ranges: Option<&KeyRanges>,
    q: &[f32],
    k: &[f32],
    v: &[f32],
    out: &mut [f32],
    lse: &mut [f32],
) {
    let outs = split(out, rows, heads.query());
    let lse = split(lse, rows, heads.heads);
    let work: Vec<_> = rows.iter().zip(outs.into_iter().zip(lse)).collect();
    for_each_row(work, |(row, (out, lse))| {
        let [k, v] = [k, v].map(|x| row_of(x, row, heads.key()));
        forward_row(heads, Keys::new(heads, ranges, row), [row_of(q, row, heads.query()), k, v], out, lse);
    });
}

/// The tensors of the forward pass that the backward pass reads.
pub(crate) struct Forward<'a> {
    pub(crate) q: &'a [f32],
    pub(crate) k: &'a [f32],
    pub(crate) v: &'a [f32],
    pub(crate) out: &'a [f32],
    pub(crate) lse: &'a [f32],
}

/// The gradients of [`attention`] for the gradient `dout` of its output: overwrites `dq`, adds to `dk` and `dv`.
#[expect(clippy::too_many_arguments, reason = "four inputs, three outputs, and which tokens attend to which")]
pub(crate) fn attention_backward(
    heads: Heads,
    rows: &[Range<usize>],
    ranges: Option<&KeyRanges>,
    forward: &Forward,
    dout: &[f32],
    dq: &mut [f32],
    dk: &mut [f32],
    dv: &mut [f32],
) {
    let (query, key) = (heads.query(), heads.key());
    let gradients = split(dq, rows, query).into_iter().zip(split(dk, rows, key)).zip(split(dv, rows, key));
    let work: Vec<_> = rows.iter().zip(gradients).collect();
    for_each_row(work, |(row, ((dq, dk), dv))| {
        let forward = Forward {
            q: row_of(forward.q, row, query),
            k: row_of(forward.k, row, key),
            v: row_of(forward.v, row, key),
            out: row_of(forward.out, row, query),
            lse: row_of(forward.lse, row, heads.heads),
        };
        backward_row(heads, Keys::new(heads, ranges, row), &forward, row_of(dout, row, query), [dq, dk, dv]);
    });
}

fn forward_row(heads: Heads, visible: Keys, [q, k, v]: [&[f32]; 3], out: &mut [f32], lse: &mut [f32]) {
    let Heads { width: w, factor, .. } = heads;
    let (query, key) = (heads.query(), heads.key());
    let t = q.len() / query;
    with_scratch(BLOCK.min(t) * padded(t), |Scratch { scores, keys, values, .. }| {
        for kv_head in 0..heads.kv_heads {
            let kv_at = kv_head * w;
            keys.pack(MatrixView::strided(&k[kv_at..], 1, key), w, t);
            values.pack(MatrixView::strided(&v[kv_at..], key, 1), t, w);
            for head in heads.group(kv_head) {
                let at = head * w;
                for (first, m) in even_chunks(t, BLOCK) {
                    let n = visible.end(first..first + m, t);
                    let q = Lhs::RowMajor { data: &q[first * query + at..], stride: query };
                    let stride = padded(n);
                    keys.multiply(m, stride, w, q, scores, stride, Accumulate::No);
                    for (i, row) in scores.chunks_exact_mut(stride).take(m).enumerate() {
                        let Range { start, end } = visible.of(first + i, t);
                        hide(row, start);
                        let (shift, sum) = softmax(row, end, factor);
                        lse[head * t + first + i] = shift + ln(sum);
                    }
                    let p = Lhs::RowMajor { data: scores, stride };
                    values.multiply(m, w, n, p, &mut out[first * query + at..], query, Accumulate::No);
                }
            }
        }
    });
}

fn backward_row(heads: Heads, visible: Keys, forward: &Forward, dout: &[f32], [dq, dk, dv]: [&mut [f32]; 3]) {
    let Heads { width: w, factor, .. } = heads;
    let Forward { q, k, v, out, lse } = forward;
    let (query, key) = (heads.query(), heads.key());
    let t = q.len() / query;
    with_scratch(2 * BLOCK.min(t) * padded(t), |Scratch { scores, keys, values, keys_back, queries, deltas }| {
        // In the order of memory: head by head, all of it would be loaded once per head.
        deltas.resize(t * heads.heads, 0.0);
        for (token, (dout, out)) in dout.chunks_exact(query).zip(out.chunks_exact(query)).enumerate() {
            for (head, (dout, out)) in dout.chunks_exact(w).zip(out.chunks_exact(w)).enumerate() {
                deltas[head * t + token] = dot(dout, out);
            }
        }
        let (p, dp) = scores.split_at_mut(BLOCK.min(t) * padded(t));
        for kv_head in 0..heads.kv_heads {
            let kv_at = kv_head * w;
            keys.pack(MatrixView::strided(&k[kv_at..], 1, key), w, t);
            values.pack(MatrixView::strided(&v[kv_at..], 1, key), w, t);
            keys_back.pack(MatrixView::strided(&k[kv_at..], key, 1), t, w);
            for head in heads.group(kv_head) {
                let at = head * w;
                for (first, m) in even_chunks(t, BLOCK) {
                    let n = visible.end(first..first + m, t);
                    let (q, dout) = (&q[first * query + at..], &dout[first * query + at..]);
                    let stride = padded(n);
                    keys.multiply(m, stride, w, Lhs::RowMajor { data: q, stride: query }, p, stride, Accumulate::No);
                    let dout_rows = Lhs::RowMajor { data: dout, stride: query };
                    values.multiply(m, stride, w, dout_rows, dp, stride, Accumulate::No);
                    for (i, (p, dp)) in p.chunks_exact_mut(stride).zip(dp.chunks_exact_mut(stride)).take(m).enumerate()
                    {
                        let Range { start, end } = visible.of(first + i, t);
                        let at = head * t + first + i;
                        hide(p, start);
                        softmax_backward(p, dp, end, factor, lse[at], deltas[at]);
                    }
                    let dq = &mut dq[first * query + at..];
                    keys_back.multiply(m, w, n, Lhs::RowMajor { data: dp, stride }, dq, query, Accumulate::No);
                    queries.pack(MatrixView::strided(dout, query, 1), m, w);
                    let transposed = Lhs::ColMajor { data: p, stride };
                    queries.multiply(n, w, m, transposed, &mut dv[kv_at..], key, Accumulate::Yes);
                    queries.pack(MatrixView::strided(q, query, 1), m, w);
                    let transposed = Lhs::ColMajor { data: dp, stride };
                    queries.multiply(n, w, m, transposed, &mut dk[kv_at..], key, Accumulate::Yes);
                }
            }
        }
    });
}

/// The length of a row of scores, padded to whole registers.
fn padded(positions: usize) -> usize {
    positions.next_multiple_of(LANES)
}

/// The tokens of a row.
fn row_of<'a>(values: &'a [f32], row: &Range<usize>, width: usize) -> &'a [f32] {
    &values[row.start * width..row.end * width]
}

/// Splits a buffer at the boundaries of the rows.
fn split<'a>(mut values: &'a mut [f32], rows: &[Range<usize>], width: usize) -> Vec<&'a mut [f32]> {
    let mut parts = Vec::with_capacity(rows.len());
    for row in rows {
        let (head, rest) = values.split_at_mut(row.len() * width);
        parts.push(head);
        values = rest;
    }
    parts
}

/// Runs independent rows on the pool if it has more than two threads.
fn for_each_row<W: Send>(work: Vec<W>, f: impl Fn(W) + Sync + Send) {
    if work.len() > 1 && rayon::current_num_threads() > 2 {
        work.into_par_iter().for_each(f);
    } else {
        work.into_iter().for_each(f);
    }
}

/// A thread's buffers.
#[derive(Default)]
struct Scratch {
    scores: Vec<f32>,
    keys: PanelBuffer,
    values: PanelBuffer,
    keys_back: PanelBuffer,
    queries: PanelBuffer,
    /// `sum(dout * out)` of each token and head, which the softmax's gradient subtracts; in the order of `lse`.
    deltas: Vec<f32>,
}

thread_local! { static SCRATCH: RefCell<Scratch> = RefCell::default(); }

/// Calls `work` with the thread's buffers, which have at least `size` scores and arbitrary contents.
fn with_scratch<R>(size: usize, work: impl FnOnce(&mut Scratch) -> R) -> R {
    SCRATCH.with(|scratch| {
        // Taken, not borrowed: while `work` waits, this thread may steal a task that calls this function.
        let mut buffers = std::mem::take(&mut *scratch.borrow_mut());
        if buffers.scores.len() < size {
            buffers.scores.resize(size, 0.0);
        }
        let result = work(&mut buffers);
        *scratch.borrow_mut() = buffers;
        result
    })
}
