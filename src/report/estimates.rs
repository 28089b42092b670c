//! The estimates of a table: the series of all cells and contrasts, then their means, confidence intervals and tests.

use std::collections::BTreeMap;

use rayon::prelude::*;

use super::score_matrix::{CellSource, ScoreMatrix};
use super::statistics::{
    Average, ConfidenceInterval, Design, PairedTest, Range, Series, confidence_interval, paired_test,
};
use super::table::{CarriedBy, Cell, ContrastResult, Difference, Estimate, SeedEstimate, Verdict, Words};
use super::verdict::Evidence;
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

/// The distinct series of a table. The cells of different data sets are views of one series.
pub(super) struct SeriesSet<'a> {
    matrix: &'a ScoreMatrix<'a>,
    series: Vec<Series>,
    /// By series: what its values can be.
    ranges: Vec<Range>,
    /// Indices of the cells' series, by evaluations and metric.
    by_source: BTreeMap<(Vec<usize>, Metric), usize>,
    /// Indices of the linear combinations, by the bits of each weight and the series.
    by_terms: BTreeMap<Vec<(u64, usize)>, usize>,
    published: Vec<(CellSource, f64)>,
}

impl<'a> SeriesSet<'a> {
    pub(super) fn new(matrix: &'a ScoreMatrix<'a>, published: Vec<(CellSource, f64)>) -> SeriesSet<'a> {
        SeriesSet {
            matrix,
            series: Vec::new(),
            ranges: Vec::new(),
            by_source: BTreeMap::new(),
            by_terms: BTreeMap::new(),
            published,
        }
    }

    fn view(&mut self, source: &CellSource, metric: Metric) -> SeriesView {
        let next = self.series.len();
        let series = *self.by_source.entry((source.evaluations.clone(), metric)).or_insert(next);
        if series == next {
            self.series.push(self.matrix.series(&source.evaluations, metric));
            self.ranges.push(Range::Share);
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
            let size = terms.iter().map(|(weight, _)| weight.abs()).sum::<f64>() / 2.0;
            let sum = Series::linear_combination(&terms);
            self.series.push(sum);
            self.ranges.push(Range::Difference(size));
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
                let count = if contrast.sum { 1 } else { side.len() };
                terms.push((sign / count as f64, self.view(&source, metric)));
            }
        }
        let view = self.linear_combination(&terms);
        PendingContrast { spec: contrast.clone(), view, missing, unmatched }
    }

    /// The estimates of all series.
    pub(super) fn estimates(&self, seed: Seed) -> Estimates<'_> {
        let items = &self.matrix.items;
        let estimate = |series: &Series, range: Range| -> Option<Measured> {
            let average = Average::new(series, items, range)?;
            Some(Measured { average, interval: confidence_interval(&average) })
        };
        let measured = self
            .series
            .par_iter()
            .zip(&self.ranges)
            .map(|(series, range)| {
                let of_dataset = |dataset| Some((dataset, estimate(&series.restrict_to(dataset), *range)?));
                MeasuredSeries {
                    overall: estimate(series, *range),
                    datasets: series.datasets().filter_map(of_dataset).collect(),
                }
            })
            .collect();
        Estimates { matrix: self.matrix, series: &self.series, measured, seed }
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

/// An average with its confidence interval.
#[derive(Clone, Copy, Debug)]
struct Measured {
    average: Average,
    interval: ConfidenceInterval,
}

/// The averages of a series over all data sets, and by data set.
struct MeasuredSeries {
    overall: Option<Measured>,
    datasets: BTreeMap<usize, Measured>,
}

/// The series of a table with their averages and intervals.
pub(super) struct Estimates<'a> {
    matrix: &'a ScoreMatrix<'a>,
    series: &'a [Series],
    measured: Vec<MeasuredSeries>,
    seed: Seed,
}

impl Estimates<'_> {
    /// The tests of differences. All tests draw from the same stream.
    pub(super) fn paired_tests(&self, differences: &[Option<SeriesView>]) -> Vec<Option<PairedTest>> {
        let test = |view: &Option<SeriesView>| {
            let average = self.measured((*view)?)?.average;
            Some(paired_test(&average, &self.in_scope((*view)?)?, &self.matrix.items, self.seed))
        };
        differences.par_iter().map(test).collect()
    }

    fn measured(&self, view: SeriesView) -> Option<Measured> {
        let measured = &self.measured[view.series];
        match view.scope {
            Scope::All => measured.overall,
            Scope::Dataset(dataset) => measured.datasets.get(&dataset).copied(),
            Scope::Empty => None,
        }
    }

    fn estimate(&self, view: SeriesView) -> Option<Estimate> {
        let Measured { average, interval } = self.measured(view)?;
        let series = &self.series[view.series];
        let items = match view.scope {
            Scope::Dataset(dataset) => series.items_of(dataset),
            _ => series.items(),
        };
        Some(Estimate { mean: average.mean, interval, items, seeds: average.seeds })
    }

    /// The estimates of the view's data sets that have scores, by name.
    fn dataset_estimates(&self, view: SeriesView) -> BTreeMap<String, Estimate> {
        let all = self.measured[view.series].datasets.keys().copied();
        let in_scope =
            all.filter(|dataset| view.scope.intersection(Scope::Dataset(*dataset)) == Scope::Dataset(*dataset));
        let estimate = |dataset: usize| {
            let view = SeriesView { series: view.series, scope: Scope::Dataset(dataset) };
            Some((self.matrix.datasets[dataset].clone(), self.estimate(view)?))
        };
        in_scope.filter_map(estimate).collect()
    }

    fn difference(
        &self,
        view: Option<SeriesView>,
        test: Option<PairedTest>,
        corrected: &mut impl Iterator<Item = f64>,
        tests: usize,
    ) -> Option<Difference> {
        let (test, view) = (test?, view?);
        let p_holm = corrected.next()?;
        let detectable = Design::new(self.measured(view)?.average, tests).detectable();
        Some(Difference { estimate: self.estimate(view)?, test, p_holm, detectable })
    }

    /// The data set that carries a difference: without it less than half is left.
    fn carried_by(&self, view: SeriesView, mean: f64) -> Option<CarriedBy> {
        let (Scope::All, series) = (view.scope, &self.series[view.series]) else { return None };
        let datasets = self.measured[view.series].datasets.iter();
        let largest = datasets.max_by(|(_, a), (_, b)| (a.average.mean * mean).total_cmp(&(b.average.mean * mean)));
        let (dataset, measured) = largest?;
        let rest = series.without(*dataset);
        let average = Average::new(&rest, &self.matrix.items, measured.average.range)?;
        let interval = confidence_interval(&average);
        let rest = Estimate { mean: average.mean, interval, items: rest.items(), seeds: average.seeds };
        let dataset = self.matrix.datasets[*dataset].clone();
        (rest.mean * mean.signum() < 0.5 * mean.abs()).then_some(CarriedBy {
            dataset,
            mean: measured.average.mean,
            rest,
        })
    }

    /// Takes the next of the `corrected` p-values if there is a test. `tests`: number of tests in the correction.
    pub(super) fn cell(
        &self,
        cell: PendingCell,
        test: Option<PairedTest>,
        corrected: &mut impl Iterator<Item = f64>,
        tests: usize,
    ) -> Cell {
        Cell {
            difference: self.difference(cell.difference, test, corrected, tests),
            estimate: self.estimate(cell.metric),
            compliance: self.estimate(cell.compliance),
            readable: self.estimate(cell.readable),
            accuracy_given_compliance: self.estimate(cell.given_compliance),
            datasets: self.dataset_estimates(cell.metric),
            selector: cell.selector,
            instances: self.matrix.names(&cell.source.evaluations),
            axes: self.matrix.axes(&cell.source),
            missing: self.matrix.missing(&cell.source.evaluations),
            budget: None,
            published: cell.published,
        }
    }

    /// As [`Estimates::cell`].
    pub(super) fn contrast(
        &self,
        contrast: PendingContrast,
        test: Option<PairedTest>,
        corrected: &mut impl Iterator<Item = f64>,
        tests: usize,
    ) -> ContrastResult {
        let difference = self.difference(Some(contrast.view), test, corrected, tests);
        let mut by_seed = Vec::new();
        if let Some(series) = self.in_scope(contrast.view) {
            for (seed, name) in self.matrix.seeds.iter().enumerate() {
                by_seed.extend(series.average_of_seed(seed).map(|mean| SeedEstimate { seed: name.clone(), mean }));
            }
            // A series that all seeds share has one estimate, although it has a row per seed.
            by_seed.truncate(series.seeds());
        }
        let datasets = self.dataset_estimates(contrast.view);
        let margin = contrast.spec.margin;
        let mean = difference.as_ref().map_or(0.0, |difference| difference.estimate.mean);
        let found = difference.as_ref().is_some_and(|difference| difference.estimate.interval.excludes_zero());
        let carried_by = if found { self.carried_by(contrast.view, mean) } else { None };
        let effect = margin.unwrap_or(mean.abs());
        let needs = self.measured(contrast.view).filter(|_| effect > 0.0).zip(difference.as_ref()).map(
            |(measured, difference)| Design::new(measured.average, tests).needs(effect, difference.estimate.items),
        );
        let (verdict, reason) = match &difference {
            Some(difference) => {
                let (by_seed, carried_by, needs) = (&by_seed[..], carried_by.as_ref(), needs.as_ref());
                let evidence = Evidence { difference, margin, by_seed, carried_by, needs };
                (evidence.verdict(), evidence.reason())
            }
            None => (Verdict::NotMeasured, missing_reason(&contrast)),
        };
        let words = Words { verdict, margin, seeds: by_seed.len() };
        let PendingContrast { spec: Contrast { name, about, plus, minus, .. }, missing, .. } = contrast;
        let [plus, minus] = [plus, minus].map(|side| side.iter().map(ToString::to_string).collect());
        ContrastResult {
            name,
            about,
            plus,
            minus,
            difference,
            margin,
            by_seed,
            datasets,
            carried_by,
            needs,
            verdict,
            words,
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
