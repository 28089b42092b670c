//! From measured mixes to the next one: a regression of the score on the shares of the sources, how far it can be
//! trusted, where it is highest, and which mixes to try next. Knows no experiment and no stage.
//!
//! The model is Scheffe's canonical polynomial for mixtures (Scheffe 1958, "Experiments with mixtures"), whose shares
//! `x` add up to 1, so that it has no constant:
//!
//! ```text
//! linear       y = sum_i b_i x_i
//! quadratic    y = sum_i b_i x_i + sum_{i<j} b_ij x_i x_j
//! ```
//!
//! `b_i` is the score of source `i` alone, and `b_ij / 4` what an even mix of `i` and `j` gains over the mean of the
//! two. Points count alike (ordinary least squares): they are scores on the same items, and one that happens to have no
//! error must not outweigh the others.

mod render;
mod solve;

#[cfg(test)]
mod tests;

use anyhow::{Result, bail};
use serde::Serialize;

use solve::Inverse;

/// Candidates of the grid at most; the finest grid has steps of a hundredth.
const CANDIDATES: u64 = 25_000;

/// Least difference between a suggestion and any other point: the share of rows that would come from another source.
const SPREAD: f64 = 0.1;

/// Leverage from which on a point is fitted by its own term alone, so that leaving it out tells nothing.
const ALONE: f64 = 1.0 - 1e-6;

/// One measured mix.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct MixturePoint {
    /// Share of each source, from 0 to 1; they add up to 1.
    pub shares: Vec<f64>,
    /// Mean score.
    pub mean: f64,
    /// Standard error of the mean.
    pub error: f64,
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
    /// Standard error.
    pub error: f64,
}

/// How well each point is told by the others.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct LeaveOneOut {
    /// Root of the mean squared error.
    pub rmse: f64,
    /// Mean absolute error.
    pub mae: f64,
    /// 1 less the squared errors over those of the mean of all points; none where all scores are equal. Below 0 the
    /// mean tells more than the model.
    pub r2: Option<f64>,
}

/// What the model says of one mix.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Prediction {
    pub shares: Vec<f64>,
    pub mean: f64,
    /// Standard error of the mean, not of a new measurement.
    pub error: f64,
}

impl Prediction {
    /// The upper confidence bound by which suggestions are ranked: one standard error above the mean.
    pub fn upper(&self) -> f64 {
        self.mean + self.error
    }
}

/// A fitted model.
#[derive(Clone, Debug, Serialize)]
pub struct MixtureFit {
    pub points: Vec<MixturePoint>,
    /// Whether the blends of two sources have terms.
    pub quadratic: bool,
    pub coefficients: Vec<Coefficient>,
    /// Standard deviation about the model: that of the residuals, or the points' own standard errors (root of the mean
    /// square) where those are larger.
    pub sigma: f64,
    pub leave_one_out: LeaveOneOut,
    #[serde(skip)]
    inverse: Inverse,
}

/// Fits the quadratic model, or the linear one where the points do not determine the quadratic one and leave a point
/// over to check it by.
///
/// Errors are points that are no mixes, and points that do not determine the linear model either.
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
        "{} measured mixes do not tell {sources} sources apart: there must be more of them than sources, of different \
         shares, and every source in at least two",
        points.len()
    )
}

/// The number of sources.
fn check(points: &[MixturePoint]) -> Result<usize> {
    let sources = points.first().map_or(0, |point| point.shares.len());
    if sources < 2 {
        bail!("a mixture has at least two sources, and there must be measured mixes of it");
    }
    for (number, MixturePoint { shares, mean, error }) in (1..).zip(points) {
        if shares.len() != sources {
            bail!("mix {number} has {} sources, the first one {sources}", shares.len());
        }
        let sum: f64 = shares.iter().sum();
        if shares.iter().any(|share| !(0.0..=1.0).contains(share)) || (sum - 1.0).abs() > 1e-6 {
            bail!("the shares of mix {number} are no shares of 1: {shares:?}");
        }
        if !mean.is_finite() || !error.is_finite() || *error < 0.0 {
            bail!("mix {number} has no score with a standard error: {mean} and {error}");
        }
    }
    Ok(sources)
}

/// None where the points do not determine the terms, or where one of them alone determines a term.
fn fit_terms(points: &[MixturePoint], terms: &[Term]) -> Option<MixtureFit> {
    let (count, free) = (points.len(), points.len().checked_sub(terms.len()).filter(|&free| free > 0)?);
    let rows: Vec<Vec<f64>> = points.iter().map(|point| row(&point.shares, terms)).collect();
    let inverse = Inverse::of(&rows)?;
    let products: Vec<f64> =
        (0..terms.len()).map(|term| rows.iter().zip(points).map(|(row, point)| row[term] * point.mean).sum()).collect();
    let values = inverse.times(&products);
    let residuals: Vec<f64> =
        rows.iter().zip(points).map(|(row, point)| point.mean - solve::dot(row, &values)).collect();
    let leverages: Vec<f64> = rows.iter().map(|row| inverse.form(row)).collect();
    if leverages.iter().any(|&leverage| leverage > ALONE) {
        return None;
    }
    // The error of a point that the fit has not seen, without fitting again.
    let left_out: Vec<f64> =
        residuals.iter().zip(&leverages).map(|(residual, leverage)| residual / (1.0 - leverage)).collect();
    let square = |values: &[f64]| values.iter().map(|value| value * value).sum::<f64>();
    let average = points.iter().map(|point| point.mean).sum::<f64>() / count as f64;
    let spread = square(&points.iter().map(|point| point.mean - average).collect::<Vec<_>>());
    let leave_one_out = LeaveOneOut {
        rmse: (square(&left_out) / count as f64).sqrt(),
        mae: left_out.iter().map(|error| error.abs()).sum::<f64>() / count as f64,
        r2: (spread > 0.0).then(|| 1.0 - square(&left_out) / spread),
    };
    let measured = square(&points.iter().map(|point| point.error).collect::<Vec<_>>()) / count as f64;
    let sigma = (square(&residuals) / free as f64).max(measured).sqrt();
    let errors = inverse.diagonal().map(|variance| sigma * variance.sqrt());
    let coefficients = terms.iter().zip(&values).zip(errors);
    Some(MixtureFit {
        points: points.to_vec(),
        quadratic: terms.iter().any(|term| matches!(term, Term::Blend(..))),
        coefficients: coefficients.map(|((&term, &value), error)| Coefficient { term, value, error }).collect(),
        sigma,
        leave_one_out,
        inverse,
    })
}

/// The terms at one mix.
fn row(shares: &[f64], terms: &[Term]) -> Vec<f64> {
    let of = |term: &Term| match *term {
        Term::Source(i) => shares[i],
        Term::Blend(i, j) => shares[i] * shares[j],
    };
    terms.iter().map(of).collect()
}

impl MixtureFit {
    /// What the model says of a mix with as many shares as the points have.
    pub fn predict(&self, shares: &[f64]) -> Prediction {
        let terms: Vec<Term> = self.coefficients.iter().map(|one| one.term).collect();
        let row = row(shares, &terms);
        let mean = row.iter().zip(&self.coefficients).map(|(x, one)| x * one.value).sum();
        Prediction { shares: shares.to_vec(), mean, error: self.sigma * self.inverse.form(&row).max(0.0).sqrt() }
    }

    /// The mix of the grid with the highest predicted score.
    pub fn best(&self) -> Prediction {
        let candidates = self.candidates();
        highest(candidates.iter(), |one| one.mean).unwrap_or_else(|| self.predict(&self.points[0].shares))
    }

    /// The next mixes to measure, `count` at most: those of the highest upper confidence bound, one after the other,
    /// each of which differs from every measured and every earlier one by a tenth of its rows at least (half the sum of
    /// the shares' differences). Where the grid has no such mix left, half of that is asked, and so on.
    pub fn suggest(&self, count: usize) -> Vec<Prediction> {
        let mut open = self.candidates();
        let mut taken: Vec<Vec<f64>> = self.points.iter().map(|point| point.shares.clone()).collect();
        open.retain(|one| taken.iter().all(|other| difference(&one.shares, other) > 1e-9));
        let (mut suggestions, mut spread) = (Vec::new(), SPREAD);
        while suggestions.len() < count && !open.is_empty() {
            // A little less, as shares are rounded.
            let apart = |one: &&Prediction| taken.iter().all(|other| difference(&one.shares, other) > spread - 1e-9);
            let Some(next) = highest(open.iter().filter(apart), Prediction::upper) else {
                spread /= 2.0;
                continue;
            };
            open.retain(|one| one.shares != next.shares);
            taken.push(next.shares.clone());
            suggestions.push(next);
        }
        suggestions
    }

    /// What the model says of every mix of the grid.
    fn candidates(&self) -> Vec<Prediction> {
        grid(self.points[0].shares.len()).iter().map(|shares| self.predict(shares)).collect()
    }
}

/// The candidate of the highest value, of equal ones the first.
fn highest<'a>(
    candidates: impl Iterator<Item = &'a Prediction>,
    value: impl Fn(&Prediction) -> f64,
) -> Option<Prediction> {
    candidates.reduce(|best, one| if value(one) > value(best) { one } else { best }).cloned()
}

/// Share of rows that come from another source.
fn difference(one: &[f64], other: &[f64]) -> f64 {
    one.iter().zip(other).map(|(a, b)| (a - b).abs()).sum::<f64>() / 2.0
}

/// All mixes of so many sources whose shares are multiples of one step: a hundredth, or as fine as [`CANDIDATES`] let it
/// be.
fn grid(sources: usize) -> Vec<Vec<f64>> {
    let fits = |steps: &usize| {
        // (steps + sources - 1) over (sources - 1).
        (1..sources as u64)
            .try_fold(1u64, |count, i| Some(count.checked_mul(*steps as u64 + i)? / i))
            .is_some_and(|count| count <= CANDIDATES)
    };
    let steps = [100, 50, 40, 20, 10, 5, 4, 3, 2].into_iter().find(fits).unwrap_or(1);
    let mut mixes: Vec<Vec<usize>> = vec![Vec::new()];
    for _ in 1..sources {
        let longer = |mix: &Vec<usize>| {
            let left = steps - mix.iter().sum::<usize>();
            (0..=left).map(|next| [&mix[..], &[next]].concat()).collect::<Vec<_>>()
        };
        mixes = mixes.iter().flat_map(longer).collect();
    }
    let share = |part: usize| part as f64 / steps as f64;
    let whole = |mix: Vec<usize>| {
        let rest = steps - mix.iter().sum::<usize>();
        mix.into_iter().chain([rest]).map(share).collect()
    };
    mixes.into_iter().map(whole).collect()
}
