//! Mixture regression: fits the score as a function of the shares of the sources, and suggests mixes to measure next.
//!
//! The model is Scheffé's canonical polynomial (Scheffé 1958, "Experiments with mixtures"). The shares `x` add up to
//! 1, so it has no constant:
//!
//! ```text
//! linear       y = sum_i b_i x_i
//! quadratic    y = sum_i b_i x_i + sum_{i<j} b_ij x_i x_j
//! ```
//!
//! `b_i` is the score of source `i` alone. `b_ij / 4` is the gain of an even mix of `i` and `j` over the mean of the
//! two. The fit is ordinary least squares: all points have the same weight, because they are scores on the same
//! items, and a point with a standard error of 0 must not dominate the others.

use std::fmt::Write;

use anyhow::{Result, bail};
use serde::Serialize;
use unicode_width::UnicodeWidthStr;

use super::table::Estimate;
use super::terminal::{pad_left, pad_right, strip_control};

/// Most candidates of the grid. Its smallest step is 0.01.
const MAX_CANDIDATES: u64 = 25_000;

/// Smallest distance of a suggestion from all other points: the share of rows that come from another source.
const MIN_DISTANCE: f64 = 0.1;

/// A point with a higher leverage alone determines one of the terms: without it the term cannot be fitted.
const MAX_LEVERAGE: f64 = 1.0 - 1e-6;

/// Added to the diagonal of the normal equations, so that rounding cannot make them singular. Shares are at most 1,
/// so it changes a coefficient by less than one in a million.
const RIDGE: f64 = 1e-9;

/// A smaller pivot means that the rows do not determine a term.
const MIN_PIVOT: f64 = 1e-6;

/// One measured mix.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct MixturePoint {
    /// Share of each source. The shares add up to 1.
    pub shares: Vec<f64>,
    /// Mean score.
    pub mean: f64,
    /// Standard error of the mean.
    #[serde(rename = "error")]
    pub standard_error: f64,
}

/// Half the width of a 95 % confidence interval, in standard errors.
const HALF_INTERVAL: f64 = 1.96;

impl MixturePoint {
    /// The point of an estimate. Its standard error is that of a normal distribution with the same confidence interval.
    pub fn measured(shares: Vec<f64>, estimate: &Estimate) -> MixturePoint {
        let standard_error = (estimate.interval.high - estimate.interval.low) / (2.0 * HALF_INTERVAL);
        MixturePoint { shares, mean: estimate.mean, standard_error }
    }
}

/// A term of the polynomial.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Term {
    /// `x_i`.
    Source(usize),
    /// `x_i x_j`.
    Blend(usize, usize),
}

/// A term's coefficient.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Coefficient {
    pub term: Term,
    pub value: f64,
    #[serde(rename = "error")]
    pub standard_error: f64,
}

/// The leave-one-out cross-validation error: each point is predicted from all others.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct LeaveOneOut {
    /// Root mean squared error.
    pub rmse: f64,
    /// Mean absolute error.
    pub mae: f64,
    /// Coefficient of determination. None if all scores are equal. Below 0 the mean of all points predicts better
    /// than the model.
    pub r2: Option<f64>,
}

/// The predicted score of one mix.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Prediction {
    pub shares: Vec<f64>,
    pub mean: f64,
    /// Standard error of the mean, not of a new measurement.
    #[serde(rename = "error")]
    pub standard_error: f64,
}

impl Prediction {
    /// The upper confidence bound that ranks suggestions: one standard error above the mean.
    pub fn upper(&self) -> f64 {
        self.mean + self.standard_error
    }
}

/// A fitted model.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct MixtureFit {
    pub points: Vec<MixturePoint>,
    /// Whether the model has terms for blends of two sources.
    pub quadratic: bool,
    pub coefficients: Vec<Coefficient>,
    /// Standard deviation of the points about the model: that of the residuals, or the root mean square of the points'
    /// standard errors if that is larger.
    pub sigma: f64,
    pub leave_one_out: LeaveOneOut,
    #[serde(skip)]
    inverse: InverseGram,
}

/// Fits the quadratic model. Fits the linear model if the points do not determine the quadratic one, or if no degree of
/// freedom remains.
///
/// Errors: invalid shares or scores, or points that do not determine the linear model either.
pub fn fit(points: &[MixturePoint]) -> Result<MixtureFit> {
    let sources = check(points)?;
    let linear: Vec<Term> = (0..sources).map(Term::Source).collect();
    let blends = (0..sources).flat_map(|i| (i + 1..sources).map(move |j| Term::Blend(i, j)));
    let quadratic: Vec<Term> = linear.iter().copied().chain(blends).collect();
    for terms in [quadratic, linear] {
        if let Some(fit) = fit_terms(points, &terms) {
            return Ok(fit);
        }
    }
    bail!(
        "{} measured mixes do not determine a model of {sources} sources: measure more mixes than sources, with different \
         shares, and every source in at least two mixes",
        points.len()
    )
}

/// Checks the points and returns the number of sources.
fn check(points: &[MixturePoint]) -> Result<usize> {
    let sources = points.first().map_or(0, |point| point.shares.len());
    if sources < 2 {
        bail!("a mixture needs at least two sources and at least one measured mix");
    }
    for (number, MixturePoint { shares, mean, standard_error }) in (1..).zip(points) {
        if shares.len() != sources {
            bail!("mix {number} has {} shares, mix 1 has {sources}", shares.len());
        }
        let sum: f64 = shares.iter().sum();
        if shares.iter().any(|share| !(0.0..=1.0).contains(share)) || (sum - 1.0).abs() > 1e-6 {
            bail!("the shares of mix {number} do not add up to 1: {shares:?}");
        }
        if !mean.is_finite() || !standard_error.is_finite() || *standard_error < 0.0 {
            bail!("mix {number} has an invalid score: {mean} with standard error {standard_error}");
        }
    }
    Ok(sources)
}

/// None if the points do not determine the terms, or if one point alone determines a term.
pub(crate) fn fit_terms(points: &[MixturePoint], terms: &[Term]) -> Option<MixtureFit> {
    let (count, degrees_of_freedom) =
        (points.len(), points.len().checked_sub(terms.len()).filter(|&degrees| degrees > 0)?);
    let rows: Vec<Vec<f64>> = points.iter().map(|point| design_row(&point.shares, terms)).collect();
    let inverse = InverseGram::of(&rows)?;
    let products: Vec<f64> =
        (0..terms.len()).map(|term| rows.iter().zip(points).map(|(row, point)| row[term] * point.mean).sum()).collect();
    let values = inverse.times(&products);
    let residuals: Vec<f64> = rows.iter().zip(points).map(|(row, point)| point.mean - dot(row, &values)).collect();
    let leverages: Vec<f64> = rows.iter().map(|row| inverse.quadratic_form(row)).collect();
    if leverages.iter().any(|&leverage| leverage > MAX_LEVERAGE) {
        return None;
    }
    // The error of each point when it is left out of the fit, from its leverage.
    let left_out: Vec<f64> =
        residuals.iter().zip(&leverages).map(|(residual, leverage)| residual / (1.0 - leverage)).collect();
    let sum_of_squares = |values: &[f64]| values.iter().map(|value| value * value).sum::<f64>();
    let average = points.iter().map(|point| point.mean).sum::<f64>() / count as f64;
    let total = sum_of_squares(&points.iter().map(|point| point.mean - average).collect::<Vec<_>>());
    let leave_one_out = LeaveOneOut {
        rmse: (sum_of_squares(&left_out) / count as f64).sqrt(),
        mae: left_out.iter().map(|error| error.abs()).sum::<f64>() / count as f64,
        r2: (total > 0.0).then(|| 1.0 - sum_of_squares(&left_out) / total),
    };
    let measurement_variance =
        sum_of_squares(&points.iter().map(|point| point.standard_error).collect::<Vec<_>>()) / count as f64;
    let sigma = (sum_of_squares(&residuals) / degrees_of_freedom as f64).max(measurement_variance).sqrt();
    let errors = inverse.diagonal().map(|variance| sigma * variance.sqrt());
    let coefficients = terms.iter().zip(&values).zip(errors);
    Some(MixtureFit {
        points: points.to_vec(),
        quadratic: terms.iter().any(|term| matches!(term, Term::Blend(..))),
        coefficients: coefficients
            .map(|((&term, &value), standard_error)| Coefficient { term, value, standard_error })
            .collect(),
        sigma,
        leave_one_out,
        inverse,
    })
}

/// The values of the terms at one mix.
fn design_row(shares: &[f64], terms: &[Term]) -> Vec<f64> {
    let value = |term: &Term| match *term {
        Term::Source(i) => shares[i],
        Term::Blend(i, j) => shares[i] * shares[j],
    };
    terms.iter().map(value).collect()
}

impl MixtureFit {
    /// Predicts the score of a mix. `shares` has one share per source.
    pub fn predict(&self, shares: &[f64]) -> Prediction {
        let terms: Vec<Term> = self.coefficients.iter().map(|one| one.term).collect();
        let row = design_row(shares, &terms);
        let mean = row.iter().zip(&self.coefficients).map(|(x, one)| x * one.value).sum();
        let standard_error = self.sigma * self.inverse.quadratic_form(&row).max(0.0).sqrt();
        Prediction { shares: shares.to_vec(), mean, standard_error }
    }

    /// The mix of the grid with the highest predicted score.
    pub fn best(&self) -> Prediction {
        let candidates = self.candidates();
        highest(candidates.iter(), |one| one.mean).unwrap_or_else(|| self.predict(&self.points[0].shares))
    }

    /// The next mixes to measure, at most `count`, by decreasing upper confidence bound.
    ///
    /// Each mix has a distance of at least [`MIN_DISTANCE`] from every measured and every earlier one. If the grid
    /// has no such mix left, the smallest distance is halved, repeatedly.
    pub fn suggest(&self, count: usize) -> Vec<Prediction> {
        let mut candidates = self.candidates();
        let mut taken: Vec<Vec<f64>> = self.points.iter().map(|point| point.shares.clone()).collect();
        candidates.retain(|one| taken.iter().all(|other| distance(&one.shares, other) > 1e-9));
        let (mut suggestions, mut min_distance) = (Vec::new(), MIN_DISTANCE);
        while suggestions.len() < count && !candidates.is_empty() {
            // The tolerance is for rounded shares.
            let apart =
                |one: &&Prediction| taken.iter().all(|other| distance(&one.shares, other) > min_distance - 1e-9);
            let Some(next) = highest(candidates.iter().filter(apart), Prediction::upper) else {
                min_distance /= 2.0;
                continue;
            };
            candidates.retain(|one| one.shares != next.shares);
            taken.push(next.shares.clone());
            suggestions.push(next);
        }
        suggestions
    }

    /// Renders the fit and `count` suggestions for the terminal, with scores in percent. `names` are the names of the
    /// sources, in the order of the shares.
    pub fn terminal(&self, names: &[&str], count: usize) -> String {
        let name = |i: usize| names.get(i).map_or_else(|| format!("source {}", i + 1), |name| strip_control(name));
        let mut text = format!(
            "{} model of {} measured mixes, standard deviation {:.1} points\n",
            if self.quadratic { "quadratic" } else { "linear" },
            self.points.len(),
            100.0 * self.sigma
        );
        let left_out = &self.leave_one_out;
        _ = writeln!(
            text,
            "leave-one-out error: mean absolute {:.1} points, root mean square {:.1} points, R² {}\n",
            100.0 * left_out.mae,
            100.0 * left_out.rmse,
            left_out.r2.map_or("–".to_string(), |r2| format!("{r2:.2}"))
        );
        if left_out.r2.is_none_or(|r2| r2 <= 0.0) {
            text.push_str("the model predicts no better than the mean of all mixes: do not rely on it\n\n");
        }
        let terms = self.coefficients.iter().map(|one| match one.term {
            Term::Source(i) => (name(i), one),
            Term::Blend(i, j) => (format!("{} x {}", name(i), name(j)), one),
        });
        let terms: Vec<_> = terms.collect();
        let width = terms.iter().map(|(name, _)| name.width()).max().unwrap_or(0);
        for (name, one) in terms {
            _ = writeln!(
                text,
                "{} {:>8.1} ± {:.1}",
                pad_right(&name, width),
                100.0 * one.value,
                100.0 * one.standard_error
            );
        }
        let names: Vec<String> = (0..self.points[0].shares.len()).map(name).collect();
        let head: Vec<String> = names.iter().map(|name| pad_left(name, 5)).collect();
        _ = writeln!(text, "\n            {}   predicted", head.join(" "));
        render_prediction(&mut text, "best", &head, &self.best());
        for (number, one) in (1..).zip(self.suggest(count)) {
            render_prediction(&mut text, &format!("try next {number}"), &head, &one);
        }
        text
    }

    /// The predictions for all mixes of the grid.
    fn candidates(&self) -> Vec<Prediction> {
        grid(self.points[0].shares.len()).iter().map(|shares| self.predict(shares)).collect()
    }
}

/// The candidate with the highest value, the first of equal ones.
fn highest<'a>(
    candidates: impl Iterator<Item = &'a Prediction>,
    value: impl Fn(&Prediction) -> f64,
) -> Option<Prediction> {
    candidates.reduce(|best, one| if value(one) > value(best) { one } else { best }).cloned()
}

/// The share of rows that come from another source: half the sum of the absolute differences of the shares.
pub(crate) fn distance(one: &[f64], other: &[f64]) -> f64 {
    one.iter().zip(other).map(|(a, b)| (a - b).abs()).sum::<f64>() / 2.0
}

/// All mixes whose shares are multiples of one step: 0.01, or the smallest step with at most [`MAX_CANDIDATES`] mixes.
pub(crate) fn grid(sources: usize) -> Vec<Vec<f64>> {
    let fits = |steps: &usize| {
        // The binomial coefficient (steps + sources - 1) over (sources - 1).
        (1..sources as u64)
            .try_fold(1u64, |count, i| Some(count.checked_mul(*steps as u64 + i)? / i))
            .is_some_and(|count| count <= MAX_CANDIDATES)
    };
    let steps = [100, 50, 40, 20, 10, 5, 4, 3, 2].into_iter().find(fits).unwrap_or(1);
    let mut mixes: Vec<Vec<usize>> = vec![Vec::new()];
    for _ in 1..sources {
        let extend = |mix: &Vec<usize>| {
            let left = steps - mix.iter().sum::<usize>();
            (0..=left).map(|next| [&mix[..], &[next]].concat()).collect::<Vec<_>>()
        };
        mixes = mixes.iter().flat_map(extend).collect();
    }
    let share = |part: usize| part as f64 / steps as f64;
    let complete = |mix: Vec<usize>| {
        let rest = steps - mix.iter().sum::<usize>();
        mix.into_iter().chain([rest]).map(share).collect()
    };
    mixes.into_iter().map(complete).collect()
}

fn render_prediction(text: &mut String, label: &str, head: &[String], one: &Prediction) {
    let share = |(name, share): (&String, &f64)| pad_left(&format!("{:.0} %", 100.0 * share), name.width());
    let shares: Vec<String> = head.iter().zip(&one.shares).map(share).collect();
    let score = format!("{:.1} ± {:.1}", 100.0 * one.mean, 100.0 * one.standard_error);
    _ = writeln!(text, "{} {}   {score}", pad_right(label, 11), shares.join(" "));
}

/// The inverse Gram matrix of the normal equations, `(X'X + ridge)^-1`.
#[derive(Clone, Debug, PartialEq)]
struct InverseGram(Vec<Vec<f64>>);

impl InverseGram {
    /// By Cholesky decomposition. None if the rows do not determine every term.
    fn of(rows: &[Vec<f64>]) -> Option<InverseGram> {
        let size = rows.first()?.len();
        // The lower triangular factor L of X'X + ridge = L L'.
        let mut factor = vec![vec![0.0; size]; size];
        for i in 0..size {
            for j in 0..=i {
                let product: f64 = rows.iter().map(|row| row[i] * row[j]).sum();
                let ridge = if i == j { RIDGE } else { 0.0 };
                let rest = product + ridge - dot(&factor[i][..j], &factor[j][..j]);
                if i != j {
                    factor[i][j] = rest / factor[j][j];
                } else if rest > MIN_PIVOT {
                    factor[i][i] = rest.sqrt();
                } else {
                    return None;
                }
            }
        }
        let columns = (0..size).map(|column| {
            let mut x: Vec<f64> = (0..size).map(|i| f64::from(u8::from(i == column))).collect();
            for i in 0..size {
                x[i] = (x[i] - dot(&factor[i][..i], &x[..i])) / factor[i][i];
            }
            for i in (0..size).rev() {
                let below: f64 = (i + 1..size).map(|j| factor[j][i] * x[j]).sum();
                x[i] = (x[i] - below) / factor[i][i];
            }
            x
        });
        Some(InverseGram(columns.collect()))
    }

    /// The product with a vector.
    fn times(&self, x: &[f64]) -> Vec<f64> {
        self.0.iter().map(|row| dot(row, x)).collect()
    }

    /// `x' (X'X)^-1 x`: the variance of the prediction at `x` / the variance of a point.
    fn quadratic_form(&self, x: &[f64]) -> f64 {
        dot(x, &self.times(x))
    }

    fn diagonal(&self) -> impl Iterator<Item = f64> {
        self.0.iter().enumerate().map(|(i, row)| row[i])
    }
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}
