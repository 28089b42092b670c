//! The functions of NVIDIA's driver, `libcuda.so.1`, without a GPU: device memory is memory of the host, and kernels run on
//! the CPU by the crate `ptx`.
//!
//! Everything is complete when a call returns. Where a GPU has an undefined order, a clock per stream finds the race: see
//! `streams`. Every access is checked against the allocations, and new memory is full of NaN. The environment variables are
//! in the README.

#![allow(unsafe_code, reason = "the functions are NVIDIA's, which take pointers")]
#![allow(non_snake_case, reason = "the names are NVIDIA's")]
#![allow(clippy::disallowed_methods, reason = "the files are reports of a test, not results")]
#![allow(clippy::print_stderr, reason = "a library of C has no other place for messages")]

#[macro_use]
mod abi;
mod counts;
mod device_functions;
mod exports;
mod graph_functions;
mod launches;
mod memory_functions;
mod module_functions;
mod settings;
mod state;
mod status;
mod stream_functions;
mod streams;
#[cfg(test)]
mod tests;
mod transfers;
mod work;
