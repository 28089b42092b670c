//! The statistics of a report, over plain numbers. Knows no instance, no table, no metric.
//!
//! A [`Series`] is one quantity measured per seed and item: the scores of a cell, the difference of two cells,
//! or a linear contrast of many. Everything else is a function of a series: its average ([`Series::average`]),
//! the interval of the average ([`bootstrap()`]), whether it could be zero ([`compare`]), and which size of
//! difference the items at hand could have shown ([`power`]).
//!
//! Averages are taken over the data sets' averages, as the paper's `Avg` is: a data set counts once, however
//! many items it has.

pub mod bootstrap;
pub mod compare;
pub mod power;
pub mod series;

pub use bootstrap::{Interval, bootstrap};
pub use compare::{Comparison, Method, compare, holm};
pub use power::{detectable_difference, largest_discordance, unpaired_error};
pub use series::{Items, Series};

/// The level of every interval and test: 95 % intervals, p below 0.05.
pub const ALPHA: f64 = 0.05;
