//! Attention over rows of different lengths that lie one after the other. Queries and keys come rotated.
//!
//! Letters: t tokens of a row, h query heads, g query heads per key head, w width of a head.

use std::cell::RefCell;
use std::ops::Range;

use rayon::prelude::*;

use super::super::raw::Rows;
use super::LANES;
use super::math::{dot, ln};
use super::matmul::{Into, View, even};
use super::panels::Panels;
use super::softmax::{softmax, softmax_backward};

/// Most query positions per block: bounds the scores kept at once, and what a causal mask throws away.
const BLOCK: usize = 40;

/// The heads of an attention.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(clippy::struct_field_names, reason = "query heads, key heads: the papers' words")]
pub(crate) struct Heads {
    pub(crate) heads: usize,
    /// Divides `heads`.
    pub(crate) kv_heads: usize,
    pub(crate) width: usize,
    /// Whether a position sees only itself and those before it.
    pub(crate) causal: bool,
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

    /// The query heads that look at a key head.
    pub(crate) fn group(&self, kv_head: usize) -> Range<usize> {
        let size = self.heads / self.kv_heads;
        kv_head * size..(kv_head + 1) * size
    }

    fn factor(&self) -> f32 {
        1.0 / (self.width as f32).sqrt()
    }
}

/// `out = softmax(q k^T / sqrt(w)) v` for every row and head. `rows` covers the tokens in order.
/// `log_sums` (h numbers per token) keeps the logarithm of each softmax's denominator, head by head within a row.
pub(crate) fn attention(
    heads: Heads,
    rows: &[Range<usize>],
    q: &[f32],
    k: &[f32],
    v: &[f32],
    out: &mut [f32],
    log_sums: &mut [f32],
) {
    let outs = split(out, rows, heads.query());
    let sums = split(log_sums, rows, heads.heads);
    let work: Vec<_> = rows.iter().zip(outs.into_iter().zip(sums)).collect();
    each(work, |(row, (out, sums))| {
        forward_row(
            heads,
            part(q, row, heads.query()),
            part(k, row, heads.key()),
            part(v, row, heads.key()),
            out,
            sums,
        );
    });
}

/// What the backward pass reads.
pub(crate) struct Forward<'a> {
    pub(crate) q: &'a [f32],
    pub(crate) k: &'a [f32],
    pub(crate) v: &'a [f32],
    pub(crate) out: &'a [f32],
    pub(crate) log_sums: &'a [f32],
}

/// The gradients of [`attention`] for the gradient `dout` of its output: replaces `dq`, adds to `dk` and `dv`.
pub(crate) fn attention_backward(
    heads: Heads,
    rows: &[Range<usize>],
    forward: &Forward,
    dout: &[f32],
    dq: &mut [f32],
    dk: &mut [f32],
    dv: &mut [f32],
) {
    let (query, key) = (heads.query(), heads.key());
    let gradients = split(dq, rows, query).into_iter().zip(split(dk, rows, key)).zip(split(dv, rows, key));
    let work: Vec<_> = rows.iter().zip(gradients).collect();
    each(work, |(row, ((dq, dk), dv))| {
        let forward = Forward {
            q: part(forward.q, row, query),
            k: part(forward.k, row, key),
            v: part(forward.v, row, key),
            out: part(forward.out, row, query),
            log_sums: part(forward.log_sums, row, heads.heads),
        };
        backward_row(heads, &forward, part(dout, row, query), dq, dk, dv);
    });
}

fn forward_row(heads: Heads, q: &[f32], k: &[f32], v: &[f32], out: &mut [f32], sums: &mut [f32]) {
    let Heads { width: w, causal, .. } = heads;
    let (query, key) = (heads.query(), heads.key());
    let t = q.len() / query;
    with_scratch(BLOCK.min(t) * room(t), |Scratch { scores, keys, values, .. }| {
        for kv_head in 0..heads.kv_heads {
            let kv_at = kv_head * w;
            keys.pack(View::strided(&k[kv_at..], 1, key), w, t);
            values.pack(View::strided(&v[kv_at..], key, 1), t, w);
            for head in heads.group(kv_head) {
                let at = head * w;
                for (first, m) in even(t, BLOCK) {
                    let n = if causal { first + m } else { t };
                    let q = Rows::Along { data: &q[first * query + at..], row: query };
                    let stride = room(n);
                    keys.multiply(m, stride, w, q, scores, stride, Into::Replace);
                    for (i, row) in scores.chunks_exact_mut(stride).take(m).enumerate() {
                        let seen = if causal { first + i + 1 } else { t };
                        let (shift, sum) = softmax(row, seen, heads.factor());
                        sums[head * t + first + i] = shift + ln(sum);
                    }
                    let p = Rows::Along { data: scores, row: stride };
                    values.multiply(m, w, n, p, &mut out[first * query + at..], query, Into::Replace);
                }
            }
        }
    });
}

fn backward_row(heads: Heads, forward: &Forward, dout: &[f32], dq: &mut [f32], dk: &mut [f32], dv: &mut [f32]) {
    let Heads { width: w, causal, .. } = heads;
    let Forward { q, k, v, out, log_sums } = forward;
    let (query, key) = (heads.query(), heads.key());
    let t = q.len() / query;
    with_scratch(2 * BLOCK.min(t) * room(t), |Scratch { scores, keys, values, keys_back, queries, deltas }| {
        // In the order of memory: head by head, all of it would come from afar once per head.
        deltas.resize(t * heads.heads, 0.0);
        for (token, (dout, out)) in dout.chunks_exact(query).zip(out.chunks_exact(query)).enumerate() {
            for (head, (dout, out)) in dout.chunks_exact(w).zip(out.chunks_exact(w)).enumerate() {
                deltas[head * t + token] = dot(dout, out);
            }
        }
        let (p, dp) = scores.split_at_mut(BLOCK.min(t) * room(t));
        for kv_head in 0..heads.kv_heads {
            let kv_at = kv_head * w;
            keys.pack(View::strided(&k[kv_at..], 1, key), w, t);
            values.pack(View::strided(&v[kv_at..], 1, key), w, t);
            keys_back.pack(View::strided(&k[kv_at..], key, 1), t, w);
            for head in heads.group(kv_head) {
                let at = head * w;
                for (first, m) in even(t, BLOCK) {
                    let n = if causal { first + m } else { t };
                    let (q, dout) = (&q[first * query + at..], &dout[first * query + at..]);
                    let stride = room(n);
                    keys.multiply(m, stride, w, Rows::Along { data: q, row: query }, p, stride, Into::Replace);
                    values.multiply(m, stride, w, Rows::Along { data: dout, row: query }, dp, stride, Into::Replace);
                    for (i, (p, dp)) in p.chunks_exact_mut(stride).zip(dp.chunks_exact_mut(stride)).take(m).enumerate()
                    {
                        let seen = if causal { first + i + 1 } else { t };
                        let at = head * t + first + i;
                        softmax_backward(p, dp, seen, heads.factor(), log_sums[at], deltas[at]);
                    }
                    let dq = &mut dq[first * query + at..];
                    keys_back.multiply(m, w, n, Rows::Along { data: dp, row: stride }, dq, query, Into::Replace);
                    queries.pack(View::strided(dout, query, 1), m, w);
                    queries.multiply(n, w, m, Rows::Across { data: p, step: stride }, &mut dv[kv_at..], key, Into::Add);
                    queries.pack(View::strided(q, query, 1), m, w);
                    queries.multiply(
                        n,
                        w,
                        m,
                        Rows::Across { data: dp, step: stride },
                        &mut dk[kv_at..],
                        key,
                        Into::Add,
                    );
                }
            }
        }
    });
}

/// Room for a row of scores.
fn room(positions: usize) -> usize {
    positions.next_multiple_of(LANES)
}

/// The tokens of a row.
fn part<'a>(values: &'a [f32], row: &Range<usize>, width: usize) -> &'a [f32] {
    &values[row.start * width..row.end * width]
}

/// Cuts a buffer at the borders of the rows.
fn split<'a>(mut values: &'a mut [f32], rows: &[Range<usize>], width: usize) -> Vec<&'a mut [f32]> {
    let mut parts = Vec::with_capacity(rows.len());
    for row in rows {
        let (head, rest) = values.split_at_mut(row.len() * width);
        parts.push(head);
        values = rest;
    }
    parts
}

/// Rows are independent: with more threads than rows they are spread over the pool.
fn each<W: Send>(work: Vec<W>, f: impl Fn(W) + Sync + Send) {
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
    keys: Panels,
    values: Panels,
    keys_back: Panels,
    queries: Panels,
    /// Of each token and head, by how much the softmax's gradient is shifted; in the order of the logarithms.
    deltas: Vec<f32>,
}

thread_local! { static SCRATCH: RefCell<Scratch> = RefCell::default(); }

/// Lends the thread's buffers, with room for so many scores; what is in them is whatever was left there.
fn with_scratch<R>(size: usize, work: impl FnOnce(&mut Scratch) -> R) -> R {
    SCRATCH.with(|scratch| {
        // Taken, not borrowed: a stolen task may come here while this one waits.
        let mut buffers = std::mem::take(&mut *scratch.borrow_mut());
        if buffers.scores.len() < size {
            buffers.scores.resize(size, 0.0);
        }
        let result = work(&mut buffers);
        *scratch.borrow_mut() = buffers;
        result
    })
}
