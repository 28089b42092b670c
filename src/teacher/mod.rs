//! Teachers: who writes rationales. Knows items and responses, no stage and no model of ours. The only home of `ureq`.

mod failure;
mod network;
pub mod openai;
pub mod oracle;
mod reply;
mod secret;
#[cfg(test)]
mod tests;

pub use openai::{OpenAi, OpenAiConfig, Question};
pub use reply::{Fault, Reply};
