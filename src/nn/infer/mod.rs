//! Inference: sampling responses to prompts, and log-probabilities of given responses.
//!
//! In reading order: `request` (configuration and responses), [`generate`](generate()) (distribution of work), `sample` (from logits to a token),
//! `cpu` (packed weights, a key/value cache per sequence), `gpu` (continuous batching) with `places` (which part of the cache is free)
//! and `decoder` (what it needs of a device), `reference` (no cache, for tests), [`score`].

pub mod generate;
pub mod score;

mod cpu;
#[cfg_attr(not(any(feature = "cuda", test)), allow(dead_code))]
pub(crate) mod decoder;
#[cfg(any(feature = "cuda", test))]
pub(crate) mod gpu;
#[cfg(any(feature = "cuda", test))]
mod places;
#[cfg(test)]
pub(crate) mod reference;
pub(crate) mod request;
pub(crate) mod sample;

#[cfg(test)]
mod tests;

pub use generate::generate;
pub use request::{Done, GenerateConfig, Generated, Watch};
pub use score::log_probs;
