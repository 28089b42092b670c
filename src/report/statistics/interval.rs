//! Confidence intervals and p-values of an average over seeds and items.
//!
//! With three or more seeds, the seeds are a sample of all trainings of this recipe. The variance of the average is
//! `clusters + seeds - both` (see [`super::variance`]), and none of the three mean squares is known exactly: with three
//! seeds the second has two degrees of freedom. A generalised pivotal quantity (S. Weerahandi, "Generalized confidence
//! intervals", J. Am. Stat. Assoc. 88, 1993; for sums of mean squares R. K. Burdick, C. M. Borror and D. C. Montgomery, "Design and
//! Analysis of Gauge R&R Studies", 2005, appendix B) replaces each by its distribution: the error of the average is
//! distributed as
//!
//! ```text
//! Z sqrt(clusters / X1 + seeds / X2 - both / X3),   Z normal, Xi chi-squared over its degrees of freedom
//! ```
//!
//! A negative sum counts as a small share of the first term. If the seeds vary no more than the items explain
//! (`seeds` is not above `both`), the interval would be too wide; [`EXTRA_FREEDOM`] corrects this. The distribution is
//! integrated numerically, so the same scores give the same digits.
//!
//! With one or two seeds the variation between trainings cannot be estimated. The interval then holds for these
//! training runs only: their items are a sample, and the error is Student's t with the degrees of freedom of the clusters.
//!
//! Close to 0 and 1 an estimated variance is too small, and zero if all responses are right. Intervals of shares are therefore
//! binomial mid-P intervals (A. Agresti and A. Gottard, Comput. Stat. Data Anal. 51, 2007) with the effective number of
//! items that the variance implies (E. L. Korn and B. I. Graubard, Survey Methodology 24, 1998). For differences, one gained and one lost item are added (D. G. Bonett
//! and R. M. Price, J. Educ. Behav. Stat. 37, 2012).

use serde::Serialize;
use statrs::distribution::{ContinuousCDF, Normal, StudentsT};
use statrs::function::beta::beta_reg;
use statrs::function::erf::erfc;

use super::ALPHA;
use super::variance::{Average, MeanSquare, Range};

/// A 95 % confidence interval.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct ConfidenceInterval {
    pub low: f64,
    pub high: f64,
}

impl ConfidenceInterval {
    pub fn excludes_zero(&self) -> bool {
        self.low > 0.0 || self.high < 0.0
    }
}

/// From this number on, seeds are a sample; with fewer, results are about these training runs only.
pub const ENOUGH_SEEDS: usize = 3;

/// Added to the degrees of freedom of the seeds, times the share of the items in `clusters`, times `both / seeds` where that
/// is below 1. Chosen by simulation: 0 covers 97 to 98 % of accuracies if three seeds do not vary, 2 covers 93 % if they do.
const EXTRA_FREEDOM: f64 = 1.0;

/// From these degrees of freedom on, Student's t is taken as normal; the quantiles differ by less than 1e-5.
const NORMAL: f64 = 1e6;

/// The smallest variance as a share of the first term.
const SMALLEST: f64 = 1e-3;

/// The distribution of the error of an average.
pub struct ErrorDistribution {
    /// The estimated variance of the average.
    pub variance: f64,
    /// Centre of the distribution of a difference: the mean with one gained and one lost item.
    pub centre: f64,
    shape: Shape,
}

enum Shape {
    /// Student's t times a standard error.
    Student { error: f64, freedom: f64 },
    /// A mixture of normal distributions: weights, and standard errors.
    Mixture(Vec<(f64, f64)>),
}

impl ErrorDistribution {
    pub fn new(average: &Average) -> ErrorDistribution {
        let (by_cluster, centre) = regularized(average);
        let Average { seeds, by_seed, by_both, .. } = *average;
        if seeds < ENOUGH_SEEDS {
            let (error, freedom) = (by_cluster.variance.sqrt(), freedom_of_runs(average));
            return ErrorDistribution {
                variance: by_cluster.variance,
                centre,
                shape: Shape::Student { error, freedom },
            };
        }
        let sum = by_cluster.variance + by_seed.variance - by_both.variance;
        let variance = sum.max(SMALLEST * by_cluster.variance);
        let of_items = if by_cluster.variance > 0.0 { 1.0 - by_both.variance / by_cluster.variance } else { 0.0 };
        let extra = if by_seed.variance > by_both.variance { by_both.variance / by_seed.variance } else { 1.0 };
        let freedom = by_seed.freedom + EXTRA_FREEDOM * of_items.max(0.0) * extra;
        let (of_clusters, of_both) = (nodes(by_cluster.freedom, false), nodes(by_both.freedom, false));
        let mut mixture = Vec::new();
        for (x1, weight1) in &of_clusters {
            let first = by_cluster.variance / x1;
            for (x2, weight2) in nodes(freedom, true) {
                let second = first + by_seed.variance / x2;
                for (x3, weight3) in &of_both {
                    let sum = (second - by_both.variance / x3).max(SMALLEST * first);
                    mixture.push((weight1 * weight2 * weight3, sum.sqrt()));
                }
            }
        }
        ErrorDistribution { variance, centre, shape: Shape::Mixture(mixture) }
    }

    /// The probability of an error of at least `size` in either direction.
    pub fn beyond(&self, size: f64) -> f64 {
        match &self.shape {
            Shape::Student { error, .. } if *error <= 0.0 => f64::from(u8::from(size <= 0.0)),
            Shape::Student { error, freedom } => 2.0 * Student::new(*freedom).tail(size / error),
            Shape::Mixture(mixture) => mixture
                .iter()
                .map(|(weight, error)| weight * erfc(size / error * std::f64::consts::FRAC_1_SQRT_2))
                .sum(),
        }
    }

    /// The error that is exceeded with probability `alpha` in either direction.
    pub fn quantile(&self, alpha: f64) -> f64 {
        match &self.shape {
            Shape::Student { error, freedom } => error * Student::new(*freedom).quantile(1.0 - alpha / 2.0),
            Shape::Mixture(_) if self.variance <= 0.0 => 0.0,
            Shape::Mixture(mixture) => self.solve(mixture, alpha),
        }
    }

    /// Newton's method for the logarithm of the probability over that of the size, which is nearly a line; steps that
    /// leave the bracket are replaced by bisection.
    fn solve(&self, mixture: &[(f64, f64)], alpha: f64) -> f64 {
        let (mut low, mut high) = (0.0, f64::INFINITY);
        let mut size = 2.0 * self.variance.sqrt();
        for _ in 0..100 {
            let beyond = self.beyond(size);
            if beyond > alpha {
                low = size;
            } else {
                high = size;
            }
            let density: f64 = mixture
                .iter()
                .map(|(weight, error)| weight / error * (-0.5 * (size / error).powi(2)).exp())
                .sum::<f64>()
                * (2.0 / std::f64::consts::PI).sqrt();
            let mut next = size * ((beyond / alpha).ln() * beyond / (size * density)).clamp(-2.0, 2.0).exp();
            if next <= low || next >= high {
                next = if high.is_finite() { f64::midpoint(low, high) } else { 2.0 * size };
            }
            if (next / size - 1.0).abs() < 1e-9 {
                return next;
            }
            size = next;
        }
        size
    }
}

/// The 95 % confidence interval of an average.
pub fn confidence_interval(average: &Average) -> ConfidenceInterval {
    let error = ErrorDistribution::new(average);
    match average.range {
        Range::Share => share_interval(average, &error),
        Range::Difference(size) => {
            let half = error.quantile(ALPHA);
            ConfidenceInterval { low: (error.centre - half).max(-size), high: (error.centre + half).min(size) }
        }
    }
}

/// The mid-P interval of a share, with the effective number of items that the variance implies.
///
/// The number is reduced so that the interval of a share of 1/2 is as long as the distribution of the error says.
fn share_interval(average: &Average, error: &ErrorDistribution) -> ConfidenceInterval {
    let (share, variance) = (average.mean, error.variance);
    let spread = share * (1.0 - share);
    let normal = Student::Normal.quantile(1.0 - ALPHA / 2.0);
    let (items, quantile) = if variance > 0.0 && spread > 0.0 {
        // For independent items of one seed, `spread / variance` is one less than their number.
        let items = spread / variance + 1.0;
        let most = if average.binary { average.pairs as f64 } else { f64::INFINITY };
        (items.min(most), error.quantile(ALPHA) / variance.sqrt())
    } else {
        (average.clusters as f64, Student::new(freedom_of_runs(average)).quantile(1.0 - ALPHA / 2.0))
    };
    let items = items * (normal / quantile).powi(2);
    let right = share * items;
    ConfidenceInterval { low: mid_p_low(right, items), high: 1.0 - mid_p_low(items - right, items) }
}

/// The lower end: the share at which `right` or more of `items` are right with probability 2.5 %, if half of the
/// probability of exactly `right` counts. The numbers need not be whole.
fn mid_p_low(right: f64, items: f64) -> f64 {
    if right <= 0.0 {
        return 0.0;
    }
    let at_least = |share: f64| beta_reg(right, items - right + 1.0, share);
    let more = |share: f64| if items > right { beta_reg(right + 1.0, items - right, share) } else { 0.0 };
    let (mut low, mut high) = (0.0, 1.0);
    for _ in 0..60 {
        let middle = f64::midpoint(low, high);
        if f64::midpoint(at_least(middle), more(middle)) < ALPHA / 2.0 {
            low = middle;
        } else {
            high = middle;
        }
    }
    low
}

/// The degrees of freedom of an interval over items. For right and wrong responses of one run without clusters
/// the variance follows from the share, so the intervals are normal.
fn freedom_of_runs(average: &Average) -> f64 {
    let independent = average.binary && average.seeds == 1 && average.clusters == average.pairs;
    if independent { f64::INFINITY } else { average.by_cluster.freedom }
}

/// The mean square of the clusters, and the mean. One gained and one lost item are added to a difference.
pub(super) fn regularized(average: &Average) -> (MeanSquare, f64) {
    let Average { mean, mean_square, by_cluster: MeanSquare { variance, freedom }, .. } = *average;
    if average.range == Range::Share {
        return (average.by_cluster, mean);
    }
    let items = if variance > 0.0 { (mean_square - mean * mean) / variance + 1.0 } else { average.clusters as f64 };
    let centre = mean * items / (items + 2.0);
    let variance = ((items * mean_square + 2.0) / (items + 2.0) - centre * centre) / (items + 2.0);
    (MeanSquare { variance, freedom }, centre)
}

/// Nodes and weights of a chi-squared variable over its degrees of freedom, for integration by the trapezoidal rule over its
/// logarithm, which converges exponentially. `tails`: down to probabilities of `1e-12`.
fn nodes(freedom: f64, tails: bool) -> Vec<(f64, f64)> {
    let deviation = (2.0 / freedom).sqrt();
    let (low, high, count) = match tails {
        true => (-60.0 / freedom - 8.0 * deviation, (1.0 + 60.0 / freedom + 8.0 * deviation).ln(), 64),
        false if freedom < 30.0 => {
            (-20.0 / freedom - 3.0 * deviation, (1.0 + 10.0 / freedom + 3.0 * deviation).ln(), 16)
        }
        false => (-3.2 * deviation, 3.2 * deviation, 7),
    };
    let step = (high - low) / f64::from(count - 1);
    let node = |index: i32| {
        let log = low + step * f64::from(index);
        (log.exp(), (freedom / 2.0 * (log - log.exp_m1())).exp())
    };
    let nodes: Vec<(f64, f64)> = (0..count).map(node).collect();
    let total: f64 = nodes.iter().map(|(_, weight)| weight).sum();
    nodes.into_iter().map(|(value, weight)| (value, weight / total)).collect()
}

/// Student's t. For many degrees of freedom it is normal, where the library's t loses digits.
pub(super) enum Student {
    T(StudentsT),
    Normal,
}

impl Student {
    /// Fewer than 1 degree of freedom count as 1.
    pub(super) fn new(freedom: f64) -> Student {
        let student = StudentsT::new(0.0, 1.0, freedom.max(1.0));
        student.ok().filter(|_| freedom < NORMAL).map_or(Student::Normal, Student::T)
    }

    fn tail(&self, value: f64) -> f64 {
        match self {
            Student::T(student) => student.sf(value),
            Student::Normal => Normal::standard().sf(value),
        }
    }

    pub(super) fn quantile(&self, share: f64) -> f64 {
        match self {
            Student::T(student) => student.inverse_cdf(share),
            Student::Normal => Normal::standard().inverse_cdf(share),
        }
    }
}
