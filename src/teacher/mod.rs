//! Teachers: who writes rationales. Knows items and responses, no stage and no model of ours.

pub mod openai;
pub mod oracle;

pub use openai::{OpenAi, OpenAiConfig, Question, Reply};
