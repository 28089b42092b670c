//! The statistics of a report, over plain numbers.
//!
//! A [`Series`] is one quantity measured per seed and item: the scores of a cell, the difference of two cells, or a
//! linear contrast of several cells. The other functions take a series: its average ([`Series::average`]), the
//! confidence interval of the average ([`bootstrap()`]), a test whether the average is zero ([`paired_test()`]), and
//! the minimum detectable difference ([`power`]).
//!
//! The average is the mean of the data sets' means: every data set has the same weight, whatever its number of items.

pub mod bootstrap;
pub mod paired_test;
pub mod power;
pub mod series;

pub use bootstrap::{ConfidenceInterval, bootstrap};
pub use paired_test::{PairedTest, TestMethod, holm, paired_test};
pub use power::{largest_discordance, minimum_detectable_difference, unpaired_error};
pub use series::{Items, Series};

/// The level of all intervals and tests: 95 % confidence intervals, p < 0.05.
pub const ALPHA: f64 = 0.05;
