//! The operations as compositions of dfdx's own: every device, one length per batch. Also the yardstick of the fused ones.
//! dfdx tapes both factors of a product, so weights that do not learn get gradients too, which nobody reads.

use std::ops::Range;
use std::sync::Arc;

use anyhow::Result;
use dfdx::prelude::*;

use super::architecture::Activation;
use super::gradients::Part;
use super::kernels::attention::Heads;
use super::kernels::elementwise::accumulate;
use super::kernels::rope::RopeTable;
use super::loader::Held;
use super::ops::{Factor, Matrix, OnDevice, Ops, Param, Source, Taped, Vector, countable, device_error};

pub(super) mod attention;

use attention::{Fallible, Plan};

/// Operations with a tape that fills while they record.
pub(crate) struct Stock<D: Device<f32>> {
    device: D,
    part: Option<Part>,
    tape: Tape<D>,
    recording: bool,
}

type Tape<D> = OwnedTape<f32, D>;
type Taping<D> = Matrix<D, Tape<D>>;

impl<D: Device<f32>> Stock<D> {
    /// A value with the tape, to compute on.
    fn open(&mut self, x: &Matrix<D>) -> Taping<D> {
        let tape = if self.recording { std::mem::take(&mut self.tape) } else { Tape::default() };
        x.clone().put_tape(tape)
    }

    /// A result without it.
    fn close<S: Shape>(&mut self, y: Fallible<Tensor<S, f32, D, Tape<D>>, D>) -> Result<Tensor<S, f32, D>> {
        let (y, tape) = y.map_err(device_error)?.split_tape();
        if self.recording {
            self.tape = tape;
        }
        Ok(y)
    }

    pub(super) fn matrix(&self, values: Vec<f32>, rows: usize, columns: usize) -> Result<Matrix<D>> {
        self.device.try_tensor_from_vec(values, (rows, columns)).map_err(device_error)
    }

    fn try_gather(&self, table: Taping<D>, indices: Vec<usize>) -> Fallible<Taping<D>, D> {
        let shape = (indices.len(),);
        let indices: Tensor<(usize,), usize, D> = self.device.try_tensor_from_vec(indices, shape)?;
        table.try_gather::<(usize, usize), (usize,)>(indices)
    }
}

impl<D: Device<f32>> Ops for Stock<D> {
    type Place = OnDevice<D>;
    type X = Matrix<D>;
    type Plan = Plan<D>;

    const PADDED: bool = true;

    fn record(&mut self, on: bool) {
        self.recording = on;
    }

    fn rows(&self, x: &Matrix<D>) -> usize {
        x.shape().0
    }

    fn input(&mut self, values: Vec<f32>, width: usize) -> Result<Matrix<D>> {
        let rows = values.len() / width.max(1);
        self.matrix(values, rows, width)
    }

    fn plan(&mut self, heads: Heads, rows: &[Range<usize>], turns: Option<&Arc<RopeTable>>) -> Result<Plan<D>> {
        Plan::new(self, heads, rows, turns)
    }

    fn lookup(&mut self, table: &Param<Matrix<D>>, indices: &[usize]) -> Result<Matrix<D>> {
        self.select(&table.value, indices)
    }

    fn select(&mut self, x: &Matrix<D>, indices: &[usize]) -> Result<Matrix<D>> {
        let x = self.open(x);
        let y = self.try_gather(x, indices.to_vec());
        self.close(y)
    }

    fn splice(
        &mut self,
        table: &Param<Matrix<D>>,
        features: Option<&Matrix<D>>,
        newline: Option<&Param<Vector<D>>>,
        sources: &[Source],
    ) -> Result<Matrix<D>> {
        // Each side is gathered for every position and blanked where another holds.
        let shape = (sources.len(), table.value.shape().1);
        let table = self.open(&table.value);
        let splice = || -> Fallible<Taping<D>, D> {
            let here = |of: &dyn Fn(&Source) -> bool| -> Fallible<Taping<D>, D> {
                let marks = sources.iter().map(|source| f32::from(u8::from(of(source)))).collect();
                let marks: Vector<D> = self.device.try_tensor_from_vec(marks, (sources.len(),))?;
                marks.put_tape(Tape::default()).try_broadcast_like::<_, Axis<1>>(&shape)
            };
            let tokens = sources.iter().map(|source| if let Source::Token(id) = source { *id as usize } else { 0 });
            let mut x = self.try_gather(table, tokens.collect())?; // (n, d)
            if let Some(features) = features {
                x = x.try_mul(here(&|source| matches!(source, Source::Token(_)))?)?;
                let rows = sources.iter().map(|source| if let Source::Feature(row) = source { *row } else { 0 });
                let image = self.try_gather(features.retaped(), rows.collect())?;
                x = x.try_add(image.try_mul(here(&|source| matches!(source, Source::Feature(_)))?)?)?;
            }
            if let Some(newline) = newline {
                let newline = newline.value.retaped::<Tape<D>>().try_broadcast_like::<_, Axis<0>>(&shape)?;
                x = x.try_add(newline.try_mul(here(&|source| matches!(source, Source::Newline))?)?)?;
            }
            Ok(x)
        };
        let y = splice();
        self.close(y)
    }

    fn rms_norm(&mut self, x: &Matrix<D>, weight: &Param<Vector<D>>, eps: f32) -> Result<Matrix<D>> {
        let (whole, d) = (*x.shape(), weight.value.shape().0);
        let shape = (whole.num_elements() / d, d);
        let x = self.open(x);
        let norm = || -> Fallible<Taping<D>, D> {
            let x = x.try_reshape_like(&shape)?;
            let square = x.retaped::<Tape<D>>().try_square()?.try_mean::<(usize,), Axis<1>>()?; // (n,)
            let inverse = square.try_add(eps)?.try_sqrt()?.try_recip()?;
            let y = x.try_mul(inverse.try_broadcast_like::<_, Axis<1>>(&shape)?)?;
            let weight = weight.value.retaped::<Tape<D>>().try_broadcast_like::<_, Axis<0>>(&shape)?;
            y.try_mul(weight)?.try_reshape_like(&whole)
        };
        let y = norm();
        self.close(y)
    }

    fn layer_norm(
        &mut self,
        x: &Matrix<D>,
        weight: &Param<Vector<D>>,
        bias: &Param<Vector<D>>,
        eps: f32,
    ) -> Result<Matrix<D>> {
        let shape = *x.shape();
        let x = self.open(x);
        let norm = || -> Fallible<Taping<D>, D> {
            let mean = x.retaped::<Tape<D>>().try_mean::<(usize,), Axis<1>>()?;
            let x = x.try_sub(mean.try_broadcast_like::<_, Axis<1>>(&shape)?)?;
            let square = x.retaped::<Tape<D>>().try_square()?.try_mean::<(usize,), Axis<1>>()?; // (n,)
            let inverse = square.try_add(eps)?.try_sqrt()?.try_recip()?;
            let y = x.try_mul(inverse.try_broadcast_like::<_, Axis<1>>(&shape)?)?;
            let y = y.try_mul(weight.value.retaped::<Tape<D>>().try_broadcast_like::<_, Axis<0>>(&shape)?)?;
            y.try_add(bias.value.retaped::<Tape<D>>().try_broadcast_like::<_, Axis<0>>(&shape)?)
        };
        let y = norm();
        self.close(y)
    }

    fn linear(
        &mut self,
        x: &Matrix<D>,
        weight: &Param<Matrix<D>>,
        bias: Option<&Param<Vector<D>>>,
    ) -> Result<Matrix<D>> {
        let shape = (x.shape().0, weight.value.shape().0);
        countable("the outputs of a layer", &[shape.0, shape.1])?;
        let x = self.open(x);
        let product = || -> Fallible<Taping<D>, D> {
            let y = x.try_matmul(weight.value.retaped::<Tape<D>>().try_permute::<_, Axes2<1, 0>>()?)?;
            match bias {
                Some(bias) => y.try_add(bias.value.retaped::<Tape<D>>().try_broadcast_like::<_, Axis<0>>(&shape)?),
                None => Ok(y),
            }
        };
        let y = product();
        self.close(y)
    }

    fn add(&mut self, a: &Matrix<D>, b: &Matrix<D>) -> Result<Matrix<D>> {
        let y = self.open(a).try_add(b.retaped::<Tape<D>>());
        self.close(y)
    }

    fn scale(&mut self, x: &Matrix<D>, factor: Factor) -> Result<Matrix<D>> {
        let (rows, columns) = *x.shape();
        let y = match factor {
            Factor::All(factor) => self.open(x).try_mul(factor),
            Factor::Each(factors) => {
                let factors = self.matrix(factors, rows, columns)?;
                self.open(x).try_mul(factors)
            }
        };
        self.close(y)
    }

    fn beside(&mut self, parts: &[Matrix<D>]) -> Result<Matrix<D>> {
        // Products with constants that put each part in its columns: dfdx joins along the first axis only.
        let width: usize = parts.iter().map(|part| part.shape().1).sum();
        let mut start = 0;
        let mut whole: Option<Matrix<D>> = None;
        for part in parts {
            let d = part.shape().1;
            let mut place = vec![0.0; d * width];
            (0..d).for_each(|i| place[i * width + start + i] = 1.0);
            let place = self.matrix(place, d, width)?;
            let placed = self.open(part).try_matmul(place);
            let placed = self.close(placed)?;
            whole = Some(match whole {
                None => placed,
                Some(whole) => self.add(&whole, &placed)?,
            });
            start += d;
        }
        whole.ok_or_else(|| anyhow::anyhow!("BUG: no parts to put beside each other"))
    }

    fn attention(&mut self, _: usize, q: Matrix<D>, k: Matrix<D>, v: Matrix<D>, plan: &Plan<D>) -> Result<Matrix<D>> {
        let q = self.open(&q);
        let y = plan.attend(q, k.retaped(), v.retaped());
        self.close(y)
    }

    fn swiglu(&mut self, gate: &Matrix<D>, up: &Matrix<D>) -> Result<Matrix<D>> {
        let gate = self.open(gate);
        let gated = || gate.retaped::<Tape<D>>().try_sigmoid().and_then(|sigmoid| gate.try_mul(sigmoid));
        let y = gated().and_then(|gate| gate.try_mul(up.retaped::<Tape<D>>()));
        self.close(y)
    }

    fn activate(&mut self, x: &Matrix<D>, activation: Activation) -> Result<Matrix<D>> {
        let x = self.open(x);
        let y = match activation {
            Activation::Gelu => gelu(x),
            Activation::GeluTanh => gelu_tanh(x),
            Activation::QuickGelu => {
                let sigmoid = || x.retaped::<Tape<D>>().try_mul(1.702)?.try_sigmoid();
                sigmoid().and_then(|sigmoid| x.try_mul(sigmoid))
            }
            Activation::Swiglu => panic!("BUG: a gated activation has two inputs"),
        };
        self.close(y)
    }
}

impl<D: Device<f32>> Taped for Stock<D> {
    type D = D;

    fn new(place: &OnDevice<D>, part: Option<Part>) -> Stock<D> {
        Stock { device: place.0.clone(), part, tape: Tape::default(), recording: false }
    }

    fn log_probs(&mut self, x: &Matrix<D>, weight: &Param<Matrix<D>>, targets: &[u32]) -> Result<Vector<D>> {
        let targets = targets.iter().map(|&target| target as usize).collect::<Vec<_>>();
        let shape = (targets.len(),);
        let targets: Tensor<(usize,), usize, D> =
            self.device.try_tensor_from_vec(targets, shape).map_err(device_error)?;
        let logits = self.linear(x, weight, None)?; // (n, v)
        let log = self.open(&logits).try_log_softmax::<Axis<1>>();
        let y = log.and_then(|log| log.try_select::<(usize,), (usize,)>(targets));
        self.close(y)
    }

    fn backward(self, output: &Vector<D>, derivative: Vec<f32>, held: &[Option<Held<OnDevice<D>>>]) -> Result<()> {
        let Some(part) = self.part else { panic!("BUG: a backward pass without a place for gradients") };
        let mut gradients = super::ops::backward(self.tape, output, derivative)?;
        for (number, held) in held.iter().enumerate().filter(|(number, _)| part.wants(*number)) {
            let gradient = match held {
                Some(Held::Vector(tensor)) => numbers(&mut gradients, tensor)?,
                Some(Held::Matrix(tensor) | Held::Table(tensor)) => numbers(&mut gradients, tensor)?,
                None => panic!("BUG: parameter {number} learns and has no place in the model"),
            };
            part.add(number, |sum| accumulate(sum, &gradient));
        }
        Ok(())
    }

    #[cfg(test)]
    fn numbers(x: &Matrix<D>) -> Vec<f32> {
        x.as_vec()
    }
}

/// The gradient of a tensor; zeros where none has arrived.
fn numbers<S: Shape, D: Device<f32>>(
    gradients: &mut Gradients<f32, D>,
    tensor: &Tensor<S, f32, D>,
) -> Result<Vec<f32>> {
    gradients.try_alloc_for(tensor).map_err(device_error)?;
    Ok(gradients.get(tensor).as_vec())
}

fn gelu<D: Device<f32>>(x: Taping<D>) -> Fallible<Taping<D>, D> {
    // x Phi(x) = (x + |x| erf(|x| / sqrt 2)) / 2, with erf by Abramowitz and Stegun 7.1.26. dfdx has this function,
    // but its derivative (0.13) is off by a factor in the density.
    let size = x.retaped::<Tape<D>>().try_abs()?;
    let a = size.retaped::<Tape<D>>().try_mul(std::f32::consts::FRAC_1_SQRT_2)?;
    let t = a.retaped::<Tape<D>>().try_mul(0.327_591_1)?.try_add(1.0)?.try_recip()?;
    let mut p = t.retaped::<Tape<D>>().try_mul(1.061_405_4)?;
    for coefficient in [-1.453_152, 1.421_413_7, -0.284_496_74] {
        p = p.try_add(coefficient)?.try_mul(t.retaped::<Tape<D>>())?;
    }
    let p = p.try_add(0.254_829_6)?.try_mul(t)?;
    let erf = p.try_mul(a.try_square()?.try_negate()?.try_exp()?)?.try_negate()?.try_add(1.0)?;
    size.try_mul(erf)?.try_add(x)?.try_mul(0.5)
}

fn gelu_tanh<D: Device<f32>>(x: Taping<D>) -> Fallible<Taping<D>, D> {
    // The argument of the hyperbolic tangent: sqrt(2 / pi) (x + 0.044715 x^3).
    let square = x.retaped::<Tape<D>>().try_square()?;
    let inner = square.try_mul(0.044_715)?.try_add(1.0)?.try_mul(x.retaped::<Tape<D>>())?;
    let tanh = inner.try_mul(0.797_884_6)?.try_tanh()?;
    tanh.try_add(1.0)?.try_mul(x)?.try_mul(0.5)
}
