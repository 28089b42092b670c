//! Tests of several modules, and their shared fixtures.

mod parity;
pub(crate) mod support;
