//! Inference: sampling responses to prompts, and log-probabilities of given responses.
//!
//! In reading order: `request` (configuration and responses), [`generate`](generate()) (distribution of work), `sample` (from logits to a token),
//! `cpu` (packed weights, a key/value cache per sequence), `gpu` (groups of prompts), `reference` (no cache, for tests),
//! [`score`].

pub mod generate;
pub mod score;

mod cpu;
mod gpu;
#[cfg(test)]
pub(crate) mod reference;
mod request;
mod sample;

#[cfg(test)]
mod tests;

pub use generate::generate;
pub use request::{Done, GenerateConfig, Generated, Watch};
pub use score::log_probs;
