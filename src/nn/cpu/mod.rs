//! The operations on the CPU, each with one of our kernels, for training and for generation.
//!
//! In training a forward operation puts its backward operation on dfdx's tape, which runs them in reverse. In generation
//! nothing is recorded, and attention reads and fills KV caches. Rows of a batch can differ in length. The result for a
//! row does not depend on the other rows.

use std::ops::Range;
use std::rc::Rc;
use std::sync::Arc;

use anyhow::Result;
use dfdx::prelude::*;

use super::architecture::Activation;
use super::batch::EmbeddingSource;
use super::buffer::Buffer;
use super::device_error::device_error;
use super::dropout::Dropout;
use super::gradients::Shard;
use super::kernels::attention::{Heads, KeyRanges};
use super::kernels::elementwise as kernel;
use super::kernels::fused_cross_entropy;
use super::kernels::layer_norm::{layer_norm, layer_norm_backward, layer_norm_weight_backward};
use super::kernels::matmul::{Accumulate, MatrixView, matmul};
use super::kernels::rope::Rotations;
use super::kernels::weight::Weight;
use super::ops::{self, AutogradOps, Bag, Factor, Loaded, Ops, Param, ScaleOps, SegmentOps, TargetGroups, Vector};
use super::profile::timer;

pub(crate) mod attention;
mod deferred;
mod gather;
pub(crate) mod kv_cache;
mod state;
pub(crate) mod tensor;
pub(crate) mod weights;

use attention::{AttentionPlan, WithinRows};
use deferred::WeightGradient;
pub(crate) use state::CpuOps;
use tensor::CpuTensor;
use weights::{CpuWeights, SharedVector, Table};

impl Ops for CpuOps {
    type Weights = CpuWeights;
    type Tensor = CpuTensor;
    type AttentionPlan = AttentionPlan;

    fn set_grad_enabled(&mut self, enabled: bool) {
        self.grad_enabled = enabled;
    }

    fn input(&mut self, values: &[f32], width: usize) -> Result<CpuTensor> {
        Ok(CpuTensor::new(Buffer::copy(values), width))
    }

    fn plan_attention(
        &mut self,
        heads: Heads,
        rows: &[Range<usize>],
        rope: Option<&Rotations>,
        keys: Option<&KeyRanges>,
    ) -> Result<AttentionPlan> {
        Ok(AttentionPlan::Rows(WithinRows { heads, rows: rows.into(), rope: rope.cloned(), keys: keys.cloned() }))
    }

    fn select_rows(&mut self, x: &CpuTensor, indices: &[usize]) -> Result<CpuTensor> {
        Ok(gather::select_rows(self, x, indices))
    }

    fn merge_image_features(
        &mut self,
        table: &Param<Table>,
        scale: Option<f32>,
        features: Option<&CpuTensor>,
        newline: Option<&Param<SharedVector>>,
        sources: &[EmbeddingSource],
    ) -> Result<CpuTensor> {
        Ok(gather::merge_image_features(self, table, scale, features, newline, sources))
    }

    fn add_image_features(
        &mut self,
        x: CpuTensor,
        features: &CpuTensor,
        sources: &[EmbeddingSource],
    ) -> Result<CpuTensor> {
        Ok(gather::add_image_features(self, x, features, sources))
    }

    fn embedding_bag(&mut self, table: &Param<Table>, bags: &[Bag]) -> Result<CpuTensor> {
        Ok(gather::embedding_bag(self, table, bags))
    }

    fn rms_norm(&mut self, x: &CpuTensor, weight: &Param<SharedVector>, eps: f32) -> Result<CpuTensor> {
        let (count, d) = (x.len(), weight.value.len());
        let _timer = timer("norm", 0, 2 * count);
        let (mut y, mut inverse) = (Buffer::unset(count), vec![0.0; count / d]);
        kernel::rms_norm(x, &weight.value, eps, &mut y, &mut inverse);
        let y = CpuTensor::new(y, x.width());
        if self.grad_enabled {
            let (x, output, gradient) = (x.clone(), y.gradient(), self.weight_gradient(weight));
            let weight = weight.value.clone();
            self.on_backward(move || {
                let dy = output.take(count);
                let clock = timer("norm, backward", 0, 6 * count);
                x.gradient().add_with(count, |dx| kernel::rms_norm_backward(&x, &weight, &inverse, &dy, dx));
                drop(clock);
                if let Some(gradient) = gradient {
                    gradient.add_with(move |sum| kernel::rms_norm_weight_backward(&x, &inverse, &dy, sum));
                }
            });
        }
        Ok(y)
    }

    fn layer_norm(
        &mut self,
        x: &CpuTensor,
        weight: &Param<SharedVector>,
        bias: &Param<SharedVector>,
        eps: f32,
    ) -> Result<CpuTensor> {
        let (count, d) = (x.len(), x.width());
        let _timer = timer("norm", 0, 2 * count);
        let (mut y, mut moments) = (Buffer::unset(count), vec![(0.0, 0.0); x.rows()]);
        layer_norm(x, &weight.value, &bias.value, eps, &mut y, &mut moments);
        let y = CpuTensor::new(y, d);
        if self.grad_enabled {
            let (x, output, bias) = (x.clone(), y.gradient(), self.weight_gradient(bias));
            let (gradient, weight) = (self.weight_gradient(weight), weight.value.clone());
            self.on_backward(move || {
                let dy = output.take(count);
                let clock = timer("norm, backward", 0, 6 * count);
                x.gradient().add_with(count, |dx| layer_norm_backward(&x, &weight, &moments, &dy, dx));
                drop(clock);
                if let Some(bias) = bias {
                    let dy = dy.clone();
                    bias.add_with(move |sum| kernel::add_rows(sum, &dy));
                }
                if let Some(gradient) = gradient {
                    gradient.add_with(move |sum| layer_norm_weight_backward(&x, &moments, &dy, sum));
                }
            });
        }
        Ok(y)
    }

    fn linear(
        &mut self,
        x: &CpuTensor,
        weight: &Param<Arc<Weight>>,
        bias: Option<&Param<SharedVector>>,
    ) -> Result<CpuTensor> {
        let (m, n, k) = (x.rows(), weight.value.outputs(), weight.value.inputs());
        let _timer = weight.value.timer("linear", m);
        let mut y = Buffer::unset(m * n);
        weight.value.forward(x, &mut y);
        if let Some(bias) = bias {
            kernel::add_bias(&mut y, &bias.value);
        }
        let y = CpuTensor::new(y, n);
        if self.grad_enabled {
            let (x, output, bias) = (x.clone(), y.gradient(), bias.and_then(|bias| self.weight_gradient(bias)));
            let (gradient, weight) = (self.weight_gradient(weight), weight.value.clone());
            self.on_backward(move || {
                let dy = output.take(m * n);
                let clock = weight.timer("linear, input gradient", m);
                x.gradient().accumulate(m * k, |dx, into| weight.backward(&dy, dx, into));
                drop(clock);
                if let Some(bias) = bias {
                    let dy = dy.clone();
                    bias.add_with(move |sum| kernel::add_rows(sum, &dy));
                }
                if let Some(gradient) = gradient {
                    gradient.accumulate(move |sum, into| {
                        let _timer = weight.timer("linear, weight gradient", m);
                        matmul(n, k, m, MatrixView::transposed(&dy, n), MatrixView::row_major(&x, k), sum, k, into);
                    });
                }
            });
        }
        Ok(y)
    }

    fn add(&mut self, a: &CpuTensor, b: &CpuTensor) -> Result<CpuTensor> {
        let count = a.len();
        let _timer = timer("add", 0, 3 * count);
        let mut y = Buffer::unset(count);
        kernel::add(a, b, &mut y);
        let y = CpuTensor::new(y, a.width());
        if self.grad_enabled {
            let (a, b, output) = (a.gradient(), b.gradient(), y.gradient());
            self.on_backward(move || {
                let _timer = timer("add, backward", 0, 3 * count);
                let dy = output.take(count);
                a.add(dy.clone());
                b.add(dy);
            });
        }
        Ok(y)
    }

    fn add_lora(
        &mut self,
        y: CpuTensor,
        x: &CpuTensor,
        matrices: [&Param<Arc<Weight>>; 2],
        scale: f32,
        dropout: Option<(&mut Dropout, f64)>,
    ) -> Result<CpuTensor> {
        let factors = dropout.map(|(dropout, rate)| dropout.factors(rate, x.width()));
        ops::add_lora(self, &y, x, matrices, scale, factors)
    }

    fn scale_columns(&mut self, x: &CpuTensor, scale: &Param<SharedVector>) -> Result<CpuTensor> {
        let (count, d) = (x.len(), x.width());
        let _timer = timer("scale columns", 0, 2 * count);
        let mut y = Buffer::unset(count);
        kernel::scale_columns(x, &scale.value, &mut y);
        let y = CpuTensor::new(y, d);
        if self.grad_enabled {
            let (x, output, value) = (x.clone(), y.gradient(), scale.value.clone());
            let gradient = self.weight_gradient(scale);
            self.on_backward(move || {
                let _timer = timer("scale columns, backward", 0, 4 * count);
                let dy = output.take(count);
                let mut dx = Buffer::unset(count);
                kernel::scale_columns(&dy, &value, &mut dx);
                x.gradient().add(Rc::new(dx));
                if let Some(gradient) = gradient {
                    gradient.add_with(move |sum| {
                        for (x, dy) in x.chunks_exact(d).zip(dy.chunks_exact(d)) {
                            kernel::accumulate_product(sum, x, dy);
                        }
                    });
                }
            });
        }
        Ok(y)
    }

    fn join_rows(&mut self, x: CpuTensor, count: usize) -> Result<CpuTensor> {
        Ok(gather::join_rows(self, x, count))
    }

    fn average_rows(&mut self, x: &CpuTensor, count: usize) -> Result<CpuTensor> {
        Ok(gather::average_rows(self, x, count))
    }

    fn split_columns(&mut self, x: &CpuTensor, count: usize) -> Result<Vec<CpuTensor>> {
        Ok(gather::split_columns(self, x, count))
    }

    fn concat_columns(&mut self, parts: &[CpuTensor]) -> Result<CpuTensor> {
        Ok(gather::concat_columns(self, parts))
    }

    fn attention(
        &mut self,
        layer: usize,
        q: CpuTensor,
        k: CpuTensor,
        v: CpuTensor,
        plan: &AttentionPlan,
    ) -> Result<CpuTensor> {
        Ok(attention::attend(self, layer, q, k, v, plan))
    }

    fn gated(&mut self, gate: &CpuTensor, up: &CpuTensor, activation: Activation) -> Result<CpuTensor> {
        let count = gate.len();
        let _timer = timer("gated activation", 0, 3 * count);
        let mut y = Buffer::unset(count);
        kernel::gated(activation, gate, up, &mut y);
        let y = CpuTensor::new(y, gate.width());
        if self.grad_enabled {
            let (gate, up, output) = (gate.clone(), up.clone(), y.gradient());
            self.on_backward(move || {
                let mut dy = output.take_mut(count);
                let _timer = timer("gated activation, backward", 0, 5 * count);
                let mut dup = Buffer::unset(count);
                kernel::gated_backward(activation, [&gate, &up], &mut dy, &mut dup);
                gate.gradient().add(Rc::new(dy));
                up.gradient().add(Rc::new(dup));
            });
        }
        Ok(y)
    }

    fn activate(&mut self, x: &CpuTensor, activation: Activation) -> Result<CpuTensor> {
        let count = x.len();
        let _timer = timer("activation", 0, 2 * count);
        let mut y = Buffer::unset(count);
        kernel::activate(activation, x, &mut y);
        let y = CpuTensor::new(y, x.width());
        if self.grad_enabled {
            let (x, output) = (x.clone(), y.gradient());
            self.on_backward(move || {
                let _timer = timer("activation, backward", 0, 3 * count);
                let mut dy = output.take_mut(count);
                kernel::activate_backward(activation, &x, &mut dy);
                x.gradient().add(Rc::new(dy));
            });
        }
        Ok(y)
    }
}

impl ScaleOps for CpuOps {
    fn scale(&mut self, x: &CpuTensor, factor: Factor) -> Result<CpuTensor> {
        let mut y = Buffer::copy(x);
        factor.multiply(&mut y);
        let y = CpuTensor::new(y, x.width());
        if self.grad_enabled {
            let (x, output, count) = (x.gradient(), y.gradient(), y.len());
            self.on_backward(move || {
                let mut dy = output.take_mut(count);
                factor.multiply(&mut dy);
                x.add(Rc::new(dy));
            });
        }
        Ok(y)
    }
}

impl AutogradOps for CpuOps {
    type LogProbs = Vector<Cpu>;
    type Gradients = Shard;

    fn new(_: &CpuWeights, shard: Option<Shard>) -> CpuOps {
        CpuOps { shard, ..CpuOps::default() }
    }

    fn log_probs(&mut self, x: &CpuTensor, weight: &Param<Arc<Weight>>, targets: &[u32]) -> Result<Vector<Cpu>> {
        let d = x.width();
        let (n, v) = (targets.len(), weight.value.outputs());
        let kept = self.grad_enabled && fused_cross_entropy::keeps(n, v);
        let mut table = Buffer::unset(if kept { n * v } else { fused_cross_entropy::chunk_size(n, v) });
        let fused_cross_entropy::LogProbs { values, sums } =
            fused_cross_entropy::log_probs(x, &weight.value, targets, &mut table);
        let y: Vector<Cpu> = Cpu::default().try_tensor_from_vec(values, (n,)).map_err(device_error)?;
        if self.grad_enabled {
            let (x, output, targets) = (x.clone(), y.ghost(), targets.to_vec());
            let table = kept.then_some(table);
            let gradient = self.weight_gradient(weight);
            let mut gradient =
                gradient.map(|gradient| WeightGradient { index: gradient.shard.head(gradient.index), ..gradient });
            let weight = weight.value.clone();
            self.tape.add_backward_op(move |gradients| {
                let dy = gradients.get_or_alloc_mut(&output)?;
                let mut table = table.unwrap_or_else(|| Buffer::unset(fused_cross_entropy::chunk_size(n, v)));
                x.gradient().accumulate(n * d, |dx, into| {
                    let mut back = |dweight: Option<(&mut [f32], Accumulate)>| {
                        let (table, dx) = ((&mut table[..], kept), (&mut *dx, into));
                        fused_cross_entropy::log_probs_backward(table, &sums, &x, &weight, &targets, dy, dx, dweight);
                    };
                    // Logits that were not kept are computed once for both gradients.
                    let now = gradient.take_if(|_| !kept);
                    if !now.is_some_and(|gradient| gradient.accumulate_now(|sum, into| back(Some((sum, into))))) {
                        back(None);
                    }
                });
                if let Some(gradient) = gradient {
                    gradient.accumulate(move |sum, into| {
                        fused_cross_entropy::weight_backward(&table, &x, &weight, sum, into);
                    });
                }
                Ok(())
            });
        }
        Ok(y)
    }

    fn values(&self, log_probs: &Vector<Cpu>) -> Result<Vec<f32>> {
        Ok(log_probs.as_vec())
    }

    fn backward(
        &mut self,
        log_probs: &Vector<Cpu>,
        groups: &TargetGroups,
        slopes: &[[f64; 2]],
        _: &[Loaded<CpuWeights>],
    ) -> Result<()> {
        ops::backward(self.take_tape(), log_probs, groups.spread(slopes))?;
        Ok(())
    }

    fn finish_backward(&mut self) {
        self.deferred.run(0);
    }

    #[cfg(test)]
    fn to_vec(&self, x: &CpuTensor) -> Result<Vec<f32>> {
        Ok(x.to_vec())
    }
}

impl SegmentOps for CpuOps {
    type Tape = OwnedTape<f32, Cpu>;

    fn take_tape(&mut self) -> OwnedTape<f32, Cpu> {
        std::mem::take(&mut self.tape)
    }

    fn leaf(&self, x: &CpuTensor) -> Result<CpuTensor> {
        Ok(CpuTensor::new(Buffer::copy(x), x.width()))
    }

    fn backward_segment(&mut self, tape: OwnedTape<f32, Cpu>, y: &CpuTensor, leaf: &CpuTensor) -> Result<()> {
        y.gradient().add(leaf.gradient().take(leaf.len()));
        ops::run(tape)
    }
}
