//! Tests of whole reports and of the mixture regression.

mod mixture;
mod report;
mod support;
mod validity;
