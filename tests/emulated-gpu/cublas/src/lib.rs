//! The matrix products of cuBLAS, `libcublas.so.12`, on the CPU.
//!
//! Arguments are checked as cuBLAS documents it, and every range of memory by the emulated driver, which is in the same
//! folder. The sums are in a fixed order, so that results do not depend on the number of threads.

#![allow(unsafe_code, reason = "the functions are NVIDIA's, which take pointers")]
#![allow(non_snake_case, reason = "the names are NVIDIA's")]
#![allow(clippy::print_stderr, reason = "a library of C has no other place for messages")]

mod driver;
mod format;
mod functions;
mod gemm;
mod product;
mod status;
