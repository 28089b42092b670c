//! Tests that serve several files of the store, or are too long to stand at the end of one.

mod external_inputs;
mod file_hasher;
mod fuzz;
mod object;
mod open;
pub(crate) mod support;
