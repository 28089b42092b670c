//! The estimates of a table: the series of all cells and contrasts, then their means, confidence intervals and tests.

use std::collections::BTreeMap;

use rayon::prelude::*;

use super::score_matrix::{CellSource, ScoreMatrix};
use super::statistics::{PairedTest, Series, bootstrap::SeriesIntervals, paired_test};
use super::table::{Cell, ContrastResult, Difference, Estimate, SeedEstimate, Verdict};
use ablate_core::base::Seed;
use ablate_experiment::{Contrast, Metric};

/// A series by its index, or the part of it that belongs to one data set.
#[derive(Clone, Copy, Debug)]
pub(super) struct SeriesView {
    series: usize,
    scope: Scope,
}

/// The data sets of a view.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Scope {
    All,
    Dataset(usize),
    /// The sides of a difference have different data sets.
    Empty,
}

/// A cell that has no estimates yet.
pub(super) struct PendingCell {
    selector: String,
    source: CellSource,
    metric: SeriesView,
    compliance: SeriesView,
    readable: SeriesView,
    given_compliance: SeriesView,
    pub(super) difference: Option<SeriesView>,
    published: Option<f64>,
}

/// A contrast that has no estimates yet.
pub(super) struct PendingContrast {
    spec: Contrast,
    pub(super) view: SeriesView,
    missing: Vec<String>,
    /// Selectors that match no instance.
    unmatched: Vec<String>,
}

/// The distinct series of a table. One bootstrap resamples all of them. The cells of different data sets are views of
/// one series.
pub(super) struct SeriesSet<'a> {
    matrix: &'a ScoreMatrix<'a>,
    pub(super) series: Vec<Series>,
    /// Indices of the cells' series, by evaluations and metric.
    by_source: BTreeMap<(Vec<usize>, Metric), usize>,
    /// Indices of the linear combinations, by the bits of each weight and the series.
    by_terms: BTreeMap<Vec<(u64, usize)>, usize>,
    published: Vec<(CellSource, f64)>,
}

impl<'a> SeriesSet<'a> {
    pub(super) fn new(matrix: &'a ScoreMatrix<'a>, published: Vec<(CellSource, f64)>) -> SeriesSet<'a> {
        SeriesSet { matrix, series: Vec::new(), by_source: BTreeMap::new(), by_terms: BTreeMap::new(), published }
    }

    fn view(&mut self, source: &CellSource, metric: Metric) -> SeriesView {
        let next = self.series.len();
        let series = *self.by_source.entry((source.evaluations.clone(), metric)).or_insert(next);
        if series == next {
            self.series.push(self.matrix.series(&source.evaluations, metric));
        }
        SeriesView { series, scope: source.dataset.map_or(Scope::All, Scope::Dataset) }
    }

    /// The weighted sum of views, on the data sets that all of them have.
    fn linear_combination(&mut self, terms: &[(f64, SeriesView)]) -> SeriesView {
        let scope = terms.iter().fold(Scope::All, |scope, (_, view)| scope.intersection(view.scope));
        let next = self.series.len();
        let key = terms.iter().map(|(weight, view)| (weight.to_bits(), view.series)).collect();
        let series = *self.by_terms.entry(key).or_insert(next);
        if series == next {
            let terms: Vec<(f64, &Series)> =
                terms.iter().map(|(weight, view)| (*weight, &self.series[view.series])).collect();
            self.series.push(Series::linear_combination(&terms));
        }
        SeriesView { series, scope }
    }

    /// Adds the series of a cell and of its difference to the cell `base`.
    pub(super) fn cell(
        &mut self,
        selector: String,
        source: &CellSource,
        base: Option<&CellSource>,
        metric: Metric,
    ) -> PendingCell {
        let metrics = [metric, Metric::Compliance, Metric::Readable, Metric::AccuracyGivenCompliance];
        let [values, compliance, readable, given_compliance] = metrics.map(|metric| self.view(source, metric));
        let difference = base.map(|base| {
            let base = self.view(base, metric);
            self.linear_combination(&[(1.0, values), (-1.0, base)])
        });
        // Two selectors of the same evaluations name the same cell.
        let published = self.published.iter().find(|(known, _)| known == source).map(|(_, share)| *share);
        PendingCell {
            selector,
            source: source.clone(),
            metric: values,
            compliance,
            readable,
            given_compliance,
            difference,
            published,
        }
    }

    /// Adds the series of a contrast.
    pub(super) fn contrast(&mut self, contrast: &Contrast, metric: Metric) -> PendingContrast {
        let (mut missing, mut unmatched) = (Vec::new(), Vec::new());
        let mut terms: Vec<(f64, SeriesView)> = Vec::new();
        for (sign, side) in [(1.0, &contrast.plus), (-1.0, &contrast.minus)] {
            for selector in side {
                let source = self.matrix.select(selector);
                if source.evaluations.is_empty() {
                    unmatched.push(selector.to_string());
                }
                for name in self.matrix.missing(&source.evaluations) {
                    if !missing.contains(&name) {
                        missing.push(name);
                    }
                }
                terms.push((sign / side.len() as f64, self.view(&source, metric)));
            }
        }
        let view = self.linear_combination(&terms);
        PendingContrast { spec: contrast.clone(), view, missing, unmatched }
    }

    /// The estimates, given the intervals of all series in their order.
    pub(super) fn estimates(&self, intervals: Vec<SeriesIntervals>, seed: Seed) -> Estimates<'_> {
        Estimates { matrix: self.matrix, series: &self.series, intervals, seed }
    }
}

impl Scope {
    fn intersection(self, other: Scope) -> Scope {
        match (self, other) {
            (Scope::All, scope) | (scope, Scope::All) => scope,
            (one, other) if one == other => one,
            _ => Scope::Empty,
        }
    }
}

/// The series of a table with their intervals.
pub(super) struct Estimates<'a> {
    matrix: &'a ScoreMatrix<'a>,
    series: &'a [Series],
    intervals: Vec<SeriesIntervals>,
    seed: Seed,
}

impl Estimates<'_> {
    /// The tests of differences. All tests draw from the same stream.
    pub(super) fn paired_tests(&self, differences: &[Option<SeriesView>]) -> Vec<Option<PairedTest>> {
        let test = |view: &Option<SeriesView>| match ((*view)?.scope, &self.series[(*view)?.series]) {
            (Scope::All, series) => paired_test(series, self.seed),
            (Scope::Dataset(dataset), series) => paired_test(&series.restrict_to(dataset), self.seed),
            (Scope::Empty, _) => None,
        };
        differences.par_iter().map(test).collect()
    }

    fn estimate(&self, view: SeriesView) -> Option<Estimate> {
        let (series, intervals) = (&self.series[view.series], &self.intervals[view.series]);
        match view.scope {
            Scope::All => {
                let (mean, interval) = (series.average()?, intervals.overall?);
                Some(Estimate { mean, interval, items: series.items(), seeds: series.seeds() })
            }
            Scope::Dataset(dataset) => self.dataset_estimate(view.series, dataset),
            Scope::Empty => None,
        }
    }

    fn dataset_estimate(&self, series: usize, dataset: usize) -> Option<Estimate> {
        let (series, intervals) = (&self.series[series], &self.intervals[series]);
        let (mean, interval) = (series.average_of(dataset)?, *intervals.datasets.get(&dataset)?);
        Some(Estimate { mean, interval, items: series.items_of(dataset), seeds: series.seeds_of(dataset) })
    }

    /// The estimates of the view's data sets that have scores, by name.
    fn dataset_estimates(&self, view: SeriesView) -> BTreeMap<String, Estimate> {
        let all = self.intervals[view.series].datasets.keys().copied();
        let in_scope =
            all.filter(|dataset| view.scope.intersection(Scope::Dataset(*dataset)) == Scope::Dataset(*dataset));
        let estimate = |dataset: usize| {
            Some((self.matrix.datasets[dataset].clone(), self.dataset_estimate(view.series, dataset)?))
        };
        in_scope.filter_map(estimate).collect()
    }

    fn difference(
        &self,
        view: Option<SeriesView>,
        test: Option<PairedTest>,
        corrected: &mut impl Iterator<Item = f64>,
    ) -> Option<Difference> {
        let test = test?;
        let p_holm = corrected.next()?;
        Some(Difference { estimate: self.estimate(view?)?, test, p_holm })
    }

    /// Takes the next of the `corrected` p-values if there is a test.
    pub(super) fn cell(
        &self,
        cell: PendingCell,
        test: Option<PairedTest>,
        corrected: &mut impl Iterator<Item = f64>,
    ) -> Cell {
        Cell {
            difference: self.difference(cell.difference, test, corrected),
            estimate: self.estimate(cell.metric),
            compliance: self.estimate(cell.compliance),
            readable: self.estimate(cell.readable),
            accuracy_given_compliance: self.estimate(cell.given_compliance),
            datasets: self.dataset_estimates(cell.metric),
            selector: cell.selector,
            instances: self.matrix.names(&cell.source.evaluations),
            missing: self.matrix.missing(&cell.source.evaluations),
            budget: None,
            published: cell.published,
        }
    }

    /// Takes the next of the `corrected` p-values if there is a test.
    pub(super) fn contrast(
        &self,
        contrast: PendingContrast,
        test: Option<PairedTest>,
        corrected: &mut impl Iterator<Item = f64>,
    ) -> ContrastResult {
        let difference = self.difference(Some(contrast.view), test, corrected);
        let mut by_seed = Vec::new();
        if let Some(series) = self.in_scope(contrast.view) {
            for (seed, name) in self.matrix.seeds.iter().enumerate() {
                by_seed.extend(series.average_of_seed(seed).map(|mean| SeedEstimate { seed: name.clone(), mean }));
            }
            // A series that all seeds share has one estimate, although it has a row per seed.
            by_seed.truncate(series.seeds());
        }
        let (verdict, reason) = match &difference {
            Some(difference) => Verdict::of(difference, &by_seed),
            None => (Verdict::NotMeasured, missing_reason(&contrast)),
        };
        let datasets = self.dataset_estimates(contrast.view);
        let PendingContrast { spec: Contrast { name, about, plus, minus }, missing, .. } = contrast;
        let [plus, minus] = [plus, minus].map(|side| side.iter().map(ToString::to_string).collect());
        ContrastResult {
            name,
            about,
            plus,
            minus,
            difference,
            by_seed,
            datasets,
            verdict,
            budget: None,
            reason,
            missing,
        }
    }

    fn in_scope(&self, view: SeriesView) -> Option<Series> {
        let series = &self.series[view.series];
        match view.scope {
            Scope::All => Some(series.clone()),
            Scope::Dataset(dataset) => Some(series.restrict_to(dataset)),
            Scope::Empty => None,
        }
    }
}

/// Why a contrast has no estimate.
fn missing_reason(contrast: &PendingContrast) -> String {
    match (&contrast.unmatched[..], &contrast.missing[..]) {
        ([first, ..], _) => format!("no instance matches `{first}`"),
        ([], []) => "the two sides share no item".to_string(),
        ([], [only]) => format!("`{only}` has not run"),
        ([], [first, rest @ ..]) => format!("`{first}` and {} more have not run", rest.len()),
    }
}
