//! Attention with its rotary positions, forward and back.

use std::ops::Range;
use std::rc::Rc;
use std::sync::Arc;

use super::super::buffer::Buffer;
use super::super::kernels::attention::{Forward, Heads, attention, attention_backward};
use super::super::kernels::rope::RopeTable;
use super::super::profile::timer;
use super::Fused;
use super::value::Value;

/// What attention keeps: heads, rows, and the cosines and sines of every position.
pub(crate) struct Plan {
    heads: Heads,
    rows: Arc<[Range<usize>]>,
    turns: Option<Arc<RopeTable>>,
}

impl Plan {
    pub(super) fn new(heads: Heads, rows: &[Range<usize>], turns: Option<&Arc<RopeTable>>) -> Plan {
        Plan { heads, rows: rows.into(), turns: turns.cloned() }
    }
}

/// Queries (n, h w), keys and values (n, k w) -> (n, h w).
pub(super) fn attend(fused: &mut Fused, q: Value, k: Value, v: Value, plan: &Plan) -> Value {
    let Plan { heads, rows, turns } = plan;
    let heads = *heads;
    let n = q.rows();
    let seen = |row: &Range<usize>| if heads.causal { row.len() * (row.len() + 1) / 2 } else { row.len().pow(2) };
    let flops = 4 * rows.iter().map(seen).sum::<usize>() * heads.query();
    let numbers = 2 * n * (heads.query() + heads.key());
    let _timer = timer("attention", flops, numbers);
    let (to_q, to_k) = (q.gradient(), k.gradient());
    // Turned where they are: a backward pass needs them so, too.
    let turned = |x: Value, width: usize| {
        let mut x = x.into_numbers();
        if let Some(turns) = turns {
            for_tokens(&mut x, rows, width, |token, position| turns.rotate(token, position));
        }
        x
    };
    let (q, k) = (turned(q, heads.query()), turned(k, heads.key()));
    let mut out = Buffer::unset(n * heads.query());
    let mut lse = vec![0.0; n * heads.heads];
    attention(heads, rows, &q, &k, &v, &mut out, &mut lse);
    let y = Value::new(out, heads.query());
    if fused.recording {
        let (rows, turns, out) = (rows.clone(), turns.clone(), y.clone());
        fused.then(move || {
            // The scores are computed again.
            let _timer = timer("attention, back", flops / 2 * 5, 2 * numbers);
            let dy = out.gradient().take(out.len());
            let forward = Forward { q: &q, k: &k, v: &v, out: &out, lse: &lse };
            let (mut dq, mut dk, mut dv) = (Buffer::unset(q.len()), Buffer::zeros(k.len()), Buffer::zeros(v.len()));
            attention_backward(heads, &rows, &forward, &dy, &mut dq, &mut dk, &mut dv);
            if let Some(turns) = turns {
                for_tokens(&mut dq, &rows, heads.query(), |token, position| turns.rotate_back(token, position));
                for_tokens(&mut dk, &rows, heads.key(), |token, position| turns.rotate_back(token, position));
            }
            to_q.put(Rc::new(dq));
            to_k.put(Rc::new(dk));
            v.gradient().put(Rc::new(dv));
        });
    }
    y
}

/// Calls `f` with every token of `width` numbers and its position in its row.
fn for_tokens(values: &mut [f32], rows: &[Range<usize>], width: usize, f: impl Fn(&mut [f32], usize)) {
    for row in rows {
        let tokens = values[row.start * width..row.end * width].chunks_exact_mut(width);
        for (position, token) in tokens.enumerate() {
            f(token, position);
        }
    }
}
