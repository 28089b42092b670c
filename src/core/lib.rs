//! Code that every crate uses: [`base`] (hashes, diagnostics, files, seeds, progress) and [`stage`] (the interface of
//! a stage). This crate must not depend on another crate of the workspace.

pub mod base;
pub mod stage;
