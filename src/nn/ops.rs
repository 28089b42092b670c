//! The operations of a model, as a trait with one implementation per way to compute.
//!
//! [`CpuOps`](super::cpu::CpuOps) has one of our kernels per operation, and so has `CudaOps` on a GPU.
//! In tests, `DfdxOps` composes dfdx's operations and is the reference for both. A tensor has one token per row. Letters as in
//! [`super`].

use std::ops::Range;
use std::sync::Arc;

use anyhow::Result;
use dfdx::prelude::*;

use super::architecture::Activation;
use super::batch::EmbeddingSource;
use super::device_error::device_error;
use super::dropout::Dropout;
use super::kernels::attention::{Heads, KeyRanges};
use super::kernels::elementwise;
use super::kernels::rope::Rotations;

pub(crate) type Scalar<D, T = NoneTape> = Tensor<(), f32, D, T>;
pub(crate) type Vector<D, T = NoneTape> = Tensor<(usize,), f32, D, T>;

/// Where weights are kept, and in which form.
pub(crate) trait WeightStore: Clone {
    /// (out, in), for matrix products. A clone shares the weights.
    type Matrix: Clone;
    /// (rows, width), read by row.
    type Table: Clone;
    type Vector: Clone;

    fn matrix(&self, values: Arc<Vec<f32>>, rows: usize, columns: usize) -> Result<Self::Matrix>;

    fn table(&self, values: Arc<Vec<f32>>, rows: usize, columns: usize) -> Result<Self::Table>;

    /// `len` values, to each of which operations add `offset`.
    fn vector(&self, values: Arc<Vec<f32>>, len: usize, offset: f32) -> Result<Self::Vector>;

    /// The weights of a table, for matrix products.
    fn tied(&self, table: &Self::Table) -> Result<Self::Matrix>;
}

/// A parameter's weights in a store. A clone shares them.
#[derive(Clone)]
pub(crate) enum LoadedWeight<P: WeightStore> {
    Matrix(P::Matrix),
    Table(P::Table),
    Vector(P::Vector),
}

/// Rows of a table with their weights.
pub(crate) type Bag = [(usize, f32); 4];

/// A parameter's weights, if they are loaded.
pub(crate) type Loaded<P> = Option<LoadedWeight<P>>;

/// A parameter as operations use it.
#[derive(Clone, Debug)]
pub(crate) struct Param<W> {
    pub(crate) value: W,
    /// Its index in the [`TrainableModel`](super::trainable_model::TrainableModel) and in the gradients.
    pub(crate) index: usize,
    /// Whether a backward pass computes its gradient.
    pub(crate) trainable: bool,
}

/// Factors of [`ScaleOps::scale`].
pub(crate) enum Factor {
    Constant(f32),
    PerElement(Vec<f32>),
}

/// The targets of a batch in groups, which follow each other. A loss is a function of two sums per group: of the log-probabilities,
/// each times its factor, and of the log-probabilities alone.
#[derive(Clone, Debug, Default)]
pub(crate) struct TargetGroups {
    /// The index behind the last target of each group.
    pub(crate) ends: Vec<usize>,
    /// One per target.
    pub(crate) factors: Vec<f64>,
}

impl TargetGroups {
    fn groups(&self) -> impl Iterator<Item = Range<usize>> {
        let starts = std::iter::once(0).chain(self.ends.iter().copied());
        starts.zip(&self.ends).map(|(start, &end)| start..end)
    }

    /// The groups of batches that follow each other.
    #[cfg(feature = "cuda")]
    pub(crate) fn join(parts: &[TargetGroups]) -> TargetGroups {
        let mut whole = TargetGroups::default();
        for part in parts {
            let targets = whole.factors.len();
            whole.ends.extend(part.ends.iter().map(|end| end + targets));
            whole.factors.extend_from_slice(&part.factors);
        }
        whole
    }

    /// The two sums of each group.
    pub(crate) fn sums(&self, log_probs: &[f32]) -> Vec<[f64; 2]> {
        let mut sums = vec![[0.0; 2]; self.ends.len()];
        for (group, [weighted, plain]) in self.groups().zip(&mut sums) {
            for (&factor, &value) in self.factors[group.clone()].iter().zip(&log_probs[group]) {
                *weighted += factor * f64::from(value);
                *plain += f64::from(value);
            }
        }
        sums
    }

    /// The derivative of the loss by each log-probability, from those by the two sums of each group.
    pub(crate) fn spread(&self, slopes: &[[f64; 2]]) -> Vec<f32> {
        let of_group = |(group, &[weighted, plain]): (Range<usize>, &[f64; 2])| {
            self.factors[group].iter().map(move |factor| (weighted * factor + plain) as f32)
        };
        self.groups().zip(slopes).flat_map(of_group).collect()
    }
}

impl Factor {
    pub(crate) fn multiply(&self, values: &mut [f32]) {
        match self {
            Factor::Constant(factor) => elementwise::scale(values, *factor),
            Factor::PerElement(factors) => elementwise::multiply(values, factors),
        }
    }
}

/// The forward operations. While gradients are enabled, they are recorded for a backward pass.
pub(crate) trait Ops {
    type Weights: WeightStore;

    /// (n, width), a token per row. A clone is the same tensor.
    type Tensor: Clone;

    /// What attention needs besides its inputs. Built once per forward pass; all layers use it.
    type AttentionPlan;

    /// Whether the next operations are recorded for a backward pass.
    fn set_grad_enabled(&mut self, enabled: bool);

    /// Constant values (n, width).
    fn input(&mut self, values: &[f32], width: usize) -> Result<Self::Tensor>;

    /// Attention within each of `rows`, which cover the tokens in order. Without `rope`, queries and keys are not rotated. `keys` limits
    /// what each token attends to; without it, all of its row or, if causal, those up to itself.
    fn plan_attention(
        &mut self,
        heads: Heads,
        rows: &[Range<usize>],
        rope: Option<&Rotations>,
        keys: Option<&KeyRanges>,
    ) -> Result<Self::AttentionPlan>;

    /// Rows of a tensor by index -> (n, d).
    fn select_rows(&mut self, x: &Self::Tensor, indices: &[usize]) -> Result<Self::Tensor>;

    /// An embedding lookup: for each position a row of a table (v, d) times `scale`, a row of the image features (f, d), or the newline
    /// (d) -> (n, d).
    fn merge_image_features(
        &mut self,
        table: &Param<TableOf<Self>>,
        scale: Option<f32>,
        features: Option<&Self::Tensor>,
        newline: Option<&Param<VectorOf<Self>>>,
        sources: &[EmbeddingSource],
    ) -> Result<Self::Tensor>;

    /// Adds to each position the row of the image features that it reads, if it reads one: (n, d), (f, d) -> (n, d).
    fn add_image_features(
        &mut self,
        x: Self::Tensor,
        features: &Self::Tensor,
        sources: &[EmbeddingSource],
    ) -> Result<Self::Tensor>;

    /// Weighted sums of rows of a table (v, d), as `torch.nn.functional.embedding_bag` computes them: a row per bag -> (n, d).
    fn embedding_bag(&mut self, table: &Param<TableOf<Self>>, bags: &[Bag]) -> Result<Self::Tensor>;

    /// `x / sqrt(mean(x^2) + eps) * weight` (Zhang and Sennrich 2019). A row that is wider than the weight is normalized
    /// piece by piece, each as wide as the weight.
    fn rms_norm(&mut self, x: &Self::Tensor, weight: &Param<VectorOf<Self>>, eps: f32) -> Result<Self::Tensor>;

    /// `(x - mean) / sqrt(variance + eps) * weight + bias` of every row (Ba et al. 2016).
    fn layer_norm(
        &mut self,
        x: &Self::Tensor,
        weight: &Param<VectorOf<Self>>,
        bias: &Param<VectorOf<Self>>,
        eps: f32,
    ) -> Result<Self::Tensor>;

    /// `x weight^T + bias`: (n, i), (o, i), (o) -> (n, o).
    fn linear(
        &mut self,
        x: &Self::Tensor,
        weight: &Param<MatrixOf<Self>>,
        bias: Option<&Param<VectorOf<Self>>>,
    ) -> Result<Self::Tensor>;

    fn add(&mut self, a: &Self::Tensor, b: &Self::Tensor) -> Result<Self::Tensor>;

    /// `y + scale * dropout(x) a^T b^T` (Hu et al. 2021): (n, o), (n, i), (r, i), (o, r) -> (n, o). Dropout has a rate.
    fn add_lora(
        &mut self,
        y: Self::Tensor,
        x: &Self::Tensor,
        matrices: [&Param<MatrixOf<Self>>; 2],
        scale: f32,
        dropout: Option<(&mut Dropout, f64)>,
    ) -> Result<Self::Tensor>;

    /// Every row times a vector: (n, d), (d) -> (n, d).
    fn scale_columns(&mut self, x: &Self::Tensor, scale: &Param<VectorOf<Self>>) -> Result<Self::Tensor>;

    /// `count` consecutive rows side by side: (n, d) -> (n / count, count d).
    fn join_rows(&mut self, x: Self::Tensor, count: usize) -> Result<Self::Tensor>;

    /// The mean of each `count` consecutive rows: (n, d) -> (n / count, d).
    fn average_rows(&mut self, x: &Self::Tensor, count: usize) -> Result<Self::Tensor>;

    /// Columns in `count` parts of the same width: (n, count d) -> (n, d) each.
    fn split_columns(&mut self, x: &Self::Tensor, count: usize) -> Result<Vec<Self::Tensor>>;

    /// (n, d) each -> (n, sum of d).
    fn concat_columns(&mut self, parts: &[Self::Tensor]) -> Result<Self::Tensor>;

    /// Attention of layer `layer`: queries (n, h w), keys and values (n, k w) -> (n, h w). Queries and keys are rotated if
    /// the plan has rotations.
    fn attention(
        &mut self,
        layer: usize,
        q: Self::Tensor,
        k: Self::Tensor,
        v: Self::Tensor,
        plan: &Self::AttentionPlan,
    ) -> Result<Self::Tensor>;

    /// An activation of two inputs: [`Activation::Swiglu`] or [`Activation::Geglu`].
    fn gated(&mut self, gate: &Self::Tensor, up: &Self::Tensor, activation: Activation) -> Result<Self::Tensor>;

    /// An activation of one input.
    fn activate(&mut self, x: &Self::Tensor, activation: Activation) -> Result<Self::Tensor>;
}

pub(crate) type TableOf<O> = <<O as Ops>::Weights as WeightStore>::Table;
pub(crate) type MatrixOf<O> = <<O as Ops>::Weights as WeightStore>::Matrix;
pub(crate) type VectorOf<O> = <<O as Ops>::Weights as WeightStore>::Vector;

/// Operations with a scaling, from which [`add_lora`] is composed.
pub(crate) trait ScaleOps: Ops {
    /// `x` times constants.
    fn scale(&mut self, x: &Self::Tensor, factor: Factor) -> Result<Self::Tensor>;
}

/// [`Ops::add_lora`], composed of other operations.
pub(crate) fn add_lora<O: ScaleOps>(
    ops: &mut O,
    y: &O::Tensor,
    x: &O::Tensor,
    [a, b]: [&Param<MatrixOf<O>>; 2],
    scale: f32,
    dropout: Option<Vec<f32>>,
) -> Result<O::Tensor> {
    let low = match dropout {
        Some(factors) => {
            let kept = ops.scale(x, Factor::PerElement(factors))?;
            ops.linear(&kept, a, None)?
        }
        None => ops.linear(x, a, None)?,
    };
    let low = ops.scale(&low, Factor::Constant(scale))?;
    let update = ops.linear(&low, b, None)?;
    ops.add(y, &update)
}

/// Operations with a backward pass, on dfdx's tape.
pub(crate) trait AutogradOps: Ops + Sized {
    /// The log-probabilities of targets.
    type LogProbs;
    /// What a backward pass adds its gradients to.
    type Gradients: Clone;

    /// Whether all rows of a batch must have the same length.
    #[cfg(test)]
    const NEEDS_PADDING: bool = false;

    fn new(weights: &Self::Weights, gradients: Option<Self::Gradients>) -> Self;

    /// `log softmax(x weight^T)` at each row's target: (n, d), (v, d) -> (n,).
    fn log_probs(
        &mut self,
        x: &Self::Tensor,
        weight: &Param<MatrixOf<Self>>,
        targets: &[u32],
    ) -> Result<Self::LogProbs>;

    /// The log-probabilities on the host.
    fn values(&self, log_probs: &Self::LogProbs) -> Result<Vec<f32>>;

    /// The two sums of each group.
    fn sums(&mut self, log_probs: &mut Self::LogProbs, groups: &TargetGroups) -> Result<Vec<[f64; 2]>> {
        Ok(groups.sums(&self.values(log_probs)?))
    }

    /// Adds the gradients of any loss with these derivatives by the two sums of each group, after [`AutogradOps::sums`], and forgets
    /// what was recorded. `loaded` holds the parameters by index.
    fn backward(
        &mut self,
        log_probs: &Self::LogProbs,
        groups: &TargetGroups,
        slopes: &[[f64; 2]],
        loaded: &[Loaded<Self::Weights>],
    ) -> Result<()>;

    /// Ends the backward pass.
    fn finish_backward(&mut self) {}

    #[cfg(test)]
    fn to_vec(&self, x: &Self::Tensor) -> Result<Vec<f32>>;
}

/// Operations whose backward pass can run in segments, so that the activations of one segment are in memory at a time.
pub(crate) trait SegmentOps: AutogradOps {
    /// The recorded operations.
    type Tape;

    /// Takes what was recorded so far.
    fn take_tape(&mut self) -> Self::Tape;

    /// The same values without a history: the end of a segment's backward pass.
    fn leaf(&self, x: &Self::Tensor) -> Result<Self::Tensor>;

    /// Runs a segment's backward pass. It ended with `y`, whose gradient is that of `leaf`, a leaf with the same values.
    fn backward_segment(&mut self, tape: Self::Tape, y: &Self::Tensor, leaf: &Self::Tensor) -> Result<()>;
}

/// Runs the backward pass of `sum(derivative * output)` on a tape.
pub(crate) fn backward<D: Device<f32>>(
    tape: OwnedTape<f32, D>,
    output: &Vector<D>,
    derivative: Vec<f32>,
) -> Result<Gradients<f32, D>> {
    let shape = (derivative.len(),);
    let derivative: Vector<D> = output.device().try_tensor_from_vec(derivative, shape).map_err(device_error)?;
    let product = output.clone().put_tape(tape).try_mul(derivative).map_err(device_error)?;
    let sum: Scalar<D, _> = product.try_sum::<(), Axis<0>>().map_err(device_error)?;
    sum.try_backward().map_err(device_error)
}

/// Runs the operations of a tape in reverse.
pub(crate) fn run(tape: OwnedTape<f32, Cpu>) -> Result<()> {
    let start: Scalar<Cpu> = Cpu::default().try_zeros().map_err(device_error)?;
    start.put_tape(tape).try_backward().map_err(device_error)?;
    Ok(())
}
