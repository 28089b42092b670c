//! Every stage kind that an experiment may name, one file each.

pub mod base;
pub mod command;
pub mod distill;
pub mod dpo;
pub mod eval;
pub mod export;
pub mod items;
pub mod judge;
pub mod mix;
pub mod pairs;
pub mod rerank;
pub mod rollout;
pub mod score;
pub mod sft;
pub mod tokenizer;

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
