//! ablate: a declarative experiment engine for post-training vision-language models.
//!
//! ```text
//! TOML -parse-> Experiment -expand axes-> StageGraph -Manifest,Store-> Plan -Executor-> Artifact + StageRecord -> Report
//! ```
//!
//! Module folders are layers; imports point one way (`docs/architecture.md`, held by `tests/tidy.rs`).
//! In reading order:

pub mod teacher;

pub mod stages;

pub mod cli;
