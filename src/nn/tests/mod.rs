//! Tests that serve several files of the crate.

mod parity;
