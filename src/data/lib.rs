//! The data of the pipeline: records and their files, images, prompts, answers, tokens, mixes and preference pairs.
//! This crate depends on neither tensors nor stages.

pub mod image_keys;
pub mod image_placeholders;
pub mod image_text;
pub mod jsonl;
pub mod records;
pub mod rng;
pub mod tables;

pub mod gold_answers;
pub mod import;
pub mod synthetic;

pub mod images;

pub mod answers;
pub mod prompts;

pub mod chat_prompt;
pub mod conversation;
pub mod tokenizer;
mod tokenizer_limits;
pub mod tokens;

pub mod batches;
pub mod mix;
pub mod pairs;

pub mod contamination;
pub mod rerank;
pub mod token_credit;

#[cfg(test)]
mod tests;
