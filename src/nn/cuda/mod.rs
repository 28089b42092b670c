//! NVIDIA GPUs: the operations on one ([`ops`]), and with the feature `cuda` the driver (`devices`) and CUDA's functions.
//! Nothing is linked: `libraries` opens the driver and cuBLAS at their first use. So one program starts on every machine, works
//! with CUDA 11 (from 11.2), 12 and 13, and reports what is missing.
//!
//! Without the feature, the operations run on a GPU that only counts (`ops::recorder`), for the estimates of [`cost`](crate::cost).

#![allow(unsafe_code)]

#[cfg(feature = "cuda")]
mod compiler;
#[cfg(feature = "cuda")]
mod devices;
#[cfg(feature = "cuda")]
mod libraries;
#[cfg_attr(not(feature = "cuda"), allow(dead_code))]
pub(crate) mod ops;
#[cfg(feature = "cuda")]
mod symbols;
#[cfg(all(test, feature = "cuda"))]
pub(crate) mod tests;

#[cfg(feature = "cuda")]
pub(crate) use devices::{available_memory, check, check_capability, count, missing, open, survey};
#[cfg(all(test, feature = "cuda"))]
pub(crate) use libraries::{Address, Library, symbol};
