//! Attention with rotary positions: forward, backward, and one decoding step over KV caches.

use std::ops::Range;
use std::rc::Rc;
use std::sync::Arc;

use super::kv_cache::{StepInputs, decode_attention};
use super::state::CpuOps;
use super::tensor::CpuTensor;
use crate::buffer::Buffer;
use crate::kernels::attention::{Forward, Heads, KeyRanges, attention, attention_backward};
use crate::kernels::rope::{RopeTable, Rotations};
use crate::profile::timer;

/// Which positions attend to which, and the rotation of every position.
pub(crate) enum AttentionPlan {
    Rows(WithinRows),
    /// One token per sequence, over the sequence's KV cache, or the last positions of a window.
    Step {
        heads: Heads,
        rope: Arc<RopeTable>,
        window: Option<usize>,
    },
}

/// Attention within rows of tokens.
#[derive(Clone)]
pub(crate) struct WithinRows {
    pub(super) heads: Heads,
    pub(super) rows: Arc<[Range<usize>]>,
    pub(super) rope: Option<Rotations>,
    /// What each token attends to, unless its row or the heads say it.
    pub(super) keys: Option<KeyRanges>,
}

/// Queries (n, h w), keys and values (n, k w) of layer `layer` -> (n, h w).
pub(super) fn attend(
    ops: &mut CpuOps,
    layer: usize,
    q: CpuTensor,
    k: CpuTensor,
    v: CpuTensor,
    plan: &AttentionPlan,
) -> CpuTensor {
    match plan {
        AttentionPlan::Rows(rows) => within_rows(ops, layer, q, k, v, rows),
        AttentionPlan::Step { heads, rope, window } => step(ops, layer, [q, k, v], (*heads, *window), rope),
    }
}

fn within_rows(
    ops: &mut CpuOps,
    layer: usize,
    q: CpuTensor,
    k: CpuTensor,
    v: CpuTensor,
    plan: &WithinRows,
) -> CpuTensor {
    let WithinRows { heads, ref rows, ref rope, ref keys } = *plan;
    let n = q.rows();
    let scores = |row: &Range<usize>| if heads.causal { row.len() * (row.len() + 1) / 2 } else { row.len().pow(2) };
    let flops = 4 * rows.iter().map(scores).sum::<usize>() * heads.query();
    let elements = 2 * n * (heads.query() + heads.key());
    let _timer = timer("attention", flops, elements);
    let to_gradient = |x: &CpuTensor| ops.grad_enabled.then(|| x.gradient());
    let gradients = (to_gradient(&q), to_gradient(&k));
    // Rotated in place: the backward pass needs the rotated ones too.
    let rotated = |x: CpuTensor, width: usize| {
        let mut x = x.into_values();
        if let Some(rope) = rope {
            for_tokens(&mut x, rows, width, rope, RopeTable::rotate);
        }
        x
    };
    let (q, k) = (rotated(q, heads.query()), rotated(k, heads.key()));
    if let Some(prefill) = ops.prefill.as_mut().filter(|_| heads.causal) {
        let tokens = k.chunks_exact(heads.key()).zip(v.chunks_exact(heads.key()));
        for (position, (key, value)) in tokens.enumerate() {
            let heads = key.chunks_exact(heads.width).zip(value.chunks_exact(heads.width));
            heads.enumerate().for_each(|(kv_head, (key, value))| prefill.write(layer, kv_head, position, key, value));
        }
    }
    let mut out = Buffer::unset(n * heads.query());
    let mut lse = vec![0.0; n * heads.heads];
    attention(heads, rows, keys.as_ref(), &q, &k, &v, &mut out, &mut lse);
    let y = CpuTensor::new(out, heads.query());
    if let (Some(dq_sum), Some(dk_sum)) = gradients {
        let (plan, out) = (plan.clone(), y.clone());
        ops.on_backward(move || {
            // The backward pass computes the scores again.
            let _timer = timer("attention, backward", flops / 2 * 5, 2 * elements);
            let dy = out.gradient().take(out.len());
            let forward = Forward { q: &q, k: &k, v: &v, out: &out, lse: &lse };
            let (mut dq, mut dk, mut dv) = (Buffer::unset(q.len()), Buffer::zeros(k.len()), Buffer::zeros(v.len()));
            let WithinRows { rows, rope, keys, .. } = plan;
            attention_backward(heads, &rows, keys.as_ref(), &forward, &dy, &mut dq, &mut dk, &mut dv);
            if let Some(rope) = rope {
                for_tokens(&mut dq, &rows, heads.query(), &rope, RopeTable::rotate_back);
                for_tokens(&mut dk, &rows, heads.key(), &rope, RopeTable::rotate_back);
            }
            dq_sum.add(Rc::new(dq));
            dk_sum.add(Rc::new(dk));
            v.gradient().add(Rc::new(dv));
        });
    }
    y
}

fn step(
    ops: &mut CpuOps,
    layer: usize,
    [q, k, v]: [CpuTensor; 3],
    (heads, window): (Heads, Option<usize>),
    rope: &RopeTable,
) -> CpuTensor {
    let (query, key) = (heads.query(), heads.key());
    let mut out = Buffer::unset(q.len());
    let (mut q, mut k) = (q.into_values(), k.into_values());
    let tokens = q.chunks_exact_mut(query).zip(k.chunks_exact_mut(key));
    for ((q, k), cache) in tokens.zip(&ops.caches) {
        rope.rotate(q, cache.position());
        rope.rotate(k, cache.position());
    }
    let mut first = 0;
    for sequences in ops.caches.chunk_by_mut(|one, next| Arc::ptr_eq(&one.prompt, &next.prompt)) {
        let Range { start, end } = first..first + sequences.len();
        let inputs = StepInputs {
            queries: &q[start * query..end * query],
            keys: &k[start * key..end * key],
            values: &v[start * key..end * key],
        };
        decode_attention(
            sequences,
            layer,
            (heads, window),
            &inputs,
            &mut out[start * query..end * query],
            &mut ops.scratch,
        );
        first = end;
    }
    CpuTensor::new(out, query)
}

/// Calls `f` with the table, every token of `width` values and its position in the table.
fn for_tokens(
    values: &mut [f32],
    rows: &[Range<usize>],
    width: usize,
    rope: &Rotations,
    f: impl Fn(&RopeTable, &mut [f32], usize),
) {
    for row in rows {
        let tokens = values[row.start * width..row.end * width].chunks_exact_mut(width);
        for (at, token) in tokens.enumerate() {
            f(rope.table(), token, rope.position(row.start, at));
        }
    }
}
