//! Arithmetic on slices for the CPU.
//!
//! **The bits of a result depend neither on the number of threads, nor on the batch, nor on the machine**, as long as the
//! machine is an x86-64 with AVX2 and FMA, or any other with a fused multiply-add:
//! - An element of a matrix product is one chain of fused multiply-adds over the depth, in order ([`matmul`]).
//! - A sum over a row goes into [`LANES`] partial sums that are added in a fixed order, whatever the width of the registers.
//! - `exp` and `erf` are polynomials ([`math`]), and Rust never contracts `a * b + c` by itself.
//! - Logarithms, sines and cosines come from the platform in `f64` and are rounded to `f32`. They differ between C
//!   libraries only where the last bits of the `f64` change the rounding, which is rare.
//!
//! The compiler vectorizes the loops under `#[target_feature]`; the instruction set is chosen at run time ([`simd`]).

pub(crate) mod attention;
pub(crate) mod elementwise;
pub(crate) mod fused_cross_entropy;
pub(crate) mod gemv;
pub(crate) mod layer_norm;
pub(crate) mod math;
pub(crate) mod matmul;
pub(crate) mod microkernel;
pub(crate) mod rope;
pub(crate) mod simd;
pub(crate) mod softmax;
pub(crate) mod weight;

/// Partial sums of a sum over a row.
pub(crate) const LANES: usize = 16;
