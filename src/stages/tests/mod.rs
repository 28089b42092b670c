//! Tests that run whole stages, each in a folder of its own as the engine would run it.

mod data_kinds;
mod endpoint;
mod fuzz;
mod images;
mod model_kinds;
mod parity;
mod released;
mod tables;
mod training;
mod verifier;
