//! The stage kinds ([`kinds`], one file each) and what they share. A stage reads its inputs, calls the crates below and
//! writes its outputs.

pub mod checkpoint_folders;
pub mod formats;
pub mod generate;
pub mod kinds;

mod baseline;
mod common;
mod drop_report;
mod endpoint;
mod endpoint_table;
mod file_source;
mod fill;
mod image_input;
mod image_pack;
mod judge_model;
mod loaded_model;
mod lost_rows;
mod metrics;
mod remote_model;
mod request_estimate;
mod requests;
mod sampling;
mod teacher_prompt;
mod too_long;
mod training_common;
mod training_table;

#[cfg(test)]
mod tests;

pub use kinds::KINDS;
