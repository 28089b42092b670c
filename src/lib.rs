//! ablate: a declarative experiment engine for post-training vision-language models.
//!
//! ```text
//! TOML -parse-> Experiment -expand axes-> StageGraph -Manifest,Store-> Plan -Launcher-> Artifact + StageRecord -> Report
//! ```
//!
//! The program itself: stage kinds, the teacher's client, the web server and the command line. The other layers are crates of the
//! workspace (`docs/architecture.md`).

pub mod teacher;

pub mod stages;

mod serve;

pub mod cli;
