//! Tests of whole reports and of the mixture regression.

mod answers;
mod budget;
mod golden;
mod mixture;
mod report;
mod simulation;
pub(crate) mod support;
mod sweeps;
mod validity;
