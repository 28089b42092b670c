//! Tests that run whole stages, each in its own folder, as the engine runs it.

mod data_kinds;
mod endpoint;
mod fuzz;
mod images;
mod model_kinds;
mod parity;
mod released;
mod support;
mod tables;
mod training;
mod verifier;
