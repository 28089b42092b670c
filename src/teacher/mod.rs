//! Teachers: who writes rationales. Knows items and responses, no stage and no model of ours. The only home of `ureq`.

mod failure;
mod network;
pub mod openai;
#[cfg(test)]
mod openai_tests;
pub mod oracle;
mod reply;
mod secret;

pub use openai::{OpenAi, OpenAiConfig, Question};
pub use reply::{Fault, Reply};
