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
use super::kernels::rotary::Turns;
use super::loader::Held;
use super::ops::{Factor, Matrix, OnDevice, Ops, Param, Source, Taped, Vector, device_error};

/// Operations with a tape that fills while they record.
pub(crate) struct Stock<D: Device<f32>> {
    device: D,
    part: Option<Part>,
    tape: Tape<D>,
    recording: bool,
}

/// Constants of an attention over `rows` sequences of `length` tokens.
pub(crate) struct Plan<D: Device<f32>> {
    heads: Heads,
    rows: usize,
    length: usize,
    rotation: Option<Rotation<D>>,
    /// Added to the scores: minus infinity where a position may not look; one copy per query head of a group.
    mask: Option<Matrix<D>>, // (g t, t)
}

struct Rotation<D: Device<f32>> {
    cos: Matrix<D>, // (t, w)
    sin: Matrix<D>, // (t, w)
    /// `x half` is `(-x2, x1)`. A product, since dfdx's `slice` has a wrong gradient on the CPU.
    half: Matrix<D>, // (w, w)
}

type Tape<D> = OwnedTape<f32, D>;
type Taping<D> = Matrix<D, Tape<D>>;
type Tensor4<D> = Tensor<(usize, usize, usize, usize), f32, D, Tape<D>>;
type Fallible<X, D> = Result<X, <D as HasErr>::Err>;

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

    fn matrix(&self, values: Vec<f32>, rows: usize, columns: usize) -> Result<Matrix<D>> {
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

    fn plan(&mut self, heads: Heads, rows: &[Range<usize>], turns: Option<&Arc<Turns>>) -> Result<Plan<D>> {
        let length = rows.first().map_or(0, ExactSizeIterator::len);
        assert!(rows.iter().all(|row| row.len() == length), "BUG: rows of different lengths in a padded batch");
        let rotation = turns.map(|turns| self.rotation(turns, length)).transpose()?;
        let mask = if heads.causal {
            let group = heads.heads / heads.kv_heads;
            let one = (0..length).flat_map(|i| (0..length).map(move |j| if j > i { f32::NEG_INFINITY } else { 0.0 }));
            let values = (0..group).flat_map(|_| one.clone()).collect();
            Some(self.matrix(values, group * length, length)?)
        } else {
            None
        };
        Ok(Plan { heads, rows: rows.len(), length, rotation, mask })
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
        let y = attend(q, k.retaped(), v.retaped(), plan);
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
}

/// The gradient of a tensor; zeros where none has arrived.
fn numbers<S: Shape, D: Device<f32>>(
    gradients: &mut Gradients<f32, D>,
    tensor: &Tensor<S, f32, D>,
) -> Result<Vec<f32>> {
    gradients.try_alloc_for(tensor).map_err(device_error)?;
    Ok(gradients.get(tensor).as_vec())
}

fn attend<D: Device<f32>>(q: Taping<D>, k: Taping<D>, v: Taping<D>, plan: &Plan<D>) -> Fallible<Taping<D>, D> {
    let Plan { heads: Heads { heads: h, kv_heads, width: w, .. }, rows: b, length: t, rotation, mask } = plan;
    let (h, kv, w, b, t) = (*h, *kv_heads, *w, *b, *t);
    let by_head = |x: Taping<D>, h: usize| -> Fallible<Tensor4<D>, D> {
        x.try_reshape_like(&(b, t, h, w))?.try_permute::<_, Axes4<0, 2, 1, 3>>() // (b, h, t, w)
    };
    let (mut q, mut k, v) = (by_head(q, h)?, by_head(k, kv)?, by_head(v, kv)?);
    if let Some(rotation) = rotation {
        (q, k) = (rotate(q, rotation)?, rotate(k, rotation)?);
    }
    // The query heads of a group become rows of their key head: keys and values are never copied.
    let q = q.try_reshape_like(&(b, kv, h / kv * t, w))?;
    let scores = q.try_matmul(k.try_permute::<_, Axes4<0, 1, 3, 2>>()?)?.try_mul(1.0 / (w as f32).sqrt())?;
    let shape = *scores.shape(); // (b, k, g t, t)
    let scores = match mask {
        Some(mask) => scores.try_add(mask.retaped::<Tape<D>>().try_broadcast_like::<_, Axes2<0, 1>>(&shape)?)?,
        None => scores,
    };
    let out = scores.try_softmax::<Axis<3>>()?.try_matmul(v)?; // (b, k, g t, w)
    let out = out.try_reshape_like(&(b, h, t, w))?.try_permute::<_, Axes4<0, 2, 1, 3>>()?;
    out.try_reshape_like(&(b * t, h * w))
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

impl<D: Device<f32>> Stock<D> {
    fn rotation(&self, turns: &Turns, length: usize) -> Result<Rotation<D>> {
        let half = turns.half;
        let twice = |table: &[f32]| -> Vec<f32> {
            table.chunks_exact(half).take(length).flat_map(|row| row.iter().chain(row)).copied().collect()
        };
        let mut turn = vec![0.0; 4 * half * half];
        for j in 0..half {
            turn[(j + half) * 2 * half + j] = -1.0;
            turn[j * 2 * half + j + half] = 1.0;
        }
        Ok(Rotation {
            cos: self.matrix(twice(&turns.cos), length, 2 * half)?,
            sin: self.matrix(twice(&turns.sin), length, 2 * half)?,
            half: self.matrix(turn, 2 * half, 2 * half)?,
        })
    }
}

fn rotate<D: Device<f32>>(x: Tensor4<D>, rotation: &Rotation<D>) -> Fallible<Tensor4<D>, D> {
    let shape = *x.shape();
    let (b, h, t, w) = shape;
    let turned = x.retaped::<Tape<D>>().try_reshape_like(&(b * h * t, w))?.try_matmul(rotation.half.clone())?;
    let turned = turned.try_reshape_like(&shape)?;
    let cos = rotation.cos.retaped::<Tape<D>>().try_broadcast_like::<_, Axes2<0, 1>>(&shape)?;
    let sin = rotation.sin.retaped::<Tape<D>>().try_broadcast_like::<_, Axes2<0, 1>>(&shape)?;
    x.try_mul(cos)?.try_add(turned.try_mul(sin)?)
}
