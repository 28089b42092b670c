//! The experiment language: text in, checked and expanded instances out. Knows no kind by name, no store, no graph library.

pub mod instance;

pub use instance::{Expansion, Instance, InstanceId, InstanceInput, Upstream};
