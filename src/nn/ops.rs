//! The operations that a model is made of, as a trait with one implementation per way to compute. Knows no model.
//!
//! [`Fused`](super::fused::Fused) has a kernel per operation on the CPU and a tape, for training;
//! [`Stock`](super::stock::Stock) composes dfdx's own operations and serves every device with a tape;
//! [`Packed`](super::packed::Packed) has weights laid out for products and no tape, for generation. A value is flat: a
//! token per row. Letters as in [`super`].

use std::ops::Range;
use std::sync::Arc;

use anyhow::Result;
use dfdx::prelude::*;

use super::architecture::Activation;
use super::gradients::Part;
use super::kernels::attention::Heads;
use super::kernels::elementwise;
use super::kernels::rope::RopeTable;
use super::loader::Held;

pub(crate) type Scalar<D, T = NoneTape> = Tensor<(), f32, D, T>;
pub(crate) type Vector<D, T = NoneTape> = Tensor<(usize,), f32, D, T>;
pub(crate) type Matrix<D, T = NoneTape> = Tensor<(usize, usize), f32, D, T>;

/// Where the embedding of a position comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Source {
    /// A row of the token embedding.
    Token(u32),
    /// A row of the projected image features.
    Feature(usize),
    /// The feature that ends a row of patches.
    Newline,
}

/// Where weights live, and in which form.
pub(crate) trait Place: Clone {
    /// (out, in), for products. A clone is the same weights.
    type Matrix: Clone;
    /// (rows, width), looked up by row.
    type Table: Clone;
    type Vector: Clone;

    fn matrix(&self, values: Arc<Vec<f32>>, rows: usize, columns: usize) -> Result<Self::Matrix>;

    fn table(&self, values: Arc<Vec<f32>>, rows: usize, columns: usize) -> Result<Self::Table>;

    fn vector(&self, values: Arc<Vec<f32>>) -> Result<Self::Vector>;

    /// A table's own weights for products: what they learn there, the table learns.
    fn tied(&self, table: &Self::Table) -> Result<Self::Matrix>;
}

/// A parameter in its place.
#[derive(Clone, Debug)]
pub(crate) struct Param<W> {
    pub(crate) value: W,
    /// Its number in the learner, by which its gradient is known.
    pub(crate) number: usize,
    /// Whether a backward pass finds its gradient.
    pub(crate) learns: bool,
}

/// Factors of [`Ops::scale`].
pub(crate) enum Factor {
    All(f32),
    /// One per number.
    Each(Vec<f32>),
}

impl Factor {
    /// Multiplies numbers in place.
    pub(crate) fn multiply(&self, numbers: &mut [f32]) {
        match self {
            Factor::All(factor) => elementwise::scale(numbers, *factor),
            Factor::Each(factors) => elementwise::multiply(numbers, factors),
        }
    }
}

/// The operations. What they compute is remembered for a backward pass while they record.
pub(crate) trait Ops {
    type Place: Place;

    /// Numbers, a token per row.
    type X;

    /// What attention needs besides its inputs: made once per forward pass, shared by its layers.
    type Plan;

    /// Whether all rows of a batch must have one length.
    const PADDED: bool;

    /// Whether what follows is remembered for a backward pass.
    fn record(&mut self, on: bool);

    /// Tokens of a value.
    fn rows(&self, x: &Self::X) -> usize;

    /// Plain numbers (n, width).
    fn input(&mut self, values: Vec<f32>, width: usize) -> Result<Self::X>;

    /// Attention over `rows`, which cover the tokens in order; `turns` holds the rotary positions from 0 on.
    fn plan(&mut self, heads: Heads, rows: &[Range<usize>], turns: Option<&Arc<RopeTable>>) -> Result<Self::Plan>;

    /// Rows of a table (r, d) by index -> (n, d).
    fn lookup(&mut self, table: &Param<Table<Self>>, indices: &[usize]) -> Result<Self::X>;

    /// Rows of a value by index -> (n, d).
    fn select(&mut self, x: &Self::X, indices: &[usize]) -> Result<Self::X>;

    /// Rows of a table (v, d), of image features (f, d) and the newline (d), one of them per position -> (n, d).
    fn splice(
        &mut self,
        table: &Param<Table<Self>>,
        features: Option<&Self::X>,
        newline: Option<&Param<Vect<Self>>>,
        sources: &[Source],
    ) -> Result<Self::X>;

    /// `x / sqrt(mean(x^2) + eps) * weight` (Zhang and Sennrich 2019) of every stretch of a row as wide as the weight.
    fn rms_norm(&mut self, x: &Self::X, weight: &Param<Vect<Self>>, eps: f32) -> Result<Self::X>;

    /// `(x - mean) / sqrt(variance + eps) * weight + bias` of every row (Ba et al. 2016).
    fn layer_norm(
        &mut self,
        x: &Self::X,
        weight: &Param<Vect<Self>>,
        bias: &Param<Vect<Self>>,
        eps: f32,
    ) -> Result<Self::X>;

    /// `x weight^T + bias`: (n, i), (o, i), (o) -> (n, o).
    fn linear(&mut self, x: &Self::X, weight: &Param<Matr<Self>>, bias: Option<&Param<Vect<Self>>>) -> Result<Self::X>;

    fn add(&mut self, a: &Self::X, b: &Self::X) -> Result<Self::X>;

    /// Numbers times constants.
    fn scale(&mut self, x: &Self::X, factor: Factor) -> Result<Self::X>;

    /// Values of equal length side by side: (n, d) each -> (n, sum of d).
    fn beside(&mut self, parts: &[Self::X]) -> Result<Self::X>;

    /// Queries (n, h w), keys and values (n, k w) of layer `layer`, rotated inside where the plan says so -> (n, h w).
    fn attention(&mut self, layer: usize, q: Self::X, k: Self::X, v: Self::X, plan: &Self::Plan) -> Result<Self::X>;

    /// `silu(gate) * up` (Shazeer 2020).
    fn swiglu(&mut self, gate: &Self::X, up: &Self::X) -> Result<Self::X>;

    /// A function of every number; not for [`Activation::Swiglu`], which has two inputs.
    fn activate(&mut self, x: &Self::X, activation: Activation) -> Result<Self::X>;
}

pub(crate) type Table<O> = <<O as Ops>::Place as Place>::Table;
pub(crate) type Matr<O> = <<O as Ops>::Place as Place>::Matrix;
pub(crate) type Vect<O> = <<O as Ops>::Place as Place>::Vector;

/// Operations with a tape of dfdx's.
pub(crate) trait Taped: Ops + Sized {
    type D: Device<f32>;

    /// Operations on weights in `place`; gradients go to `part`, which a backward pass needs.
    fn new(place: &Self::Place, part: Option<Part>) -> Self;

    /// `log softmax(x weight^T)` at each row's target: (n, d), (v, d) -> (n,).
    fn log_probs(&mut self, x: &Self::X, weight: &Param<Matr<Self>>, targets: &[u32]) -> Result<Vector<Self::D>>;

    /// Adds the gradients of `sum(derivative * output)`, and so of any loss of `output` that has this derivative there, to
    /// the part's. `held` are the parameters by number.
    fn backward(self, output: &Vector<Self::D>, derivative: Vec<f32>, held: &[Option<Held<Self::Place>>])
    -> Result<()>;

    /// A value's numbers.
    #[cfg(test)]
    fn numbers(x: &Self::X) -> Vec<f32>;
}

/// Runs a tape backwards from `sum(derivative * output)`.
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

/// Weights as tensors on a device of dfdx's.
#[derive(Clone, Debug, Default)]
pub(crate) struct OnDevice<D>(pub(crate) D);

impl<D: Device<f32>> Place for OnDevice<D> {
    type Matrix = Matrix<D>;
    type Table = Matrix<D>;
    type Vector = Vector<D>;

    fn matrix(&self, values: Arc<Vec<f32>>, rows: usize, columns: usize) -> Result<Matrix<D>> {
        self.0.try_tensor_from_vec(Arc::unwrap_or_clone(values), (rows, columns)).map_err(device_error)
    }

    fn table(&self, values: Arc<Vec<f32>>, rows: usize, columns: usize) -> Result<Matrix<D>> {
        self.matrix(values, rows, columns)
    }

    fn vector(&self, values: Arc<Vec<f32>>) -> Result<Vector<D>> {
        let shape = (values.len(),);
        self.0.try_tensor_from_vec(Arc::unwrap_or_clone(values), shape).map_err(device_error)
    }

    fn tied(&self, table: &Matrix<D>) -> Result<Matrix<D>> {
        // A clone is the same tensor to a tape.
        Ok(table.clone())
    }
}

/// A device cannot take so much at once: less would do.
#[derive(Debug)]
pub(crate) struct NoRoom(pub(crate) String);

impl std::fmt::Display for NoRoom {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for NoRoom {}

/// Numbers of one tensor that dfdx's kernels can count: beyond, their 32-bit indices wrap, and they compute a part twice.
const MOST: usize = 1 << 31;

/// Refuses a tensor that is too large for dfdx's kernels.
pub(crate) fn countable(what: &str, sizes: &[usize]) -> Result<()> {
    let count = sizes.iter().try_fold(1usize, |count, &size| count.checked_mul(size));
    if count.is_none_or(|count| count > MOST) {
        return Err(NoRoom(format!("{what} are more than a GPU's kernels count to: {sizes:?} numbers")).into());
    }
    Ok(())
}

/// Whether a status of the driver or of cuBLAS, as dfdx prints it, says that there is no memory.
fn wants_memory(told: &str) -> bool {
    told.contains("OUT_OF_MEMORY") || told.contains("ALLOC_FAILED")
}

fn out_of_memory(told: &str) -> anyhow::Error {
    NoRoom(format!("the GPU is out of memory ({told})")).into()
}

/// A device's complaint as an error of ours.
pub(crate) fn device_error<E: std::fmt::Display + std::fmt::Debug>(error: E) -> anyhow::Error {
    let told = format!("{error:?}");
    if wants_memory(&told) {
        return out_of_memory(&told);
    }
    anyhow::anyhow!("the device failed: {error} ({told})")
}

/// Does something on a device, where want of memory is an error with advice. dfdx panics with it where an operation
/// copies a tensor that others hold, too; any other panic goes on.
pub(crate) fn within_memory<R>(advice: &'static str, work: impl FnOnce() -> Result<R>) -> Result<R> {
    // What a panic leaves half done is the device's memory, which is freed, and what the caller gives up on an error.
    let done = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work)).unwrap_or_else(|payload| {
        let told = payload.downcast_ref::<String>().map(String::as_str);
        match told.or_else(|| payload.downcast_ref::<&str>().copied()) {
            Some(told) if wants_memory(told) => Err(out_of_memory(told)),
            _ => std::panic::resume_unwind(payload),
        }
    });
    done.map_err(|error| if error.root_cause().is::<NoRoom>() { error.context(advice) } else { error })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As dfdx prints the driver's and cuBLAS's errors.
    #[test]
    fn want_of_memory_is_told_from_other_failures() {
        #[derive(Debug)]
        struct Driver(#[expect(dead_code, reason = "printed")] &'static str);
        impl std::fmt::Display for Driver {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                write!(f, "{self:?}")
            }
        }
        for status in ["CUDA_ERROR_OUT_OF_MEMORY", "CUBLAS_STATUS_ALLOC_FAILED"] {
            let error = device_error(Driver(status));
            assert!(error.is::<NoRoom>(), "{error}");
            let panics = || panic!("called `Result::unwrap()` on an `Err` value: {status}");
            let error = within_memory::<()>("take less", panics).unwrap_err();
            assert!(error.to_string() == "take less" && error.root_cause().is::<NoRoom>(), "{error:?}");
        }
        std::panic::catch_unwind(|| within_memory::<()>("take less", || panic!("BUG: another"))).unwrap_err();
        countable("scores", &[1 << 20, 1 << 11]).unwrap();
        for sizes in [&[1 << 20, 1 << 12][..], &[usize::MAX, 3]] {
            assert!(countable("scores", sizes).unwrap_err().is::<NoRoom>());
        }
        let error = within_memory::<()>("take less", || Err(anyhow::anyhow!("another"))).unwrap_err();
        assert_eq!(error.to_string(), "another");
        let error = device_error(Driver("CUDA_ERROR_ILLEGAL_ADDRESS"));
        assert!(error.to_string().starts_with("the device failed: Driver(\"CUDA_ERROR_ILLEGAL_ADDRESS\")"), "{error}");
    }
}
