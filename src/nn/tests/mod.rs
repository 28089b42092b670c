//! Tests of several modules, and their shared fixtures.

#[cfg(feature = "cuda")]
#[allow(unsafe_code)]
pub(crate) mod gpu;
pub(crate) mod parity;
pub(crate) mod support;
