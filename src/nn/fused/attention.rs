//! Attention with its rotary positions, forward and back.

use std::ops::Range;
use std::sync::Arc;

use anyhow::Result;
use dfdx::prelude::*;

use super::super::kernels::attention::{Forward, Heads, attention, attention_backward};
use super::super::kernels::rotary::Turns;
use super::super::ops::Matrix;
use super::super::profile::timer;
use super::super::raw::slice;
use super::{Fused, matrix};

/// What attention keeps: heads, rows, and the cosines and sines of every position.
pub(crate) struct Plan {
    heads: Heads,
    rows: Arc<[Range<usize>]>,
    turns: Option<Arc<Turns>>,
}

impl Plan {
    pub(super) fn new(heads: Heads, rows: &[Range<usize>], turns: Option<&Arc<Turns>>) -> Plan {
        Plan { heads, rows: rows.into(), turns: turns.cloned() }
    }
}

/// Queries (n, h w), keys and values (n, k w) -> (n, h w).
pub(super) fn attend(
    fused: &mut Fused,
    q: Matrix<Cpu>,
    k: Matrix<Cpu>,
    v: Matrix<Cpu>,
    plan: &Plan,
) -> Result<Matrix<Cpu>> {
    let Plan { heads, rows, turns } = plan;
    let heads = *heads;
    let n = q.shape().0;
    let seen = |row: &Range<usize>| if heads.causal { row.len() * (row.len() + 1) / 2 } else { row.len().pow(2) };
    let flops = 4 * rows.iter().map(seen).sum::<usize>() * heads.query();
    let numbers = 2 * n * (heads.query() + heads.key());
    let _timer = timer("attention", flops, numbers);
    let (q_ghost, k_ghost, v_ghost) = (q.ghost(), k.ghost(), v.ghost());
    let turned = |x: Matrix<Cpu>, width: usize| {
        let mut values = slice(&x).to_vec();
        if let Some(turns) = turns {
            for_tokens(&mut values, rows, width, |token, position| turns.turn(token, position));
        }
        values
    };
    // What came in is let go of: a backward pass needs it turned.
    let (q, k) = (turned(q, heads.query()), turned(k, heads.key()));
    let mut out = vec![0.0; n * heads.query()];
    let mut log_sums = vec![0.0; n * heads.heads];
    attention(heads, rows, &q, &k, slice(&v), &mut out, &mut log_sums);
    let y = matrix(out, heads.query())?;
    if fused.recording {
        let (rows, turns, out) = (rows.clone(), turns.clone(), y.clone());
        fused.then(move |gradients| {
            // The scores are computed again.
            let _timer = timer("attention, back", flops / 2 * 5, 2 * numbers);
            let dy = take!(gradients, out);
            let mut dv = take!(gradients, v_ghost);
            let forward = Forward { q: &q, k: &k, v: slice(&v), out: slice(&out), log_sums: &log_sums };
            // Attention is all that queries and keys are for, so no gradient has come to them yet.
            let (mut dq, mut dk) = (take!(gradients, q_ghost), take!(gradients, k_ghost));
            attention_backward(heads, &rows, &forward, &dy, &mut dq, &mut dk, &mut dv);
            if let Some(turns) = turns {
                for_tokens(&mut dq, &rows, heads.query(), |token, position| turns.turn_back(token, position));
                for_tokens(&mut dk, &rows, heads.key(), |token, position| turns.turn_back(token, position));
            }
            put!(gradients, q_ghost, dq);
            put!(gradients, k_ghost, dk);
            put!(gradients, v_ghost, dv);
            Ok(())
        });
    }
    Ok(y)
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
