//! The operations on a GPU, with cuBLAS for matrix products and kernels of ours (`kernels/`) for the rest.
//!
//! The residual stream, sums and moments of norms and the gradients of weights are f32. Everything that a matrix product reads or
//! writes has the type of the run's [`Precision`](crate::Precision). Rows of a batch can differ in length. The result for a row
//! does not depend on the other rows, but products of other sizes may sum in another order.

mod attention;
#[cfg(feature = "cuda")]
mod card;
pub(crate) mod decoder;
mod driver;
mod gather;
mod gpu;
mod gradients;
pub(crate) mod kv_cache;
mod loss;
mod memory;
mod norm;
pub(crate) mod optimizer;
mod products;
pub(crate) mod recorder;
mod sampler;
mod state;
mod tensor;
#[cfg(all(test, feature = "cuda"))]
mod tests;
pub(crate) mod weights;

use std::ops::Range;
use std::rc::Rc;

use anyhow::Result;

use crate::architecture::Activation;
use crate::batch::EmbeddingSource;
use crate::dropout::Dropout;
use crate::kernels::attention::{Heads, KeyRanges};
use crate::kernels::matmul::Accumulate;
use crate::kernels::rope::Rotations;
use crate::ops::{AutogradOps, Bag, Loaded, Ops, Param, SegmentOps, TargetGroups};

use attention::AttentionPlan;
pub(crate) use gpu::Gpu;
use gpu::long;
pub(crate) use gradients::CudaGradients;
use gradients::WeightGradient;
use loss::CudaLogProbs;
use memory::Buffer;
use products::{Output, Product};
pub(crate) use state::CudaOps;
use state::Tape;
pub(crate) use tensor::CudaTensor;
use tensor::{Gradient, Kind, convert};
use weights::{CudaMatrix, CudaVector, CudaWeights};

impl CudaOps {
    /// A new tensor, with a gradient if gradients are enabled.
    fn tensor(&self, kind: Kind, values: Rc<Buffer>, rows: usize, width: usize) -> CudaTensor {
        CudaTensor::new(kind, values, rows, width, self.grad_enabled)
    }

    /// Values for a matrix product, or another kernel that reads its type.
    fn inner(&self, x: &CudaTensor) -> Result<Rc<Buffer>> {
        convert(&self.gpu, &x.values(&self.gpu)?, x.kind(), Kind::Inner, x.len())
    }
}

/// What the gradients of a linear layer need.
struct LinearBackward {
    x: CudaTensor,
    /// The values of `x` in the type of products.
    inner: Rc<Buffer>,
    weight: CudaMatrix,
    weight_gradient: Option<WeightGradient>,
    bias_gradient: Option<WeightGradient>,
    alpha: f32,
}

impl LinearBackward {
    /// The gradients by input, weight and bias, from that by the output.
    fn run(&self, gpu: &Gpu, dy: &Rc<Buffer>) -> Result<()> {
        let (m, n, k) = (self.x.rows(), self.weight.rows, self.weight.columns);
        if let Some(gradient) = &self.weight_gradient {
            gradient.accumulate(|sum, into| {
                let product = Product { alpha: self.alpha, ..Product::wide(dy, &self.inner, sum, into) };
                gpu.product_of_transposed(&product, n, k, m)
            })?;
        }
        if let Some(gradient) = &self.bias_gradient {
            gradient.accumulate(|sum, into| column_sums(gpu, dy, None, sum, (m, n), into))?;
        }
        add_product(gpu, &self.x, |dx, into| {
            let product = Product { alpha: self.alpha, ..Product::inner(dy, &self.weight.values, dx, into) };
            gpu.product_plain(&product, m, k, n)
        })
    }
}

/// Adds to the gradient of a tensor what `product` computes in the type of products.
fn add_product(gpu: &Gpu, x: &CudaTensor, product: impl FnOnce(&Rc<Buffer>, Accumulate) -> Result<()>) -> Result<()> {
    if !x.gradient().is_tracked() {
        return Ok(());
    }
    match x.kind() {
        Kind::Inner => x.gradient().accumulate(gpu, x.bytes(gpu), product),
        Kind::Stream => {
            let dx = gpu.allocate(x.len() * gpu.inner_size())?;
            product(&dx, Accumulate::No)?;
            let dx = convert(gpu, &dx, Kind::Inner, Kind::Stream, x.len())?;
            x.gradient().add(gpu, Kind::Stream, dx, x.len())
        }
    }
}

/// Adds the sums over the rows of an inner matrix (rows, width), times `factors` element by element, to a vector, or stores them.
fn column_sums(
    gpu: &Gpu,
    x: &Rc<Buffer>,
    factors: Option<&Rc<Buffer>>,
    sums: &Rc<Buffer>,
    (rows, width): (usize, usize),
    into: Accumulate,
) -> Result<()> {
    let parts = rows.div_ceil(64).clamp(1, 64);
    let partial = gpu.allocate(parts * width * size_of::<f32>())?;
    let arguments = [x.into(), factors.into(), (&partial).into(), rows.into(), width.into()];
    gpu.launch("column_sums", [width.div_ceil(32), parts], 256, 0, &arguments)?;
    sum_rows(gpu, partial.address(), sums, parts, width, width, into)
}

/// Adds the sum of rows of `stride` numbers at an address to a vector, or stores it.
fn sum_rows(
    gpu: &Gpu,
    partial: u64,
    sums: &Rc<Buffer>,
    rows: usize,
    width: usize,
    stride: usize,
    into: Accumulate,
) -> Result<()> {
    let accumulate = into == Accumulate::Yes;
    let partial = gpu::Arg::Address(partial);
    let arguments = [partial, sums.into(), rows.into(), width.into(), stride.into(), accumulate.into()];
    gpu.launch("sum_rows", [width.div_ceil(256), 1], 256, 0, &arguments)
}

/// Adds a gradient of one kind to that of a tensor, which may have another.
fn add_gradient(gpu: &Gpu, to: &Gradient, kind: Kind, dy: &Rc<Buffer>, from: Kind, count: usize) -> Result<()> {
    if !to.is_tracked() {
        return Ok(());
    }
    to.add(gpu, kind, convert(gpu, dy, from, kind, count)?, count)
}

impl Ops for CudaOps {
    type Weights = CudaWeights;
    type Tensor = CudaTensor;
    type AttentionPlan = AttentionPlan;

    fn set_grad_enabled(&mut self, enabled: bool) {
        self.grad_enabled = enabled;
    }

    fn input(&mut self, values: &[f32], width: usize) -> Result<CudaTensor> {
        let uploaded = self.gpu.upload(values)?;
        let values_inner = convert(&self.gpu, &uploaded, Kind::Stream, Kind::Inner, values.len())?;
        Ok(CudaTensor::new(Kind::Inner, values_inner, values.len() / width.max(1), width, false))
    }

    fn plan_attention(
        &mut self,
        heads: Heads,
        rows: &[Range<usize>],
        rope: Option<&Rotations>,
        keys: Option<&KeyRanges>,
    ) -> Result<AttentionPlan> {
        AttentionPlan::rows(&self.gpu, heads, rows, rope, keys)
    }

    fn select_rows(&mut self, x: &CudaTensor, indices: &[usize]) -> Result<CudaTensor> {
        gather::select_rows(self, x, indices)
    }

    fn merge_image_features(
        &mut self,
        table: &Param<CudaMatrix>,
        scale: Option<f32>,
        features: Option<&CudaTensor>,
        newline: Option<&Param<CudaVector>>,
        sources: &[EmbeddingSource],
    ) -> Result<CudaTensor> {
        gather::merge_image_features(self, table, scale, features, newline, sources)
    }

    fn add_image_features(
        &mut self,
        x: CudaTensor,
        features: &CudaTensor,
        sources: &[EmbeddingSource],
    ) -> Result<CudaTensor> {
        gather::add_image_features(self, &x, features, sources)
    }

    fn embedding_bag(&mut self, table: &Param<CudaMatrix>, bags: &[Bag]) -> Result<CudaTensor> {
        gather::embedding_bag(self, table, bags)
    }

    fn rms_norm(&mut self, x: &CudaTensor, weight: &Param<CudaVector>, eps: f32) -> Result<CudaTensor> {
        norm::norm(self, x, weight, None, eps)
    }

    fn layer_norm(
        &mut self,
        x: &CudaTensor,
        weight: &Param<CudaVector>,
        bias: &Param<CudaVector>,
        eps: f32,
    ) -> Result<CudaTensor> {
        norm::norm(self, x, weight, Some(bias), eps)
    }

    fn linear(
        &mut self,
        x: &CudaTensor,
        weight: &Param<CudaMatrix>,
        bias: Option<&Param<CudaVector>>,
    ) -> Result<CudaTensor> {
        let (m, n, k) = (x.rows(), weight.value.rows, weight.value.columns);
        let gpu = self.gpu.clone();
        let inner = self.inner(x)?;
        let (output, size) = match bias {
            // Rounded once, as the sum.
            Some(_) => (Output::F32, size_of::<f32>()),
            None => (Output::Inner, gpu.inner_size()),
        };
        let y = gpu.allocate(m * n * size)?;
        let product = Product { output, ..Product::inner(&inner, &weight.value.values, &y, Accumulate::No) };
        gpu.product_transposed(&product, m, n, k)?;
        let y = match bias {
            Some(bias) => CudaTensor::biased(y, &bias.value.values, m, n, self.grad_enabled),
            None => self.tensor(Kind::Inner, y, m, n),
        };
        if self.grad_enabled {
            let (weight_gradient, bias_gradient) =
                (self.weight_gradient(weight), bias.and_then(|bias| self.weight_gradient(bias)));
            let (x, weight, output) = (x.clone(), weight.value.clone(), y.gradient());
            let backward = LinearBackward { x, inner, weight, weight_gradient, bias_gradient, alpha: 1.0 };
            self.on_backward(move |gpu| output.take().map_or(Ok(()), |dy| backward.run(gpu, &dy)));
        }
        Ok(y)
    }

    fn add(&mut self, a: &CudaTensor, b: &CudaTensor) -> Result<CudaTensor> {
        let y = CudaTensor::sum(a, b, self.grad_enabled);
        if self.grad_enabled {
            let (left, right, output, count) =
                ((a.gradient(), a.kind()), (b.gradient(), b.kind()), y.gradient(), y.len());
            self.on_backward(move |gpu| {
                let Some(dy) = output.take() else { return Ok(()) };
                for (gradient, kind) in [left, right] {
                    add_gradient(gpu, &gradient, kind, &dy, Kind::Stream, count)?;
                }
                Ok(())
            });
        }
        Ok(y)
    }

    fn add_lora(
        &mut self,
        y: CudaTensor,
        x: &CudaTensor,
        [a, b]: [&Param<CudaMatrix>; 2],
        scale: f32,
        dropout: Option<(&mut Dropout, f64)>,
    ) -> Result<CudaTensor> {
        let gpu = self.gpu.clone();
        let (m, rank, outputs) = (x.rows(), a.value.rows, b.value.rows);
        let kept = match dropout {
            Some((dropout, rate)) => gather::drop_elements(self, x, dropout, rate)?,
            None => x.clone(),
        };
        // scale x a^T, then the update is added to y in place: nothing else reads y.
        let (inner, low) = (self.inner(&kept)?, gpu.allocate(m * rank * gpu.inner_size())?);
        let product = Product { alpha: scale, ..Product::inner(&inner, &a.value.values, &low, Accumulate::No) };
        gpu.product_transposed(&product, m, rank, a.value.columns)?;
        let low = self.tensor(Kind::Inner, low, m, rank);
        let (output, values) = (y.gradient(), y.into_values(&gpu)?);
        let low_values = low.values(&gpu)?;
        let product = Product::inner(&low_values, &b.value.values, &values, Accumulate::Yes);
        gpu.product_transposed(&product, m, outputs, rank)?;
        let sum = self.tensor(Kind::Inner, values, m, outputs);
        if self.grad_enabled {
            let backward = |x: &CudaTensor, inner, parameter: &Param<CudaMatrix>, alpha| LinearBackward {
                x: x.clone(),
                inner,
                weight: parameter.value.clone(),
                weight_gradient: self.weight_gradient(parameter),
                bias_gradient: None,
                alpha,
            };
            let (down, up) = (backward(&kept, inner, a, scale), backward(&low, low_values, b, 1.0));
            let (low, total) = (low.gradient(), sum.gradient());
            self.on_backward(move |gpu| {
                let Some(dy) = total.take() else { return Ok(()) };
                up.run(gpu, &dy)?;
                if let Some(dlow) = low.take() {
                    down.run(gpu, &dlow)?;
                }
                // The base layer's output has the same gradient.
                output.add(gpu, Kind::Inner, dy, m * outputs)
            });
        }
        Ok(sum)
    }

    fn scale_columns(&mut self, x: &CudaTensor, scale: &Param<CudaVector>) -> Result<CudaTensor> {
        let (gpu, count, rows, width) = (self.gpu.clone(), x.len(), x.rows(), x.width());
        let factors = scale.value.values.clone();
        let run = move |gpu: &Gpu, from: &Rc<Buffer>| {
            let to = gpu.allocate(count * gpu.inner_size())?;
            let arguments = [from.into(), (&factors).into(), (&to).into(), long(count), width.into()];
            gpu.each("scale_columns", count, &arguments).map(|()| to)
        };
        let values = self.inner(x)?;
        let scaled = run(&gpu, &values)?;
        let y = self.tensor(Kind::Inner, scaled, rows, width);
        if self.grad_enabled {
            let (of_scale, gradient, kind, output) =
                (self.weight_gradient(scale), x.gradient(), x.kind(), y.gradient());
            self.on_backward(move |gpu| {
                let Some(dy) = output.take() else { return Ok(()) };
                if let Some(of_scale) = &of_scale {
                    of_scale.accumulate(|sum, into| column_sums(gpu, &dy, Some(&values), sum, (rows, width), into))?;
                }
                if gradient.is_tracked() {
                    add_gradient(gpu, &gradient, kind, &run(gpu, &dy)?, Kind::Inner, count)?;
                }
                Ok(())
            });
        }
        Ok(y)
    }

    fn join_rows(&mut self, x: CudaTensor, count: usize) -> Result<CudaTensor> {
        gather::join_rows(self, &x, count)
    }

    fn average_rows(&mut self, x: &CudaTensor, count: usize) -> Result<CudaTensor> {
        gather::average_rows(self, x, count)
    }

    fn split_columns(&mut self, x: &CudaTensor, count: usize) -> Result<Vec<CudaTensor>> {
        gather::split_columns(self, x, count)
    }

    fn concat_columns(&mut self, parts: &[CudaTensor]) -> Result<CudaTensor> {
        gather::concat_columns(self, parts)
    }

    fn attention(
        &mut self,
        layer: usize,
        q: CudaTensor,
        k: CudaTensor,
        v: CudaTensor,
        plan: &AttentionPlan,
    ) -> Result<CudaTensor> {
        attention::attend(self, layer, q, k, v, plan)
    }

    fn gated(&mut self, gate: &CudaTensor, up: &CudaTensor, activation: Activation) -> Result<CudaTensor> {
        // Elements per thread.
        let (forward, backward, each) = match activation {
            Activation::Swiglu => ("swiglu_forward", "swiglu_backward", 4),
            Activation::Geglu => ("geglu_forward", "geglu_backward", 1),
            _ => panic!("BUG: an activation with one input"),
        };
        let (gpu, count) = (self.gpu.clone(), gate.len());
        let (gate_values, up_values) = (self.inner(gate)?, self.inner(up)?);
        let y = gpu.allocate(count * gpu.inner_size())?;
        let arguments = [(&gate_values).into(), (&up_values).into(), (&y).into(), long(count)];
        gpu.each(forward, count.div_ceil(each), &arguments)?;
        let y = self.tensor(Kind::Inner, y, gate.rows(), gate.width());
        if self.grad_enabled {
            let (dgate, dup, output) = (gate.gradient(), up.gradient(), y.gradient());
            self.on_backward(move |gpu| {
                let Some(dy) = output.take() else { return Ok(()) };
                let (to_gate, to_up) =
                    (gpu.allocate(count * gpu.inner_size())?, gpu.allocate(count * gpu.inner_size())?);
                let inputs = [(&gate_values).into(), (&up_values).into(), (&dy).into()];
                let outputs = [(&to_gate).into(), (&to_up).into(), long(count)];
                gpu.each(backward, count.div_ceil(each), &[inputs, outputs].concat())?;
                dgate.add(gpu, Kind::Inner, to_gate, count)?;
                dup.add(gpu, Kind::Inner, to_up, count)
            });
        }
        Ok(y)
    }

    fn activate(&mut self, x: &CudaTensor, activation: Activation) -> Result<CudaTensor> {
        // As in the kernel's enumeration.
        let kind: usize = match activation {
            Activation::Gelu => 0,
            Activation::GeluTanh => 1,
            Activation::QuickGelu => 2,
            Activation::Swiglu | Activation::Geglu => panic!("BUG: a gated activation has two inputs"),
        };
        let (gpu, count, values) = (self.gpu.clone(), x.len(), self.inner(x)?);
        let y = gpu.allocate(count * gpu.inner_size())?;
        gpu.each("activate_forward", count, &[(&values).into(), (&y).into(), long(count), kind.into()])?;
        let y = self.tensor(Kind::Inner, y, x.rows(), x.width());
        if self.grad_enabled {
            let (gradient, own, output) = (x.gradient(), x.kind(), y.gradient());
            self.on_backward(move |gpu| {
                let Some(dy) = output.take() else { return Ok(()) };
                let dx = gpu.allocate(count * gpu.inner_size())?;
                let arguments = [(&values).into(), (&dy).into(), (&dx).into(), long(count), kind.into()];
                gpu.each("activate_backward", count, &arguments)?;
                add_gradient(gpu, &gradient, own, &dx, Kind::Inner, count)
            });
        }
        Ok(y)
    }
}

impl AutogradOps for CudaOps {
    type LogProbs = CudaLogProbs;
    type Gradients = Rc<CudaGradients>;

    fn new(weights: &CudaWeights, gradients: Option<Rc<CudaGradients>>) -> CudaOps {
        CudaOps::with(&weights.0, gradients, None)
    }

    fn log_probs(&mut self, x: &CudaTensor, weight: &Param<CudaMatrix>, targets: &[u32]) -> Result<CudaLogProbs> {
        loss::log_probs(self, x, weight, targets)
    }

    fn values(&self, log_probs: &CudaLogProbs) -> Result<Vec<f32>> {
        self.gpu.read(&log_probs.values, log_probs.count)
    }

    fn sums(&mut self, log_probs: &mut CudaLogProbs, groups: &TargetGroups) -> Result<Vec<[f64; 2]>> {
        log_probs.sums(&self.gpu, groups)
    }

    fn backward(
        &mut self,
        log_probs: &CudaLogProbs,
        _: &TargetGroups,
        slopes: &[[f64; 2]],
        _: &[Loaded<CudaWeights>],
    ) -> Result<()> {
        self.seed.replace(Some(log_probs.spread(&self.gpu, slopes)?));
        let tape = self.take_tape();
        self.run(tape)
    }

    #[cfg(test)]
    fn to_vec(&self, x: &CudaTensor) -> Result<Vec<f32>> {
        let values = convert(&self.gpu, &x.values(&self.gpu)?, x.kind(), Kind::Stream, x.len())?;
        self.gpu.read(&values, x.len())
    }
}

impl SegmentOps for CudaOps {
    type Tape = Tape;

    fn take_tape(&mut self) -> Tape {
        std::mem::take(&mut self.tape)
    }

    fn leaf(&self, x: &CudaTensor) -> Result<CudaTensor> {
        Ok(CudaTensor::new(x.kind(), x.values(&self.gpu)?, x.rows(), x.width(), true))
    }

    fn backward_segment(&mut self, tape: Tape, y: &CudaTensor, leaf: &CudaTensor) -> Result<()> {
        if let Some(dy) = leaf.gradient().take() {
            y.gradient().add(&self.gpu, y.kind(), dy, y.len())?;
        }
        self.run(tape)
    }
}
