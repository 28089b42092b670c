//! The stage kinds, one file each: read inputs, call the layer below, write outputs. A kind knows no other kind,
//! no store and no engine.

pub mod items;
pub mod tokenizer;

pub mod base;
pub mod sft;

pub mod distill;
pub mod mix;

pub mod judge;
pub mod pairs;
pub mod rollout;

pub mod dpo;
pub mod eval;

pub mod rerank;
pub mod score;

pub mod export;

pub mod command;

pub mod ask;

mod common;
mod distill_teacher;
mod endpoint;
mod eval_model;
mod fitting;
#[cfg(test)]
mod image_tests;
mod losses;
mod metrics;
mod mix_rows;
mod model;
mod models;
mod packing;
mod pictures;
mod sampling;

#[cfg(test)]
mod endpoint_tests;
#[cfg(test)]
mod fuzz;
#[cfg(test)]
mod model_tests;

use ablate_core::stage::{Kind, Registry};

/// Every kind that an experiment may name.
pub static KINDS: &Registry = ALL;

/// In the order of the pipeline.
static ALL: &[&Kind] = &[
    &items::KIND,
    &tokenizer::KIND,
    &base::KIND,
    &distill::KIND,
    &mix::KIND,
    &sft::KIND,
    &rollout::KIND,
    &judge::KIND,
    &pairs::KIND,
    &dpo::KIND,
    &eval::KIND,
    &score::KIND,
    &rerank::KIND,
    &export::KIND,
    &command::KIND,
];

// The parity tests move to the crates they test.
#[cfg(test)]
mod released_tests;
#[cfg(test)]
mod table_tests;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod training_tests;
#[cfg(test)]
mod verifier_tests;
