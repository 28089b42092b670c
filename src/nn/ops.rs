//! The operations of a model, as a trait with one implementation per way to compute.
//!
//! [`CpuOps`](super::cpu::CpuOps) has one of our kernels per operation; [`DfdxOps`](super::dfdx::DfdxOps) composes dfdx's
//! operations and runs on every device of dfdx. A tensor has one token per row. Letters as in [`super`].

use std::ops::Range;
use std::sync::Arc;

use anyhow::Result;
use dfdx::prelude::*;

use super::architecture::Activation;
use super::batch::EmbeddingSource;
use super::device_error::device_error;
use super::gradients::Shard;
use super::kernels::attention::Heads;
use super::kernels::elementwise;
use super::kernels::rope::RopeTable;

pub(crate) type Scalar<D, T = NoneTape> = Tensor<(), f32, D, T>;
pub(crate) type Vector<D, T = NoneTape> = Tensor<(usize,), f32, D, T>;
pub(crate) type Matrix<D, T = NoneTape> = Tensor<(usize, usize), f32, D, T>;

/// Where weights are kept, and in which form.
pub(crate) trait WeightStore: Clone {
    /// (out, in), for matrix products. A clone shares the weights.
    type Matrix: Clone;
    /// (rows, width), read by row.
    type Table: Clone;
    type Vector: Clone;

    fn matrix(&self, values: Arc<Vec<f32>>, rows: usize, columns: usize) -> Result<Self::Matrix>;

    fn table(&self, values: Arc<Vec<f32>>, rows: usize, columns: usize) -> Result<Self::Table>;

    fn vector(&self, values: Arc<Vec<f32>>) -> Result<Self::Vector>;

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

/// Factors of [`Ops::scale`].
pub(crate) enum Factor {
    Constant(f32),
    PerElement(Vec<f32>),
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

    /// (n, width), a token per row.
    type Tensor;

    /// What attention needs besides its inputs. Built once per forward pass; all layers use it.
    type AttentionPlan;

    /// Whether all rows of a batch must have the same length.
    const NEEDS_PADDING: bool;

    /// Whether the next operations are recorded for a backward pass.
    fn set_grad_enabled(&mut self, enabled: bool);

    /// The number of tokens.
    fn rows(&self, x: &Self::Tensor) -> usize;

    /// Constant values (n, width).
    fn input(&mut self, values: &[f32], width: usize) -> Result<Self::Tensor>;

    /// Attention within each of `rows`, which cover the tokens in order. Positions in a row count from 0; `rope` holds
    /// their rotations.
    fn plan_attention(
        &mut self,
        heads: Heads,
        rows: &[Range<usize>],
        rope: Option<&Arc<RopeTable>>,
    ) -> Result<Self::AttentionPlan>;

    /// Rows of a tensor by index -> (n, d).
    fn select_rows(&mut self, x: &Self::Tensor, indices: &[usize]) -> Result<Self::Tensor>;

    /// An embedding lookup: for each position a row of a table (v, d), a row of the image features (f, d), or the newline (d)
    /// -> (n, d).
    fn merge_image_features(
        &mut self,
        table: &Param<TableOf<Self>>,
        features: Option<&Self::Tensor>,
        newline: Option<&Param<VectorOf<Self>>>,
        sources: &[EmbeddingSource],
    ) -> Result<Self::Tensor>;

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

    /// `x` times constants.
    fn scale(&mut self, x: &Self::Tensor, factor: Factor) -> Result<Self::Tensor>;

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

    /// `silu(gate) * up` (Shazeer 2020).
    fn swiglu(&mut self, gate: &Self::Tensor, up: &Self::Tensor) -> Result<Self::Tensor>;

    /// An elementwise activation; not for [`Activation::Swiglu`], which has two inputs.
    fn activate(&mut self, x: &Self::Tensor, activation: Activation) -> Result<Self::Tensor>;
}

pub(crate) type TableOf<O> = <<O as Ops>::Weights as WeightStore>::Table;
pub(crate) type MatrixOf<O> = <<O as Ops>::Weights as WeightStore>::Matrix;
pub(crate) type VectorOf<O> = <<O as Ops>::Weights as WeightStore>::Vector;

/// Operations with a backward pass, on dfdx's tape.
pub(crate) trait AutogradOps: Ops + Sized {
    type D: Device<f32>;

    /// A backward pass adds its gradients to `shard`.
    fn new(weights: &Self::Weights, shard: Option<Shard>) -> Self;

    /// `log softmax(x weight^T)` at each row's target: (n, d), (v, d) -> (n,).
    fn log_probs(
        &mut self,
        x: &Self::Tensor,
        weight: &Param<MatrixOf<Self>>,
        targets: &[u32],
    ) -> Result<Vector<Self::D>>;

    /// Adds the gradients of `sum(derivative * output)` to the shard: those of any loss with this derivative by `output`.
    /// `loaded` holds the parameters by index.
    fn backward(self, output: &Vector<Self::D>, derivative: Vec<f32>, loaded: &[Loaded<Self::Weights>]) -> Result<()>;

    #[cfg(test)]
    fn to_vec(x: &Self::Tensor) -> Vec<f32>;
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
