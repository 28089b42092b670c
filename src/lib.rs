//! ablate: a declarative experiment engine for post-training vision-language models.
//!
//! ```text
//! TOML -parse-> Experiment -expand axes-> StageGraph -Manifest,Store-> Plan -Executor-> Artifact + StageRecord -> Report
//! ```
//!
//! Module folders are layers; imports point one way (`docs/architecture.md`, held by `tests/tidy.rs`).
//! In reading order:

pub mod base;
pub mod stage;

pub mod experiment;
pub mod store;

pub mod engine;

pub mod data;
pub mod nn;

pub mod infer;
pub mod train;

pub mod teacher;

pub mod stages;

pub mod report;

pub mod cli;
