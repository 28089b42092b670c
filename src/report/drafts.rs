//! The quantities of a table: every cell and contrast as a series, equal ones once, then with their intervals.

use std::collections::BTreeMap;

use anyhow::{Result, anyhow};
use rayon::prelude::*;

use super::cells::{Cells, Choice};
use super::input::{ContrastRequest, Metric, Selector, TableRequest};
use super::statistics::{Comparison, Series, bootstrap::Intervals, compare};
use super::table::{Cell, Contrast, Difference, Estimate, SeedEstimate, Verdict};
use ablate_core::base::Seed;

/// A series by its index, or what one data set has of it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Quantity {
    series: usize,
    of: Extent,
}

/// How much of a series is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Extent {
    All,
    Dataset(usize),
    /// Sides that were measured on different data sets share nothing.
    Nothing,
}

/// A cell before its intervals.
pub(super) struct Draft {
    selector: String,
    choice: Choice,
    metric: Quantity,
    compliance: Quantity,
    readable: Quantity,
    pub(super) difference: Option<Quantity>,
    published: Option<f64>,
}

pub(super) struct ContrastDraft {
    request: ContrastRequest,
    pub(super) quantity: Option<Quantity>,
    missing: Vec<String>,
    /// Selectors that no instance matches.
    unmatched: Vec<String>,
}

/// Collects every series, so that all of them see the same resamples. A column of data sets shows parts of one series,
/// which is kept once.
pub(super) struct Drafts<'a> {
    cells: &'a Cells<'a>,
    pub(super) series: Vec<Series>,
    /// By instances and metric.
    measured: BTreeMap<(Vec<usize>, Metric), usize>,
    /// By the weights' bits and the series.
    combined: BTreeMap<Vec<(u64, usize)>, usize>,
    published: Vec<(Choice, f64)>,
}

impl<'a> Drafts<'a> {
    pub(super) fn new(cells: &'a Cells<'a>, published: Vec<(Choice, f64)>) -> Drafts<'a> {
        Drafts { cells, series: Vec::new(), measured: BTreeMap::new(), combined: BTreeMap::new(), published }
    }

    fn measure(&mut self, choice: &Choice, metric: Metric) -> Quantity {
        let next = self.series.len();
        let series = *self.measured.entry((choice.instances.clone(), metric)).or_insert(next);
        if series == next {
            self.series.push(self.cells.series(&choice.instances, metric));
        }
        Quantity { series, of: choice.dataset.map_or(Extent::All, Extent::Dataset) }
    }

    /// The weighted sum of quantities, on the data sets that all of them are about.
    fn combine(&mut self, terms: &[(f64, Quantity)]) -> Quantity {
        let of = terms.iter().fold(Extent::All, |of, (_, quantity)| of.and(quantity.of));
        let next = self.series.len();
        let key = terms.iter().map(|(weight, quantity)| (weight.to_bits(), quantity.series)).collect();
        let series = *self.combined.entry(key).or_insert(next);
        if series == next {
            let terms: Vec<(f64, &Series)> =
                terms.iter().map(|(weight, quantity)| (*weight, &self.series[quantity.series])).collect();
            self.series.push(Series::combination(&terms));
        }
        Quantity { series, of }
    }

    /// A cell; `base` is what it is compared with.
    pub(super) fn draft(&mut self, selector: String, choice: &Choice, base: Option<&Choice>, metric: Metric) -> Draft {
        let [values, compliance, readable] =
            [metric, Metric::Compliance, Metric::Readable].map(|metric| self.measure(choice, metric));
        let difference = base.map(|base| {
            let base = self.measure(base, metric);
            self.combine(&[(1.0, values), (-1.0, base)])
        });
        // What was published for the same evaluations, however they are named there.
        let published = self.published.iter().find(|(known, _)| known == choice).map(|(_, value)| *value);
        Draft { selector, choice: choice.clone(), metric: values, compliance, readable, difference, published }
    }

    pub(super) fn contrast(&mut self, contrast: &ContrastRequest, request: &TableRequest) -> Result<ContrastDraft> {
        let (mut missing, mut unmatched) = (Vec::new(), Vec::new());
        let mut terms: Vec<(f64, Quantity)> = Vec::new();
        for (sign, side) in [(1.0, &contrast.plus), (-1.0, &contrast.minus)] {
            for text in side {
                let selector = Selector::parse(text).map_err(|message| anyhow!(message))?;
                let choice = self.cells.select(&selector);
                if choice.instances.is_empty() {
                    unmatched.push(text.clone());
                }
                for name in self.cells.missing(&choice.instances) {
                    if !missing.contains(&name) {
                        missing.push(name);
                    }
                }
                terms.push((sign / side.len() as f64, self.measure(&choice, request.metric)));
            }
        }
        let both = !contrast.plus.is_empty() && !contrast.minus.is_empty();
        let quantity = both.then(|| self.combine(&terms));
        Ok(ContrastDraft { request: contrast.clone(), quantity, missing, unmatched })
    }

    /// With the intervals of the series, in their order.
    pub(super) fn finish(&self, intervals: Vec<Intervals>, seed: Seed) -> Finished<'_> {
        Finished { cells: self.cells, series: &self.series, intervals, seed }
    }
}

impl Extent {
    fn and(self, other: Extent) -> Extent {
        match (self, other) {
            (Extent::All, of) | (of, Extent::All) => of,
            (one, other) if one == other => one,
            _ => Extent::Nothing,
        }
    }
}

/// The series with their intervals.
pub(super) struct Finished<'a> {
    cells: &'a Cells<'a>,
    series: &'a [Series],
    intervals: Vec<Intervals>,
    seed: Seed,
}

impl Finished<'_> {
    /// The tests of differences. Each draws from the same stream, whatever the others.
    pub(super) fn comparisons(&self, differences: &[Option<Quantity>]) -> Vec<Option<Comparison>> {
        let compare =
            |quantity: &Option<Quantity>| match (quantity.as_ref()?.of, &self.series[quantity.as_ref()?.series]) {
                (Extent::All, series) => compare(series, self.seed),
                (Extent::Dataset(dataset), series) => compare(&series.only(dataset), self.seed),
                (Extent::Nothing, _) => None,
            };
        differences.par_iter().map(compare).collect()
    }

    fn overall(&self, quantity: Quantity) -> Option<Estimate> {
        let (series, intervals) = (&self.series[quantity.series], &self.intervals[quantity.series]);
        match quantity.of {
            Extent::All => {
                let (mean, interval) = (series.average()?, intervals.overall?);
                Some(Estimate { mean, interval, items: series.items(), seeds: series.seeds() })
            }
            Extent::Dataset(dataset) => self.of_dataset(quantity.series, dataset),
            Extent::Nothing => None,
        }
    }

    fn of_dataset(&self, series: usize, dataset: usize) -> Option<Estimate> {
        let (series, intervals) = (&self.series[series], &self.intervals[series]);
        let (mean, interval) = (series.average_of(dataset)?, *intervals.datasets.get(&dataset)?);
        Some(Estimate { mean, interval, items: series.items_of(dataset), seeds: series.seeds_of(dataset) })
    }

    /// By name, the data sets of which something was measured.
    fn datasets(&self, quantity: Quantity) -> BTreeMap<String, Estimate> {
        let all = self.intervals[quantity.series].datasets.keys().copied();
        let meant = all.filter(|dataset| quantity.of.and(Extent::Dataset(*dataset)) == Extent::Dataset(*dataset));
        let estimate =
            |dataset: usize| Some((self.cells.datasets[dataset].clone(), self.of_dataset(quantity.series, dataset)?));
        meant.filter_map(estimate).collect()
    }

    fn difference(
        &self,
        quantity: Option<Quantity>,
        comparison: Option<Comparison>,
        corrected: &mut impl Iterator<Item = f64>,
    ) -> Option<Difference> {
        let comparison = comparison?;
        let p_holm = corrected.next()?;
        Some(Difference { estimate: self.overall(quantity?)?, comparison, p_holm })
    }

    pub(super) fn cell(
        &self,
        draft: Draft,
        comparison: Option<Comparison>,
        corrected: &mut impl Iterator<Item = f64>,
    ) -> Cell {
        Cell {
            difference: self.difference(draft.difference, comparison, corrected),
            estimate: self.overall(draft.metric),
            compliance: self.overall(draft.compliance),
            readable: self.overall(draft.readable),
            datasets: self.datasets(draft.metric),
            selector: draft.selector,
            instances: self.cells.names(&draft.choice.instances),
            missing: self.cells.missing(&draft.choice.instances),
            published: draft.published,
        }
    }

    pub(super) fn contrast(
        &self,
        draft: ContrastDraft,
        comparison: Option<Comparison>,
        corrected: &mut impl Iterator<Item = f64>,
    ) -> Contrast {
        let difference = self.difference(draft.quantity, comparison, corrected);
        let mut by_seed = Vec::new();
        if let Some(series) = draft.quantity.and_then(|quantity| self.part(quantity)) {
            for (seed, name) in self.cells.seeds.iter().enumerate() {
                by_seed.extend(series.average_of_seed(seed).map(|mean| SeedEstimate { seed: name.clone(), mean }));
            }
            // What all seeds share was measured once, however many rows carry it.
            by_seed.truncate(series.seeds());
        }
        let (verdict, words) = match &difference {
            Some(difference) => Verdict::of(difference, &by_seed),
            None => (Verdict::NotMeasured, unmeasured(&draft)),
        };
        let datasets = draft.quantity.map(|quantity| self.datasets(quantity)).unwrap_or_default();
        let ContrastDraft { request: ContrastRequest { name, about, plus, minus }, missing, .. } = draft;
        Contrast { name, about, plus, minus, difference, by_seed, datasets, verdict, words, missing }
    }

    fn part(&self, quantity: Quantity) -> Option<Series> {
        let series = &self.series[quantity.series];
        match quantity.of {
            Extent::All => Some(series.clone()),
            Extent::Dataset(dataset) => Some(series.only(dataset)),
            Extent::Nothing => None,
        }
    }
}

fn unmeasured(draft: &ContrastDraft) -> String {
    match (&draft.unmatched[..], &draft.missing[..]) {
        ([], []) if draft.quantity.is_none() => "a contrast needs both `plus` and `minus`".to_string(),
        ([], []) => "the two sides share no item".to_string(),
        ([first, ..], _) => format!("no instance matches `{first}`"),
        ([], [only]) => format!("`{only}` has not run"),
        ([], [first, rest @ ..]) => format!("`{first}` and {} more have not run", rest.len()),
    }
}
