//! The statistics of a report, over plain numbers.
//!
//! A [`Series`] is one quantity measured per seed and item: the scores of a cell, the difference of two cells, or a
//! linear contrast of several cells. From a series follow its average ([`Series::average`]), the variance of the average
//! by its sources ([`variance`]), a confidence interval ([`interval`]), a test whether the average is zero
//! ([`paired_test()`]), and what more seeds and items would detect ([`power`]).
//!
//! The average is the mean of the data sets' means: every data set has the same weight, whatever its number of items.
//! `docs/statistics.md` describes the methods with their assumptions.

pub mod interval;
pub mod paired_test;
pub mod power;
pub mod series;
pub mod sign_flip;
pub mod variance;

pub use interval::{ConfidenceInterval, ENOUGH_SEEDS, confidence_interval};
pub use paired_test::{PairedTest, TestMethod, holm, paired_test};
pub use power::{Design, Needs};
pub use series::{Items, Series};
pub use variance::{Average, Range};

/// The level of all intervals and tests: 95 % confidence intervals, p < 0.05.
pub const ALPHA: f64 = 0.05;
