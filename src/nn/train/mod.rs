//! Training: supervised fine-tuning and preference optimization.
//!
//! In reading order: [`sft`] and [`dpo`] with [`preference`] (the losses), `run` (the training loop) with `sharding` (how a
//! batch is split) and `start_size` (a first size of micro-batches), `tuning` (adapters, frozen parameters, micro-batches), `state`
//! (the state from which an interrupted run resumes).
//!
//! On the CPU, the same rows, config and seed give the same weights bit for bit, with any number of threads and
//! interruptions. A batch is always split into the same shards, each with its own tape, and their gradients are added in
//! shard order.

pub mod dpo;
pub mod preference;
pub mod sft;

mod run;
mod sharding;
mod start_size;
mod state;
mod tuning;

#[cfg(test)]
mod tests;

pub use crate::optimizer::{Freeze, LearningRates, OptimizerConfig, Schedule};
pub use ablate_data::batches::{BatchConfig, BatchSampler, Budget, LastBatch};
pub use dpo::{DpoConfig, dpo};
pub use preference::{PreferenceLoss, TokenWeights};
pub use run::Trained;
pub use sft::{SftConfig, sft};
pub use state::TrainState;
pub use tuning::{Auto, MicroBatch, Tuning};
