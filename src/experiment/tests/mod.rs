//! Loads whole experiments and compares all messages or all instance names. The kinds are test kinds that do not run.
#![expect(clippy::needless_raw_string_hashes, reason = "expect-test writes the strings")]

mod axes;
mod axis_errors;
mod computed_axes;
mod constraints;
mod errors;
mod expansion;
mod files_and_overrides;
mod fuzz;
mod references;
mod removal;
mod reports;
mod support;
mod templates;
