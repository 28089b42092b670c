//! Arithmetic on plain slices for the CPU. Knows no tensor, no tape and no model.
//!
//! What is promised: **the same bits whatever the number of threads, the batch an element sits in, or the machine**, as
//! long as the machine is an x86-64 with AVX2 and FMA, or any other with a fused multiply-add. It holds because
//! - an element of a matrix product is one chain of fused multiply-adds over the depth, in order ([`matmul`]);
//! - sums over a row go into [`LANES`] partial sums that are folded in a fixed order, however wide the registers are;
//! - `exp` and `erf` are polynomials of ours, and Rust never contracts `a * b + c` by itself;
//! - logarithms, sines and cosines are taken in `f64` from the platform and rounded to `f32`, which leaves its last
//!   bits no say but in the rarest case. This is the one place where another C library could show.
//!
//! Loops are vectorised by the compiler under `#[target_feature]`; the instruction set is chosen at run time.

pub(crate) mod attention;
pub(crate) mod elementwise;
pub(crate) mod head;
pub(crate) mod layer_norm;
pub(crate) mod math;
pub(crate) mod matmul;
pub(crate) mod packing;
mod panels;
pub(crate) mod rotary;
pub(crate) mod single;
pub(crate) mod softmax;
pub(crate) mod weight;

/// Partial sums per row sum.
pub(crate) const LANES: usize = 16;

pub(crate) use super::raw::simd;
