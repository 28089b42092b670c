//! Training: supervised fine-tuning and direct preference optimization. Knows no stage, no store and no prompt.
//!
//! In reading order: [`optimizer`] (AdamW and its schedule), [`sft`] and [`dpo`] with [`preference`] (the losses), `run`
//! (the loop that both share) with `parts` (how a batch is cut), `tuning` (what learns), `state` (what an interrupted run
//! resumes from).
//!
//! Promised on the CPU: the same rows, config and seed give the same weights bit for bit, with any number of threads
//! and however often the run was interrupted. A batch is always cut into the same parts, each with its own
//! tape, and what they find is added up in their order.

pub mod dpo;
pub mod optimizer;
pub mod preference;
pub mod sft;

mod parts;
mod run;
mod state;
mod tuning;

#[cfg(test)]
mod golden;
#[cfg(test)]
mod parity;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod tuning_tests;

pub use dpo::{DpoConfig, dpo};
pub use optimizer::{Freeze, LearningRates, OptimizerConfig, Schedule};
pub use preference::{PreferenceLoss, TokenWeights};
pub use run::Trained;
pub use sft::{SftConfig, sft};
pub use state::TrainState;
pub use tuning::{Auto, MicroBatch, Tuning};
