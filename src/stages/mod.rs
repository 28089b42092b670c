//! The stage kinds, one file each: read inputs, call the layer below, write outputs. A kind knows no other kind,
//! no store and no engine.

mod models;
mod sampling;

pub mod base;
pub mod dpo;
pub mod eval;
pub mod rollout;
pub mod sft;

use crate::stage::{Kind, Registry};

/// Every kind that an experiment may name.
pub static KINDS: &Registry = ALL;

static ALL: &[&Kind] = &[&base::KIND, &sft::KIND, &rollout::KIND, &dpo::KIND, &eval::KIND];
