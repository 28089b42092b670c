//! Data of the pipeline: items and rows, images, prompts, answers, tokens, mixes, batches, synthetic tasks.
//! Plain values in, plain values out; knows no stage, no TOML and no tensor.

pub mod draw;
pub mod records;

pub mod defaults;
pub mod gold;
pub mod images;
pub mod jsonl;
pub mod llava;
#[cfg(test)]
mod llava_tests;
mod media;
pub mod outside;
pub mod synthetic;
mod written;

mod anyres;
pub mod decode;
mod exif;
mod jpeg;
mod jpeg_bits;
#[cfg(test)]
mod jpeg_tests;
pub mod pixels;
#[cfg(test)]
mod pixels_golden;
pub mod processor;
mod processor_fields;
mod processor_file;
pub mod resize;

pub mod answers;
pub mod prompts;

pub mod conversation;
pub mod tokenizer;
mod tokenizer_bounds;
pub mod tokens;

pub mod batches;

pub mod mix;
mod mix_order;
pub mod pairs;

pub mod preferences;

pub mod credits;
pub mod rerank;
pub mod seen;
