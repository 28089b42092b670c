//! Data of the pipeline: items and rows, images, prompts, answers, tokens, mixes, batches, synthetic tasks.
//! Plain values in, plain values out; knows no stage, no TOML and no tensor.

pub mod records;
