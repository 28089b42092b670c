//! What every crate uses: [`base`] (hashes, diagnostics, files, seeds, progress), and the contract of a stage
//! ([`stage`]). Must not depend on any other crate of the workspace.

pub mod base;
pub mod stage;
