//! The operations on the CPU with a kernel each, through dfdx's public tape: forward on slices, then a backward
//! operation that finds its gradients by the tensors' identities. Rows of a batch may differ in length.

use std::ops::Range;
use std::sync::Arc;

use dfdx::prelude::*;

use super::kernels::attention::{Forward, Heads, attention, attention_backward};
use super::kernels::elementwise as kernel;
use super::kernels::elementwise::Rotary;
use super::kernels::head;
use super::kernels::matmul::{Into, View, matmul};
use super::ops::{Fallible, Matrix, Ops, Source, Vector};
use super::raw::slice;

pub(crate) struct Fused;

/// Takes the gradient of a tensor (or of its ghost) out of the map; it is zeros if none has arrived. An output's is
/// read once and freed this way. A macro, since dfdx does not export the trait that both are.
macro_rules! take {
    ($gradients:ident, $tensor:ident) => {
        std::mem::take(&mut **$gradients.get_or_alloc_mut(&$tensor)?)
    };
}

/// Puts a gradient back that was taken out to be added to.
macro_rules! put {
    ($gradients:ident, $tensor:ident, $gradient:ident) => {
        **$gradients.get_or_alloc_mut(&$tensor)? = $gradient
    };
}

/// What attention keeps: heads, rows, and the cosines and sines of every token's position.
pub(crate) struct Plan {
    heads: Heads,
    rows: Arc<[Range<usize>]>,
    rotary: Option<Arc<Rotary>>,
}

impl Ops<Cpu> for Fused {
    const PADDED: bool = false;

    type Plan = Plan;

    fn plan(_: &Cpu, heads: Heads, rows: &[Range<usize>], rotary: Option<&Rotary>) -> Fallible<Plan, Cpu> {
        let rotary = rotary.map(|rotary| {
            let positions = rows.iter().map(Range::len).max().unwrap_or(0) * rotary.half;
            let table = |values: &[f32]| values[..positions].to_vec();
            Arc::new(Rotary { half: rotary.half, cos: table(&rotary.cos), sin: table(&rotary.sin) })
        });
        Ok(Plan { heads, rows: rows.into(), rotary })
    }

    fn gather<T: Tape<f32, Cpu>>(table: Matrix<Cpu, T>, indices: &[usize]) -> Fallible<Matrix<Cpu, T>, Cpu> {
        let (table, mut tape) = table.split_tape();
        let d = table.shape().1;
        let values = slice(&table);
        let y: Vec<f32> = indices.iter().flat_map(|&i| &values[i * d..(i + 1) * d]).copied().collect();
        let y = table.device().try_tensor_from_vec(y, (indices.len(), d))?;
        if T::OWNS_TAPE {
            let (table, output, indices) = (table.ghost(), y.ghost(), indices.to_vec());
            tape.add_backward_op(move |gradients| {
                let dy = take!(gradients, output);
                let dtable = gradients.get_or_alloc_mut(&table)?;
                for (&i, dy) in indices.iter().zip(dy.chunks_exact(d)) {
                    kernel::accumulate(&mut dtable[i * d..(i + 1) * d], dy);
                }
                Ok(())
            });
        }
        Ok(y.put_tape(tape))
    }

    fn splice<T: Tape<f32, Cpu>>(
        table: Matrix<Cpu, T>,
        features: Option<Matrix<Cpu, T>>,
        sources: &[Source],
    ) -> Fallible<Matrix<Cpu, T>, Cpu> {
        let (table, mut tape) = table.split_tape();
        let features = features.map(|features| {
            let (features, more) = features.split_tape();
            tape = std::mem::take(&mut tape).merge(more);
            features
        });
        let d = table.shape().1;
        let rows = (slice(&table), features.as_ref().map_or(&[][..], |features| slice(features)));
        let mut y = Vec::with_capacity(sources.len() * d);
        for source in sources {
            y.extend_from_slice(match *source {
                Source::Token(id) => &rows.0[id as usize * d..][..d],
                Source::Feature(row) => &rows.1[row * d..][..d],
            });
        }
        let y = table.device().try_tensor_from_vec(y, (sources.len(), d))?;
        if T::OWNS_TAPE {
            let (table, features, output) = (table.ghost(), features.map(|features| features.ghost()), y.ghost());
            let sources = sources.to_vec();
            tape.add_backward_op(move |gradients| {
                let dy = take!(gradients, output);
                let dtable = gradients.get_or_alloc_mut(&table)?;
                for (source, dy) in sources.iter().zip(dy.chunks_exact(d)) {
                    if let Source::Token(id) = *source {
                        kernel::accumulate(&mut dtable[id as usize * d..][..d], dy);
                    }
                }
                let Some(features) = features else { return Ok(()) };
                let dfeatures = gradients.get_or_alloc_mut(&features)?;
                for (source, dy) in sources.iter().zip(dy.chunks_exact(d)) {
                    if let Source::Feature(row) = *source {
                        kernel::accumulate(&mut dfeatures[row * d..][..d], dy);
                    }
                }
                Ok(())
            });
        }
        Ok(y.put_tape(tape))
    }

    fn rms_norm<T: Tape<f32, Cpu>>(x: Matrix<Cpu, T>, weight: &Vector<Cpu>, eps: f32) -> Fallible<Matrix<Cpu, T>, Cpu> {
        let (x, mut tape) = x.split_tape();
        let (n, d) = *x.shape();
        let (mut y, mut inverse) = (vec![0.0; n * d], vec![0.0; n]);
        kernel::rms_norm(slice(&x), slice(weight), eps, &mut y, &mut inverse);
        let y = x.device().try_tensor_from_vec(y, (n, d))?;
        if T::OWNS_TAPE {
            let (weight, output) = (weight.clone(), y.ghost());
            tape.add_backward_op(move |gradients| {
                let dy = take!(gradients, output);
                let mut dx = take!(gradients, x);
                let dweight = gradients.get_or_alloc_mut(&weight)?;
                kernel::rms_norm_backward(slice(&x), slice(&weight), &inverse, &dy, &mut dx, dweight);
                put!(gradients, x, dx);
                Ok(())
            });
        }
        Ok(y.put_tape(tape))
    }

    fn linear<T: Tape<f32, Cpu>>(x: Matrix<Cpu, T>, weight: &Matrix<Cpu>) -> Fallible<Matrix<Cpu, T>, Cpu> {
        let (x, mut tape) = x.split_tape();
        let (m, k) = *x.shape();
        let n = weight.shape().0;
        let mut y = vec![0.0; m * n];
        matmul(m, n, k, View::rows(slice(&x), k), View::transposed(slice(weight), k), &mut y, n, Into::Replace);
        let y = x.device().try_tensor_from_vec(y, (m, n))?;
        if T::OWNS_TAPE {
            let (weight, output) = (weight.clone(), y.ghost());
            tape.add_backward_op(move |gradients| {
                let dy = take!(gradients, output);
                let dx = gradients.get_or_alloc_mut(&x)?;
                matmul(m, k, n, View::rows(&dy, n), View::rows(slice(&weight), k), dx, k, Into::Add);
                let dweight = gradients.get_or_alloc_mut(&weight)?;
                matmul(n, k, m, View::transposed(&dy, n), View::rows(slice(&x), k), dweight, k, Into::Add);
                Ok(())
            });
        }
        Ok(y.put_tape(tape))
    }

    fn add<T: Tape<f32, Cpu>>(a: Matrix<Cpu, T>, b: Matrix<Cpu, T>) -> Fallible<Matrix<Cpu, T>, Cpu> {
        let ((a, tape), (b, more)) = (a.split_tape(), b.split_tape());
        let mut tape = tape.merge(more);
        let mut y = vec![0.0; a.shape().num_elements()];
        kernel::add(slice(&a), slice(&b), &mut y);
        let y = a.device().try_tensor_from_vec(y, *a.shape())?;
        if T::OWNS_TAPE {
            let (a, b, output) = (a.ghost(), b.ghost(), y.ghost());
            tape.add_backward_op(move |gradients| {
                let dy = take!(gradients, output);
                kernel::accumulate(gradients.get_or_alloc_mut(&a)?, &dy);
                kernel::accumulate(gradients.get_or_alloc_mut(&b)?, &dy);
                Ok(())
            });
        }
        Ok(y.put_tape(tape))
    }

    fn attention<T: Tape<f32, Cpu>>(
        q: Matrix<Cpu, T>,
        k: Matrix<Cpu, T>,
        v: Matrix<Cpu, T>,
        plan: &Plan,
    ) -> Fallible<Matrix<Cpu, T>, Cpu> {
        let ((q, tape), (k, more), (v, most)) = (q.split_tape(), k.split_tape(), v.split_tape());
        let mut tape = tape.merge(more).merge(most);
        let Plan { heads, rows, rotary } = plan;
        let heads = *heads;
        let n = q.shape().0;
        let (q_turned, k_turned) = match rotary {
            None => (None, None),
            Some(rotary) => {
                let turned = |values: &[f32], width: usize| {
                    let mut values = values.to_vec();
                    for_tokens(&mut values, rows, width, |token, position| rotary.turn(token, position));
                    Some(values)
                };
                (turned(slice(&q), heads.query()), turned(slice(&k), heads.key()))
            }
        };
        let mut out = vec![0.0; n * heads.query()];
        let mut log_sums = vec![0.0; n * heads.heads];
        let (q_values, k_values) = (q_turned.as_deref(), k_turned.as_deref());
        let (q_values, k_values) = (q_values.unwrap_or(slice(&q)), k_values.unwrap_or(slice(&k)));
        attention(heads, rows, q_values, k_values, slice(&v), &mut out, &mut log_sums);
        let y = q.device().try_tensor_from_vec(out, (n, heads.query()))?;
        if T::OWNS_TAPE {
            let (rows, rotary, out) = (rows.clone(), rotary.clone(), y.clone());
            tape.add_backward_op(move |gradients| {
                let dy = take!(gradients, out);
                let mut dv = take!(gradients, v);
                let forward = Forward {
                    q: q_turned.as_deref().unwrap_or(slice(&q)),
                    k: k_turned.as_deref().unwrap_or(slice(&k)),
                    v: slice(&v),
                    out: slice(&out),
                    log_sums: &log_sums,
                };
                let (mut dq, mut dk) = (vec![0.0; n * heads.query()], vec![0.0; n * heads.key()]);
                attention_backward(heads, &rows, &forward, &dy, &mut dq, &mut dk, &mut dv);
                put!(gradients, v, dv);
                if let Some(rotary) = rotary {
                    for_tokens(&mut dq, &rows, heads.query(), |token, position| rotary.turn_back(token, position));
                    for_tokens(&mut dk, &rows, heads.key(), |token, position| rotary.turn_back(token, position));
                }
                kernel::accumulate(gradients.get_or_alloc_mut(&q)?, &dq);
                kernel::accumulate(gradients.get_or_alloc_mut(&k)?, &dk);
                Ok(())
            });
        }
        Ok(y.put_tape(tape))
    }

    fn swiglu<T: Tape<f32, Cpu>>(gate: Matrix<Cpu, T>, up: Matrix<Cpu, T>) -> Fallible<Matrix<Cpu, T>, Cpu> {
        let ((gate, tape), (up, more)) = (gate.split_tape(), up.split_tape());
        let mut tape = tape.merge(more);
        let mut y = vec![0.0; gate.shape().num_elements()];
        kernel::swiglu(slice(&gate), slice(&up), &mut y);
        let y = gate.device().try_tensor_from_vec(y, *gate.shape())?;
        if T::OWNS_TAPE {
            let output = y.ghost();
            tape.add_backward_op(move |gradients| {
                let dy = take!(gradients, output);
                let mut dgate = take!(gradients, gate);
                let dup = gradients.get_or_alloc_mut(&up)?;
                kernel::swiglu_backward(slice(&gate), slice(&up), &dy, &mut dgate, dup);
                put!(gradients, gate, dgate);
                Ok(())
            });
        }
        Ok(y.put_tape(tape))
    }

    fn gelu<T: Tape<f32, Cpu>>(x: Matrix<Cpu, T>) -> Fallible<Matrix<Cpu, T>, Cpu> {
        let (x, mut tape) = x.split_tape();
        let mut y = vec![0.0; x.shape().num_elements()];
        kernel::gelu(slice(&x), &mut y);
        let y = x.device().try_tensor_from_vec(y, *x.shape())?;
        if T::OWNS_TAPE {
            let output = y.ghost();
            tape.add_backward_op(move |gradients| {
                let dy = take!(gradients, output);
                kernel::gelu_backward(slice(&x), &dy, gradients.get_or_alloc_mut(&x)?);
                Ok(())
            });
        }
        Ok(y.put_tape(tape))
    }

    fn log_probs<T: Tape<f32, Cpu>>(
        x: Matrix<Cpu, T>,
        weight: &Matrix<Cpu>,
        targets: &[u32],
    ) -> Fallible<Vector<Cpu, T>, Cpu> {
        let (x, mut tape) = x.split_tape();
        let d = x.shape().1;
        let mut forward = head::log_probs(slice(&x), slice(weight), targets, d, T::OWNS_TAPE);
        let y = x.device().try_tensor_from_vec(std::mem::take(&mut forward.values), (targets.len(),))?;
        if T::OWNS_TAPE {
            let (weight, output, targets) = (weight.clone(), y.ghost(), targets.to_vec());
            tape.add_backward_op(move |gradients| {
                let dy = take!(gradients, output);
                let mut dx = take!(gradients, x);
                let dweight = gradients.get_or_alloc_mut(&weight)?;
                head::log_probs_backward(forward, slice(&x), slice(&weight), &targets, d, &dy, &mut dx, dweight);
                put!(gradients, x, dx);
                Ok(())
            });
        }
        Ok(y.put_tape(tape))
    }

    fn gradient<S: Shape>(
        gradients: &mut Gradients<f32, Cpu>,
        parameter: &Tensor<S, f32, Cpu>,
    ) -> Fallible<Vec<f32>, Cpu> {
        Ok(std::mem::take(&mut **gradients.get_or_alloc_mut(parameter)?))
    }
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
