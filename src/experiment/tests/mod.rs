//! Whole experiments in, whole messages and instance names out. Stages are toys that run nothing.
#![expect(clippy::needless_raw_string_hashes, reason = "as expect-test writes them")]

mod axes;
mod axis_errors;
mod errors;
mod expansion;
mod fuzz;
mod generated;
mod language;
mod points;
mod references;
mod removal;
mod reports;
mod support;
