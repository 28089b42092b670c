//! Sources of rationales: a client of OpenAI-compatible endpoints, and the oracle, which repeats an item's own
//! rationale.

mod api_key;
mod failure;
mod network;
pub mod openai;
pub mod oracle;
mod response;
#[cfg(test)]
mod tests;

pub use openai::{ChatRequest, ContentPart, OpenAi, OpenAiConfig};
pub use response::{Fault, Response};
