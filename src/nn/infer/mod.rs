//! Inference: sampling responses and scoring given ones. Knows no stage, no prompt text and no answer.
//!
//! In reading order: [`generate`](generate()) (what is asked and how work is shared out), `sample` (from logits to a
//! token), `fast` (the CPU path: packed weights and a key/value cache), `grouped` (the GPU's: a group of prompts at a time),
//! `plain` (no cache: what both are checked against), [`score`].

pub mod generate;
pub mod score;

mod fast;
mod grouped;
#[cfg(test)]
mod plain;
mod sample;

#[cfg(test)]
pub(crate) mod parity;
#[cfg(test)]
mod tests;

pub use generate::{GenerateConfig, Generated, Watch, generate};
pub use score::log_probs;
