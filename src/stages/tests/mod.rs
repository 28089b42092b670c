//! Tests that run whole stages, each in its own folder, as the engine runs it.

mod baselines;
mod budget;
mod conversations;
mod data_kinds;
mod distill;
mod endpoint;
mod file_sources;
mod fuzz;
mod imports;
mod judge_models;
mod model_kinds;
mod parity;
mod support;
mod tables;
mod training;
mod verifier;
