//! The operations on the CPU with a kernel each, through dfdx's public tape: forward on slices, then a backward
//! operation that finds its gradients by the tensors' identities. Rows of a batch may differ in length.

use std::ops::Range;
use std::sync::Arc;

use anyhow::Result;
use dfdx::prelude::*;

use super::architecture::Activation;
use super::gradients::Part;
use super::kernels::attention::Heads;
use super::kernels::elementwise as kernel;
use super::kernels::head;
use super::kernels::layer_norm::{layer_norm, layer_norm_backward, layer_norm_weight_backward};
use super::kernels::matmul::{Into, View, matmul};
use super::kernels::rotary::Turns;
use super::loader::Held;
use super::ops::{Factor, Matrix, Ops, Param, Source, Taped, Vector, device_error};
use super::profile::timer;
use super::raw::slice;
use super::shared::{Shared, Weights};

/// Operations with a tape that fills while they record. Gradients of weights go to the part's sum, all others to the
/// tape's own.
#[derive(Default)]
pub(crate) struct Fused {
    tape: OwnedTape<f32, Cpu>,
    part: Option<Part>,
    recording: bool,
}

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

mod attention;
mod rows;

use attention::Plan;

impl Fused {
    /// Where the gradient of a parameter goes, if it learns and a backward pass will come.
    fn learning<W>(&self, parameter: &Param<W>) -> Option<Learning> {
        let part = self.part.clone().filter(|_| self.recording && parameter.learns)?;
        Some(Learning { part, number: parameter.number })
    }

    fn then(&mut self, backward: impl FnOnce(&mut Gradients<f32, Cpu>) -> Result<(), <Cpu as HasErr>::Err> + 'static) {
        self.tape.add_backward_op(backward);
    }
}

/// A parameter that learns, for a backward operation.
struct Learning {
    part: Part,
    number: usize,
}

impl Learning {
    fn add(self, add: impl FnOnce(&mut [f32])) {
        self.part.add(self.number, add);
    }

    fn add_product(self, add: impl FnOnce(&mut [f32], Into)) {
        self.part.add_product(self.number, add);
    }
}

fn matrix(values: Vec<f32>, width: usize) -> Result<Matrix<Cpu>> {
    let shape = (values.len() / width.max(1), width);
    Cpu::default().try_tensor_from_vec(values, shape).map_err(device_error)
}

impl Ops for Fused {
    type Place = Shared;
    type X = Matrix<Cpu>;
    type Plan = Plan;

    const PADDED: bool = false;

    fn record(&mut self, on: bool) {
        self.recording = on;
    }

    fn rows(&self, x: &Matrix<Cpu>) -> usize {
        x.shape().0
    }

    fn input(&mut self, values: Vec<f32>, width: usize) -> Result<Matrix<Cpu>> {
        matrix(values, width)
    }

    fn plan(&mut self, heads: Heads, rows: &[Range<usize>], turns: Option<&Arc<Turns>>) -> Result<Plan> {
        Ok(Plan::new(heads, rows, turns))
    }

    fn lookup(&mut self, table: &Param<Weights>, indices: &[usize]) -> Result<Matrix<Cpu>> {
        rows::lookup(self, table, indices)
    }

    fn select(&mut self, x: &Matrix<Cpu>, indices: &[usize]) -> Result<Matrix<Cpu>> {
        rows::select(self, x, indices)
    }

    fn splice(
        &mut self,
        table: &Param<Weights>,
        features: Option<&Matrix<Cpu>>,
        newline: Option<&Param<Arc<Vec<f32>>>>,
        sources: &[Source],
    ) -> Result<Matrix<Cpu>> {
        rows::splice(self, table, features, newline, sources)
    }

    fn rms_norm(&mut self, x: &Matrix<Cpu>, weight: &Param<Arc<Vec<f32>>>, eps: f32) -> Result<Matrix<Cpu>> {
        let (count, d) = (x.shape().num_elements(), weight.value.len());
        let _timer = timer("norm", 0, 2 * count);
        let (mut y, mut inverse) = (vec![0.0; count], vec![0.0; count / d]);
        kernel::rms_norm(slice(x), &weight.value, eps, &mut y, &mut inverse);
        let y = matrix(y, x.shape().1)?;
        if self.recording {
            let (x, output, learning, weight) = (x.clone(), y.ghost(), self.learning(weight), weight.value.clone());
            self.then(move |gradients| {
                let dy = take!(gradients, output);
                let _timer = timer("norm, back", 0, 6 * count);
                let dx = gradients.get_or_alloc_mut(&x)?;
                kernel::rms_norm_backward(slice(&x), &weight, &inverse, &dy, dx);
                if let Some(learning) = learning {
                    learning.add(|sum| kernel::rms_norm_weight_backward(slice(&x), &inverse, &dy, sum));
                }
                Ok(())
            });
        }
        Ok(y)
    }

    fn layer_norm(
        &mut self,
        x: &Matrix<Cpu>,
        weight: &Param<Arc<Vec<f32>>>,
        bias: &Param<Arc<Vec<f32>>>,
        eps: f32,
    ) -> Result<Matrix<Cpu>> {
        let (n, d) = *x.shape();
        let _timer = timer("norm", 0, 2 * n * d);
        let (mut y, mut moments) = (vec![0.0; n * d], vec![(0.0, 0.0); n]);
        layer_norm(slice(x), &weight.value, &bias.value, eps, &mut y, &mut moments);
        let y = matrix(y, d)?;
        if self.recording {
            let (x, output, bias) = (x.clone(), y.ghost(), self.learning(bias));
            let (learning, weight) = (self.learning(weight), weight.value.clone());
            self.then(move |gradients| {
                let _timer = timer("norm, back", 0, 6 * n * d);
                let dy = take!(gradients, output);
                layer_norm_backward(slice(&x), &weight, &moments, &dy, gradients.get_or_alloc_mut(&x)?);
                if let Some(learning) = learning {
                    learning.add(|sum| layer_norm_weight_backward(slice(&x), &moments, &dy, sum));
                }
                if let Some(bias) = bias {
                    bias.add(|sum| kernel::add_rows(sum, &dy));
                }
                Ok(())
            });
        }
        Ok(y)
    }

    fn linear(
        &mut self,
        x: &Matrix<Cpu>,
        weight: &Param<Weights>,
        bias: Option<&Param<Arc<Vec<f32>>>>,
    ) -> Result<Matrix<Cpu>> {
        let Weights { ref values, rows: n, columns: k } = weight.value;
        let m = x.shape().0;
        let (flops, numbers) = (2 * m * n * k, m * k + k * n + m * n);
        let _timer = timer("linear", flops, numbers);
        let mut y = vec![0.0; m * n];
        matmul(m, n, k, View::rows(slice(x), k), View::transposed(values, k), &mut y, n, Into::Replace);
        if let Some(bias) = bias {
            kernel::add_bias(&mut y, &bias.value);
        }
        let y = matrix(y, n)?;
        if self.recording {
            let (x, output, bias) = (x.clone(), y.ghost(), bias.and_then(|bias| self.learning(bias)));
            let (learning, weight) = (self.learning(weight), values.clone());
            self.then(move |gradients| {
                let dy = take!(gradients, output);
                let clock = timer("linear, back to input", flops, numbers);
                let dx = gradients.get_or_alloc_mut(&x)?;
                matmul(m, k, n, View::rows(&dy, n), View::rows(&weight, k), dx, k, Into::Add);
                drop(clock);
                let _timer = timer("linear, back to weight", flops, numbers);
                if let Some(learning) = learning {
                    learning.add_product(|sum, into| {
                        matmul(n, k, m, View::transposed(&dy, n), View::rows(slice(&x), k), sum, k, into);
                    });
                }
                if let Some(bias) = bias {
                    bias.add(|sum| kernel::add_rows(sum, &dy));
                }
                Ok(())
            });
        }
        Ok(y)
    }

    fn add(&mut self, a: &Matrix<Cpu>, b: &Matrix<Cpu>) -> Result<Matrix<Cpu>> {
        let count = a.shape().num_elements();
        let _timer = timer("add", 0, 3 * count);
        let mut y = vec![0.0; count];
        kernel::add(slice(a), slice(b), &mut y);
        let y = matrix(y, a.shape().1)?;
        if self.recording {
            let (a, b, output) = (a.ghost(), b.ghost(), y.ghost());
            self.then(move |gradients| {
                let _timer = timer("add, back", 0, 6 * count);
                let dy = take!(gradients, output);
                kernel::accumulate(gradients.get_or_alloc_mut(&a)?, &dy);
                kernel::accumulate(gradients.get_or_alloc_mut(&b)?, &dy);
                Ok(())
            });
        }
        Ok(y)
    }

    fn scale(&mut self, x: &Matrix<Cpu>, factor: Factor) -> Result<Matrix<Cpu>> {
        let mut y = slice(x).to_vec();
        match &factor {
            Factor::All(factor) => kernel::scale(&mut y, *factor),
            Factor::Each(factors) => kernel::multiply(slice(x), factors, &mut y),
        }
        let y = matrix(y, x.shape().1)?;
        if self.recording {
            let (x, output) = (x.ghost(), y.ghost());
            self.then(move |gradients| {
                let dy = take!(gradients, output);
                let dx = gradients.get_or_alloc_mut(&x)?;
                match &factor {
                    Factor::All(factor) => kernel::accumulate_scaled(dx, &dy, *factor),
                    Factor::Each(factors) => kernel::accumulate_product(dx, &dy, factors),
                }
                Ok(())
            });
        }
        Ok(y)
    }

    fn beside(&mut self, parts: &[Matrix<Cpu>]) -> Result<Matrix<Cpu>> {
        rows::beside(self, parts)
    }

    fn attention(
        &mut self,
        _: usize,
        q: Matrix<Cpu>,
        k: Matrix<Cpu>,
        v: Matrix<Cpu>,
        plan: &Plan,
    ) -> Result<Matrix<Cpu>> {
        attention::attend(self, q, k, v, plan)
    }

    fn swiglu(&mut self, gate: &Matrix<Cpu>, up: &Matrix<Cpu>) -> Result<Matrix<Cpu>> {
        let count = gate.shape().num_elements();
        let _timer = timer("swiglu", 0, 3 * count);
        let mut y = vec![0.0; count];
        kernel::swiglu(slice(gate), slice(up), &mut y);
        let y = matrix(y, gate.shape().1)?;
        if self.recording {
            let (gate, up, output) = (gate.clone(), up.clone(), y.ghost());
            self.then(move |gradients| {
                let dy = take!(gradients, output);
                let _timer = timer("swiglu, back", 0, 7 * count);
                let mut dgate = take!(gradients, gate);
                let dup = gradients.get_or_alloc_mut(&up)?;
                kernel::swiglu_backward(slice(&gate), slice(&up), &dy, &mut dgate, dup);
                put!(gradients, gate, dgate);
                Ok(())
            });
        }
        Ok(y)
    }

    fn activate(&mut self, x: &Matrix<Cpu>, activation: Activation) -> Result<Matrix<Cpu>> {
        let count = x.shape().num_elements();
        let _timer = timer("activation", 0, 2 * count);
        let mut y = vec![0.0; count];
        kernel::activate(activation, slice(x), &mut y);
        let y = matrix(y, x.shape().1)?;
        if self.recording {
            let (x, output) = (x.clone(), y.ghost());
            self.then(move |gradients| {
                let _timer = timer("activation, back", 0, 4 * count);
                let dy = take!(gradients, output);
                kernel::activate_backward(activation, slice(&x), &dy, gradients.get_or_alloc_mut(&x)?);
                Ok(())
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

    fn log_probs(&mut self, x: &Matrix<Cpu>, weight: &Param<Weights>, targets: &[u32]) -> Result<Vector<Cpu>> {
        let d = x.shape().1;
        let (n, v) = (targets.len(), weight.value.rows);
        let (flops, numbers) = (2 * n * d * v, n * d + d * v + n * v);
        let _timer = timer("head", flops, numbers);
        let mut forward = head::log_probs(slice(x), &weight.value.values, targets, d, self.recording);
        let values = std::mem::take(&mut forward.values);
        let y: Vector<Cpu> = Cpu::default().try_tensor_from_vec(values, (targets.len(),)).map_err(device_error)?;
        if self.recording {
            let (x, output, targets) = (x.clone(), y.ghost(), targets.to_vec());
            let learning = self.learning(weight).map(|Learning { part, number }| {
                let number = part.head(number);
                Learning { part, number }
            });
            let weight = weight.value.values.clone();
            self.then(move |gradients| {
                let dy = take!(gradients, output);
                let _timer = timer("head, back", 2 * flops, 2 * numbers);
                let mut dx = take!(gradients, x);
                let work = |sum: Option<(&mut [f32], Into)>| {
                    head::log_probs_backward(forward, slice(&x), &weight, &targets, d, &dy, &mut dx, sum);
                };
                match learning {
                    Some(learning) => learning.add_product(|sum, into| work(Some((sum, into)))),
                    None => work(None),
                }
                put!(gradients, x, dx);
                Ok(())
            });
        }
        Ok(y)
    }

    fn backward(self, output: &Vector<Cpu>, derivative: Vec<f32>, _: &[Option<Held<Shared>>]) -> Result<()> {
        super::ops::backward(self.tape, output, derivative).map(drop)
    }
}
