//! The stage kinds, one file each: read inputs, call the layer below, write outputs. A kind knows no other kind,
//! no store and no engine.

mod common;

pub mod items;
pub mod tokenizer;

pub mod distill;
mod distill_teacher;
pub mod judge;
pub mod mix;
mod mix_rows;
pub mod pairs;

use crate::stage::{Kind, Registry};

/// Every kind that an experiment may name.
pub static KINDS: &Registry = ALL;

static ALL: &[&Kind] = &[&items::KIND, &tokenizer::KIND, &distill::KIND, &mix::KIND, &judge::KIND, &pairs::KIND];

#[cfg(test)]
mod tests;
