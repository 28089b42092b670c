//! The operations composed of dfdx's own. They run on every device of dfdx, need rows of one length, and are the reference
//! for our kernels in tests. dfdx records both factors of a product, so frozen weights get gradients too, which are
//! not used.

use std::ops::Range;

use anyhow::Result;
use dfdx::prelude::*;

use super::architecture::Activation;
use super::batch::EmbeddingSource;
use super::device_error::device_error;
use super::dropout::Dropout;
use super::gradients::Shard;
use super::kernels::attention::{Heads, KeyRanges};
use super::kernels::elementwise::accumulate;
use super::kernels::rope::Rotations;
use super::ops::{self, AutogradOps, Bag, Factor, Loaded, LoadedWeight, Ops, Param, ScaleOps, TargetGroups, Vector};

mod attention;
mod tensor;
pub(crate) mod weights;

use attention::AttentionPlan;
use tensor::{Fallible, Matrix, Tape, Taped, check_size, matrix};
use weights::DfdxWeights;

pub(crate) struct DfdxOps<D: Device<f32>> {
    device: D,
    shard: Option<Shard>,
    tape: Tape<D>,
    grad_enabled: bool,
}

impl<D: Device<f32>> DfdxOps<D> {
    /// Computes on `x` with the tape, if gradients are enabled.
    fn apply<S: Shape>(
        &mut self,
        x: &Matrix<D>,
        compute: impl FnOnce(Taped<D>) -> Fallible<Tensor<S, f32, D, Tape<D>>, D>,
    ) -> Result<Tensor<S, f32, D>> {
        let tape = if self.grad_enabled { std::mem::take(&mut self.tape) } else { Tape::default() };
        let (y, tape) = compute(x.clone().put_tape(tape)).map_err(device_error)?.split_tape();
        if self.grad_enabled {
            self.tape = tape;
        }
        Ok(y)
    }
}

impl<D: Device<f32>> Ops for DfdxOps<D> {
    type Weights = DfdxWeights<D>;
    type Tensor = Matrix<D>;
    type AttentionPlan = AttentionPlan<D>;

    fn set_grad_enabled(&mut self, enabled: bool) {
        self.grad_enabled = enabled;
    }

    fn input(&mut self, values: &[f32], width: usize) -> Result<Matrix<D>> {
        matrix(&self.device, values.to_vec(), values.len() / width.max(1), width)
    }

    fn plan_attention(
        &mut self,
        heads: Heads,
        rows: &[Range<usize>],
        rope: Option<&Rotations>,
        keys: Option<&KeyRanges>,
    ) -> Result<AttentionPlan<D>> {
        AttentionPlan::new(&self.device, heads, rows, rope, keys)
    }

    fn select_rows(&mut self, x: &Matrix<D>, indices: &[usize]) -> Result<Matrix<D>> {
        let device = self.device.clone();
        self.apply(x, |x| gather(&device, x, indices.to_vec()))
    }

    fn merge_image_features(
        &mut self,
        table: &Param<Matrix<D>>,
        scale: Option<f32>,
        features: Option<&Matrix<D>>,
        newline: Option<&Param<Vector<D>>>,
        sources: &[EmbeddingSource],
    ) -> Result<Matrix<D>> {
        // Every source is gathered for all positions, multiplied by its mask and added.
        let shape = (sources.len(), table.value.shape().1);
        let device = self.device.clone();
        let mask = |of: &dyn Fn(&EmbeddingSource) -> bool| -> Fallible<Taped<D>, D> {
            let mask = sources.iter().map(|source| f32::from(u8::from(of(source)))).collect();
            let mask: Vector<D> = device.try_tensor_from_vec(mask, (sources.len(),))?;
            mask.put_tape(Tape::default()).try_broadcast_like::<_, Axis<1>>(&shape)
        };
        let token = |source: &EmbeddingSource| if let EmbeddingSource::Token(id) = source { *id as usize } else { 0 };
        let feature = |source: &EmbeddingSource| if let EmbeddingSource::Feature(row) = source { *row } else { 0 };
        self.apply(&table.value, |table| {
            let mut x = gather(&device, table, sources.iter().map(token).collect())?.try_mul(scale.unwrap_or(1.0))?; // (n, d)
            if let Some(features) = features {
                x = x.try_mul(mask(&|source| matches!(source, EmbeddingSource::Token(_)))?)?;
                let image = gather(&device, features.retaped(), sources.iter().map(feature).collect())?;
                x = x.try_add(image.try_mul(mask(&|source| matches!(source, EmbeddingSource::Feature(_)))?)?)?;
            }
            if let Some(newline) = newline {
                let newline = newline.value.retaped::<Tape<D>>().try_broadcast_like::<_, Axis<0>>(&shape)?;
                x = x.try_add(newline.try_mul(mask(&|source| matches!(source, EmbeddingSource::Newline))?)?)?;
            }
            Ok(x)
        })
    }

    fn add_image_features(
        &mut self,
        x: Matrix<D>,
        features: &Matrix<D>,
        sources: &[EmbeddingSource],
    ) -> Result<Matrix<D>> {
        let (shape, device) = (*x.shape(), self.device.clone());
        let row = |source: &EmbeddingSource| if let EmbeddingSource::Feature(row) = source { *row } else { 0 };
        let mask = |source: &EmbeddingSource| f32::from(u8::from(matches!(source, EmbeddingSource::Feature(_))));
        let (rows, mask) = (sources.iter().map(row).collect(), sources.iter().map(mask).collect());
        let mask: Vector<D> = device.try_tensor_from_vec(mask, (sources.len(),)).map_err(device_error)?;
        self.apply(&x, |x| {
            let image = gather(&device, features.retaped(), rows)?;
            x.try_add(image.try_mul(mask.try_broadcast_like::<_, Axis<1>>(&shape)?)?)
        })
    }

    fn embedding_bag(&mut self, table: &Param<Matrix<D>>, bags: &[Bag]) -> Result<Matrix<D>> {
        let (shape, device) = ((bags.len(), table.value.shape().1), self.device.clone());
        let part = |at: usize| {
            let rows: Vec<usize> = bags.iter().map(|bag| bag[at].0).collect();
            let weights: Vec<f32> = bags.iter().map(|bag| bag[at].1).collect();
            (rows, weights)
        };
        self.apply(&table.value, |table| {
            let weighted = |table: Taped<D>, (rows, weights): (Vec<usize>, Vec<f32>)| {
                let weights: Vector<D> = device.try_tensor_from_vec(weights, (bags.len(),))?;
                gather(&device, table, rows)?.try_mul(weights.try_broadcast_like::<_, Axis<1>>(&shape)?)
            };
            let others = [1, 2, 3].map(|at| weighted(table.retaped::<Tape<D>>(), part(at)));
            let mut y = weighted(table, part(0))?;
            for other in others {
                y = y.try_add(other?)?;
            }
            Ok(y)
        })
    }

    fn rms_norm(&mut self, x: &Matrix<D>, weight: &Param<Vector<D>>, eps: f32) -> Result<Matrix<D>> {
        let (outer, d) = (*x.shape(), weight.value.shape().0);
        let shape = (outer.num_elements() / d, d);
        self.apply(x, |x| {
            let x = x.try_reshape_like(&shape)?;
            let square = x.retaped::<Tape<D>>().try_square()?.try_mean::<(usize,), Axis<1>>()?; // (n,)
            let inverse = square.try_add(eps)?.try_sqrt()?.try_recip()?;
            let y = x.try_mul(inverse.try_broadcast_like::<_, Axis<1>>(&shape)?)?;
            let weight = weight.value.retaped::<Tape<D>>().try_broadcast_like::<_, Axis<0>>(&shape)?;
            y.try_mul(weight)?.try_reshape_like(&outer)
        })
    }

    fn layer_norm(
        &mut self,
        x: &Matrix<D>,
        weight: &Param<Vector<D>>,
        bias: &Param<Vector<D>>,
        eps: f32,
    ) -> Result<Matrix<D>> {
        let shape = *x.shape();
        self.apply(x, |x| {
            let mean = x.retaped::<Tape<D>>().try_mean::<(usize,), Axis<1>>()?;
            let x = x.try_sub(mean.try_broadcast_like::<_, Axis<1>>(&shape)?)?;
            let square = x.retaped::<Tape<D>>().try_square()?.try_mean::<(usize,), Axis<1>>()?; // (n,)
            let inverse = square.try_add(eps)?.try_sqrt()?.try_recip()?;
            let y = x.try_mul(inverse.try_broadcast_like::<_, Axis<1>>(&shape)?)?;
            let y = y.try_mul(weight.value.retaped::<Tape<D>>().try_broadcast_like::<_, Axis<0>>(&shape)?)?;
            y.try_add(bias.value.retaped::<Tape<D>>().try_broadcast_like::<_, Axis<0>>(&shape)?)
        })
    }

    fn linear(
        &mut self,
        x: &Matrix<D>,
        weight: &Param<Matrix<D>>,
        bias: Option<&Param<Vector<D>>>,
    ) -> Result<Matrix<D>> {
        let shape = (x.shape().0, weight.value.shape().0);
        check_size("the outputs of a layer", &[shape.0, shape.1])?;
        self.apply(x, |x| {
            let y = x.try_matmul(weight.value.retaped::<Tape<D>>().try_permute::<_, Axes2<1, 0>>()?)?;
            match bias {
                Some(bias) => y.try_add(bias.value.retaped::<Tape<D>>().try_broadcast_like::<_, Axis<0>>(&shape)?),
                None => Ok(y),
            }
        })
    }

    fn add(&mut self, a: &Matrix<D>, b: &Matrix<D>) -> Result<Matrix<D>> {
        self.apply(a, |a| a.try_add(b.retaped::<Tape<D>>()))
    }

    fn add_lora(
        &mut self,
        y: Matrix<D>,
        x: &Matrix<D>,
        matrices: [&Param<Matrix<D>>; 2],
        scale: f32,
        dropout: Option<(&mut Dropout, f64)>,
    ) -> Result<Matrix<D>> {
        let factors = dropout.map(|(dropout, rate)| dropout.factors(rate, x.shape().1));
        ops::add_lora(self, &y, x, matrices, scale, factors)
    }

    fn scale_columns(&mut self, x: &Matrix<D>, scale: &Param<Vector<D>>) -> Result<Matrix<D>> {
        let shape = *x.shape();
        self.apply(x, |x| x.try_mul(scale.value.retaped::<Tape<D>>().try_broadcast_like::<_, Axis<0>>(&shape)?))
    }

    fn join_rows(&mut self, x: Matrix<D>, count: usize) -> Result<Matrix<D>> {
        let (rows, width) = *x.shape();
        self.apply(&x, |x| x.try_reshape_like(&(rows / count, width * count)))
    }

    fn average_rows(&mut self, x: &Matrix<D>, count: usize) -> Result<Matrix<D>> {
        let (rows, width) = *x.shape();
        self.apply(x, |x| x.try_reshape_like(&(rows / count, count, width))?.try_mean::<(usize, usize), Axis<1>>())
    }

    fn split_columns(&mut self, x: &Matrix<D>, count: usize) -> Result<Vec<Matrix<D>>> {
        // A product with a constant selects each part, because the gradient of dfdx's `slice` is wrong on the CPU.
        let (_, width) = *x.shape();
        let d = width / count;
        let mut part = |part: usize| {
            let mut selector = vec![0.0; width * d];
            (0..d).for_each(|i| selector[(part * d + i) * d + i] = 1.0);
            let selector = matrix(&self.device, selector, width, d)?;
            self.apply(x, |x| x.try_matmul(selector))
        };
        (0..count).map(&mut part).collect()
    }

    fn concat_columns(&mut self, parts: &[Matrix<D>]) -> Result<Matrix<D>> {
        // dfdx concatenates along the first axis only, so a product with a constant moves each part to its columns.
        let width: usize = parts.iter().map(|part| part.shape().1).sum();
        let mut start = 0;
        let mut whole: Option<Matrix<D>> = None;
        for part in parts {
            let d = part.shape().1;
            let mut selector = vec![0.0; d * width];
            (0..d).for_each(|i| selector[i * width + start + i] = 1.0);
            let selector = matrix(&self.device, selector, d, width)?;
            let placed = self.apply(part, |part| part.try_matmul(selector))?;
            whole = Some(match whole {
                None => placed,
                Some(whole) => self.add(&whole, &placed)?,
            });
            start += d;
        }
        whole.ok_or_else(|| anyhow::anyhow!("BUG: no tensors to concatenate"))
    }

    fn attention(
        &mut self,
        _: usize,
        q: Matrix<D>,
        k: Matrix<D>,
        v: Matrix<D>,
        plan: &AttentionPlan<D>,
    ) -> Result<Matrix<D>> {
        self.apply(&q, |q| plan.attend(q, k.retaped(), v.retaped()))
    }

    fn gated(&mut self, gate: &Matrix<D>, up: &Matrix<D>, activation: Activation) -> Result<Matrix<D>> {
        self.apply(gate, |gate| {
            let gate = match activation {
                Activation::Swiglu => {
                    let sigmoid = gate.retaped::<Tape<D>>().try_sigmoid()?;
                    gate.try_mul(sigmoid)?
                }
                Activation::Geglu => gelu_tanh(gate)?,
                _ => panic!("BUG: an activation with one input"),
            };
            gate.try_mul(up.retaped::<Tape<D>>())
        })
    }

    fn activate(&mut self, x: &Matrix<D>, activation: Activation) -> Result<Matrix<D>> {
        self.apply(x, |x| match activation {
            Activation::Gelu => gelu(x),
            Activation::GeluTanh => gelu_tanh(x),
            Activation::QuickGelu => {
                let sigmoid = x.retaped::<Tape<D>>().try_mul(1.702)?.try_sigmoid()?;
                x.try_mul(sigmoid)
            }
            Activation::Swiglu | Activation::Geglu => panic!("BUG: a gated activation has two inputs"),
        })
    }
}

impl<D: Device<f32>> ScaleOps for DfdxOps<D> {
    fn scale(&mut self, x: &Matrix<D>, factor: Factor) -> Result<Matrix<D>> {
        let (rows, columns) = *x.shape();
        match factor {
            Factor::Constant(factor) => self.apply(x, |x| x.try_mul(factor)),
            Factor::PerElement(factors) => {
                let factors = matrix(&self.device, factors, rows, columns)?;
                self.apply(x, |x| x.try_mul(factors))
            }
        }
    }
}

impl<D: Device<f32>> AutogradOps for DfdxOps<D> {
    type LogProbs = Vector<D>;
    type Gradients = Shard;

    const NEEDS_PADDING: bool = true;

    fn new(weights: &DfdxWeights<D>, shard: Option<Shard>) -> DfdxOps<D> {
        DfdxOps { device: weights.0.clone(), shard, tape: Tape::default(), grad_enabled: false }
    }

    fn log_probs(&mut self, x: &Matrix<D>, weight: &Param<Matrix<D>>, targets: &[u32]) -> Result<Vector<D>> {
        let targets = targets.iter().map(|&target| target as usize).collect::<Vec<_>>();
        let shape = (targets.len(),);
        let targets: Tensor<(usize,), usize, D> =
            self.device.try_tensor_from_vec(targets, shape).map_err(device_error)?;
        let logits = self.linear(x, weight, None)?; // (n, v)
        self.apply(&logits, |logits| logits.try_log_softmax::<Axis<1>>()?.try_select::<(usize,), (usize,)>(targets))
    }

    fn values(&self, log_probs: &Vector<D>) -> Result<Vec<f32>> {
        Ok(log_probs.as_vec())
    }

    fn backward(
        &mut self,
        log_probs: &Vector<D>,
        groups: &TargetGroups,
        slopes: &[[f64; 2]],
        loaded: &[Loaded<DfdxWeights<D>>],
    ) -> Result<()> {
        let Some(shard) = &self.shard else { panic!("BUG: a backward pass without a shard for its gradients") };
        let mut gradients = ops::backward(std::mem::take(&mut self.tape), log_probs, groups.spread(slopes))?;
        for (index, weight) in loaded.iter().enumerate().filter(|(index, _)| shard.is_trainable(*index)) {
            let gradient = match weight {
                Some(LoadedWeight::Vector(tensor)) => gradient(&mut gradients, tensor)?,
                Some(LoadedWeight::Matrix(tensor) | LoadedWeight::Table(tensor)) => gradient(&mut gradients, tensor)?,
                None => panic!("BUG: the trainable parameter {index} is not loaded"),
            };
            shard.add_with(index, |sum| accumulate(sum, &gradient));
        }
        Ok(())
    }

    #[cfg(test)]
    fn to_vec(&self, x: &Matrix<D>) -> Result<Vec<f32>> {
        Ok(x.as_vec())
    }
}

/// Rows of a table by index.
fn gather<D: Device<f32>>(device: &D, table: Taped<D>, indices: Vec<usize>) -> Fallible<Taped<D>, D> {
    let shape = (indices.len(),);
    let indices: Tensor<(usize,), usize, D> = device.try_tensor_from_vec(indices, shape)?;
    table.try_gather::<(usize, usize), (usize,)>(indices)
}

/// The gradient of a tensor; zeros if no operation used it.
fn gradient<S: Shape, D: Device<f32>>(
    gradients: &mut Gradients<f32, D>,
    tensor: &Tensor<S, f32, D>,
) -> Result<Vec<f32>> {
    gradients.try_alloc_for(tensor).map_err(device_error)?;
    Ok(gradients.get(tensor).as_vec())
}

fn gelu<D: Device<f32>>(x: Taped<D>) -> Fallible<Taped<D>, D> {
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

fn gelu_tanh<D: Device<f32>>(x: Taped<D>) -> Fallible<Taped<D>, D> {
    // The argument of the hyperbolic tangent: sqrt(2 / pi) (x + 0.044715 x^3).
    let square = x.retaped::<Tape<D>>().try_square()?;
    let inner = square.try_mul(0.044_715)?.try_add(1.0)?.try_mul(x.retaped::<Tape<D>>())?;
    let tanh = inner.try_mul(0.797_884_6)?.try_tanh()?;
    tanh.try_add(1.0)?.try_mul(x)?.try_mul(0.5)
}
