//! Tests of several files of the engine, with the helper kinds and fixtures that they share.

mod cluster_tests;
mod crash_tests;
mod failure_tests;
mod fuzz;
mod noop_tests;
mod process_tests;
mod rerun_tests;
pub(crate) mod support;
mod test_kinds;
