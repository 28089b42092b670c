//! Tests of whole reports and of the mixture regression.

mod budget;
mod mixture;
mod report;
mod support;
mod validity;
