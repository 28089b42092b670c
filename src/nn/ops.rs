//! The operations that a model is made of, as a trait with one implementation per kind of device. Knows no model.
//!
//! [`Stock`](super::stock::Stock) composes dfdx's own operations and serves every device; [`Fused`](super::fused::Fused)
//! has a kernel per operation on the CPU. Tensors are flat: a token per row. Letters as in [`super`].

use std::ops::Range;

use dfdx::prelude::*;

use super::kernels::attention::Heads;
use super::kernels::elementwise::Rotary;

pub(crate) type Scalar<D, T = NoneTape> = Tensor<(), f32, D, T>;
pub(crate) type Vector<D, T = NoneTape> = Tensor<(usize,), f32, D, T>;
pub(crate) type Matrix<D, T = NoneTape> = Tensor<(usize, usize), f32, D, T>;
pub(crate) type Fallible<X, D> = Result<X, <D as HasErr>::Err>;

/// Where the embedding of a position comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Source {
    /// A row of the token embedding.
    Token(u32),
    /// A row of the projected image features.
    Feature(usize),
}

/// The operations on device `D`, with a tape (training) or without.
pub(crate) trait Ops<D: Device<f32>>: 'static {
    /// Whether all rows of a batch must have one length.
    const PADDED: bool;

    /// What attention needs besides its inputs: made once per forward pass, shared by its layers.
    type Plan;

    fn plan(device: &D, heads: Heads, rows: &[Range<usize>], rotary: Option<&Rotary>) -> Fallible<Self::Plan, D>;

    /// Rows of a table (r, d) by index -> (n, d).
    fn gather<T: Tape<f32, D>>(table: Matrix<D, T>, indices: &[usize]) -> Fallible<Matrix<D, T>, D>;

    /// Token embeddings (v, d) and image features (f, d), one of them per position -> (n, d).
    fn splice<T: Tape<f32, D>>(
        table: Matrix<D, T>,
        features: Option<Matrix<D, T>>,
        sources: &[Source],
    ) -> Fallible<Matrix<D, T>, D>;

    /// `x / sqrt(mean(x^2) + eps) * weight` (Zhang and Sennrich 2019): (n, d) -> (n, d).
    fn rms_norm<T: Tape<f32, D>>(x: Matrix<D, T>, weight: &Vector<D>, eps: f32) -> Fallible<Matrix<D, T>, D>;

    /// `x weight^T`: (n, i), (o, i) -> (n, o).
    fn linear<T: Tape<f32, D>>(x: Matrix<D, T>, weight: &Matrix<D>) -> Fallible<Matrix<D, T>, D>;

    fn add<T: Tape<f32, D>>(a: Matrix<D, T>, b: Matrix<D, T>) -> Fallible<Matrix<D, T>, D>;

    /// Queries (n, h w), keys and values (n, k w), rotated inside where the plan says so -> (n, h w).
    fn attention<T: Tape<f32, D>>(
        q: Matrix<D, T>,
        k: Matrix<D, T>,
        v: Matrix<D, T>,
        plan: &Self::Plan,
    ) -> Fallible<Matrix<D, T>, D>;

    /// `silu(gate) * up` (Shazeer 2020).
    fn swiglu<T: Tape<f32, D>>(gate: Matrix<D, T>, up: Matrix<D, T>) -> Fallible<Matrix<D, T>, D>;

    /// `x Phi(x)` (Hendrycks and Gimpel 2016).
    fn gelu<T: Tape<f32, D>>(x: Matrix<D, T>) -> Fallible<Matrix<D, T>, D>;

    /// `log softmax(x weight^T)` at each row's target: (n, d), (v, d) -> (n,).
    fn log_probs<T: Tape<f32, D>>(x: Matrix<D, T>, weight: &Matrix<D>, targets: &[u32]) -> Fallible<Vector<D, T>, D>;

    /// The gradient of a parameter as plain numbers; zeros where none has arrived.
    fn gradient<S: Shape>(gradients: &mut Gradients<f32, D>, parameter: &Tensor<S, f32, D>) -> Fallible<Vec<f32>, D> {
        gradients.try_alloc_for(parameter)?;
        Ok(gradients.get(parameter).as_vec())
    }
}
