//! The operations on the CPU with a kernel each: forward, then a backward operation on dfdx's tape, which runs them in
//! reverse. Rows of a batch may differ in length.

use std::ops::Range;
use std::rc::Rc;
use std::sync::Arc;

use anyhow::Result;
use dfdx::prelude::*;

use super::architecture::Activation;
use super::buffer::Buffer;
use super::gradients::Part;
use super::kernels::attention::Heads;
use super::kernels::elementwise as kernel;
use super::kernels::fused_cross_entropy;
use super::kernels::layer_norm::{layer_norm, layer_norm_backward, layer_norm_weight_backward};
use super::kernels::matmul::{Accumulate, MatrixView, matmul};
use super::kernels::rope::RopeTable;
use super::kernels::weight::Weight;
use super::loader::Held;
use super::ops::{Factor, Ops, Param, Source, Taped, Vector, device_error};
use super::profile::timer;
use super::shared::{Shared, Table};

/// Operations with a tape that fills while they record. Gradients of weights go to the part's sum, all others stay with
/// their values.
#[derive(Default)]
pub(crate) struct Fused {
    tape: OwnedTape<f32, Cpu>,
    part: Option<Part>,
    additions: Additions,
    recording: bool,
}

mod additions;
mod attention;
mod rows;
mod value;

use additions::{Additions, Learning};
use attention::Plan;
use value::Value;

impl Fused {
    /// Where the gradient of a parameter goes, if it learns and a backward pass will come.
    fn learning<W>(&self, parameter: &Param<W>) -> Option<Learning> {
        let part = self.part.clone().filter(|_| self.recording && parameter.learns)?;
        Some(Learning { part, number: parameter.number, additions: self.additions.clone() })
    }

    fn then(&mut self, backward: impl FnOnce() + 'static) {
        self.tape.add_backward_op(move |_| {
            backward();
            Ok(())
        });
    }
}

impl Ops for Fused {
    type Place = Shared;
    type X = Value;
    type Plan = Plan;

    const PADDED: bool = false;

    fn record(&mut self, on: bool) {
        self.recording = on;
    }

    fn rows(&self, x: &Value) -> usize {
        x.rows()
    }

    fn input(&mut self, values: Vec<f32>, width: usize) -> Result<Value> {
        Ok(Value::new(Buffer::copy(&values), width))
    }

    fn plan(&mut self, heads: Heads, rows: &[Range<usize>], turns: Option<&Arc<RopeTable>>) -> Result<Plan> {
        Ok(Plan::new(heads, rows, turns))
    }

    fn lookup(&mut self, table: &Param<Table>, indices: &[usize]) -> Result<Value> {
        Ok(rows::lookup(self, table, indices))
    }

    fn select(&mut self, x: &Value, indices: &[usize]) -> Result<Value> {
        Ok(rows::select(self, x, indices))
    }

    fn splice(
        &mut self,
        table: &Param<Table>,
        features: Option<&Value>,
        newline: Option<&Param<Arc<Vec<f32>>>>,
        sources: &[Source],
    ) -> Result<Value> {
        Ok(rows::splice(self, table, features, newline, sources))
    }

    fn rms_norm(&mut self, x: &Value, weight: &Param<Arc<Vec<f32>>>, eps: f32) -> Result<Value> {
        let (count, d) = (x.len(), weight.value.len());
        let _timer = timer("norm", 0, 2 * count);
        let (mut y, mut inverse) = (Buffer::unset(count), vec![0.0; count / d]);
        kernel::rms_norm(x, &weight.value, eps, &mut y, &mut inverse);
        let y = Value::new(y, x.width());
        if self.recording {
            let (x, output, learning, weight) = (x.clone(), y.gradient(), self.learning(weight), weight.value.clone());
            self.then(move || {
                let dy = output.take(count);
                let clock = timer("norm, back", 0, 6 * count);
                x.gradient().add(count, |dx| kernel::rms_norm_backward(&x, &weight, &inverse, &dy, dx));
                drop(clock);
                if let Some(learning) = learning {
                    learning.add(move |sum| kernel::rms_norm_weight_backward(&x, &inverse, &dy, sum));
                }
            });
        }
        Ok(y)
    }

    fn layer_norm(
        &mut self,
        x: &Value,
        weight: &Param<Arc<Vec<f32>>>,
        bias: &Param<Arc<Vec<f32>>>,
        eps: f32,
    ) -> Result<Value> {
        let (count, d) = (x.len(), x.width());
        let _timer = timer("norm", 0, 2 * count);
        let (mut y, mut moments) = (Buffer::unset(count), vec![(0.0, 0.0); x.rows()]);
        layer_norm(x, &weight.value, &bias.value, eps, &mut y, &mut moments);
        let y = Value::new(y, d);
        if self.recording {
            let (x, output, bias) = (x.clone(), y.gradient(), self.learning(bias));
            let (learning, weight) = (self.learning(weight), weight.value.clone());
            self.then(move || {
                let dy = output.take(count);
                let clock = timer("norm, back", 0, 6 * count);
                x.gradient().add(count, |dx| layer_norm_backward(&x, &weight, &moments, &dy, dx));
                drop(clock);
                if let Some(bias) = bias {
                    let dy = dy.clone();
                    bias.add(move |sum| kernel::add_rows(sum, &dy));
                }
                if let Some(learning) = learning {
                    learning.add(move |sum| layer_norm_weight_backward(&x, &moments, &dy, sum));
                }
            });
        }
        Ok(y)
    }

    fn linear(&mut self, x: &Value, weight: &Param<Arc<Weight>>, bias: Option<&Param<Arc<Vec<f32>>>>) -> Result<Value> {
        let (m, n, k) = (x.rows(), weight.value.outputs(), weight.value.inputs());
        let _timer = weight.value.timer("linear", m);
        let mut y = Buffer::unset(m * n);
        weight.value.forward(x, &mut y);
        if let Some(bias) = bias {
            kernel::add_bias(&mut y, &bias.value);
        }
        let y = Value::new(y, n);
        if self.recording {
            let (x, output, bias) = (x.clone(), y.gradient(), bias.and_then(|bias| self.learning(bias)));
            let (learning, weight) = (self.learning(weight), weight.value.clone());
            self.then(move || {
                let dy = output.take(m * n);
                let clock = weight.timer("linear, back to input", m);
                x.gradient().receive(m * k, |dx, into| weight.backward(&dy, dx, into));
                drop(clock);
                if let Some(bias) = bias {
                    let dy = dy.clone();
                    bias.add(move |sum| kernel::add_rows(sum, &dy));
                }
                if let Some(learning) = learning {
                    learning.add_product(move |sum, into| {
                        let _timer = weight.timer("linear, back to weight", m);
                        matmul(n, k, m, MatrixView::transposed(&dy, n), MatrixView::row_major(&x, k), sum, k, into);
                    });
                }
            });
        }
        Ok(y)
    }

    fn add(&mut self, a: &Value, b: &Value) -> Result<Value> {
        let count = a.len();
        let _timer = timer("add", 0, 3 * count);
        let mut y = Buffer::unset(count);
        kernel::add(a, b, &mut y);
        let y = Value::new(y, a.width());
        if self.recording {
            let (a, b, output) = (a.gradient(), b.gradient(), y.gradient());
            self.then(move || {
                let _timer = timer("add, back", 0, 3 * count);
                let dy = output.take(count);
                a.put(dy.clone());
                b.put(dy);
            });
        }
        Ok(y)
    }

    fn scale(&mut self, x: &Value, factor: Factor) -> Result<Value> {
        let mut y = Buffer::copy(x);
        factor.multiply(&mut y);
        let y = Value::new(y, x.width());
        if self.recording {
            let (x, output, count) = (x.gradient(), y.gradient(), y.len());
            self.then(move || {
                let mut dy = output.take_numbers(count);
                factor.multiply(&mut dy);
                x.put(Rc::new(dy));
            });
        }
        Ok(y)
    }

    fn beside(&mut self, parts: &[Value]) -> Result<Value> {
        Ok(rows::beside(self, parts))
    }

    fn attention(&mut self, _: usize, q: Value, k: Value, v: Value, plan: &Plan) -> Result<Value> {
        Ok(attention::attend(self, q, k, v, plan))
    }

    fn swiglu(&mut self, gate: &Value, up: &Value) -> Result<Value> {
        let count = gate.len();
        let _timer = timer("swiglu", 0, 3 * count);
        let mut y = Buffer::unset(count);
        kernel::swiglu(gate, up, &mut y);
        let y = Value::new(y, gate.width());
        if self.recording {
            let (gate, up, output) = (gate.clone(), up.clone(), y.gradient());
            self.then(move || {
                let mut dy = output.take_numbers(count);
                let _timer = timer("swiglu, back", 0, 5 * count);
                let mut dup = Buffer::unset(count);
                kernel::swiglu_backward(&gate, &up, &mut dy, &mut dup);
                gate.gradient().put(Rc::new(dy));
                up.gradient().put(Rc::new(dup));
            });
        }
        Ok(y)
    }

    fn activate(&mut self, x: &Value, activation: Activation) -> Result<Value> {
        let count = x.len();
        let _timer = timer("activation", 0, 2 * count);
        let mut y = Buffer::unset(count);
        kernel::activate(activation, x, &mut y);
        let y = Value::new(y, x.width());
        if self.recording {
            let (x, output) = (x.clone(), y.gradient());
            self.then(move || {
                let _timer = timer("activation, back", 0, 3 * count);
                let mut dy = output.take_numbers(count);
                kernel::activate_backward(activation, &x, &mut dy);
                x.gradient().put(Rc::new(dy));
            });
        }
        Ok(y)
    }
}

impl Taped for Fused {
    type D = Cpu;

    fn new(_: &Shared, part: Option<Part>) -> Fused {
        Fused { part, ..Fused::default() }
    }

    fn log_probs(&mut self, x: &Value, weight: &Param<Arc<Weight>>, targets: &[u32]) -> Result<Vector<Cpu>> {
        let d = x.width();
        let (n, v) = (targets.len(), weight.value.outputs());
        let kept = self.recording && fused_cross_entropy::keeps(n, v);
        let mut table = Buffer::unset(if kept { n * v } else { fused_cross_entropy::chunk_size(n, v) });
        let fused_cross_entropy::LogProbs { values, sums } =
            fused_cross_entropy::log_probs(x, &weight.value, targets, &mut table);
        let y: Vector<Cpu> = Cpu::default().try_tensor_from_vec(values, (n,)).map_err(device_error)?;
        if self.recording {
            let (x, output, targets) = (x.clone(), y.ghost(), targets.to_vec());
            let table = kept.then_some(table);
            let mut learning = self
                .learning(weight)
                .map(|learning| Learning { number: learning.part.head(learning.number), ..learning });
            let weight = weight.value.clone();
            self.tape.add_backward_op(move |gradients| {
                let dy = gradients.get_or_alloc_mut(&output)?;
                let mut table = table.unwrap_or_else(|| Buffer::unset(fused_cross_entropy::chunk_size(n, v)));
                x.gradient().receive(n * d, |dx, into| {
                    let mut back = |dweight: Option<(&mut [f32], Accumulate)>| {
                        let (table, dx) = ((&mut table[..], kept), (&mut *dx, into));
                        fused_cross_entropy::log_probs_backward(table, &sums, &x, &weight, &targets, dy, dx, dweight);
                    };
                    // A table that is not kept is computed once for both gradients.
                    let at_once = learning.take_if(|_| !kept);
                    if !at_once.is_some_and(|learning| learning.add_at_once(|sum, into| back(Some((sum, into))))) {
                        back(None);
                    }
                });
                if let Some(learning) = learning {
                    learning.add_product(move |sum, into| {
                        fused_cross_entropy::weight_backward(&table, &x, &weight, sum, into);
                    });
                }
                Ok(())
            });
        }
        Ok(y)
    }

    fn backward(self, output: &Vector<Cpu>, derivative: Vec<f32>, _: &[Option<Held<Shared>>]) -> Result<()> {
        super::ops::backward(self.tape, output, derivative)?;
        self.additions.run(0);
        Ok(())
    }

    #[cfg(test)]
    fn numbers(x: &Value) -> Vec<f32> {
        x.to_vec()
    }
}
