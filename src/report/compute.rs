//! From a table's request to its numbers: lays out rows and columns, then one bootstrap for all of them.

use std::collections::BTreeMap;

use anyhow::{Context, Result, anyhow};

use super::cells::{Cells, Choice, Pool};
use super::input::{ContrastRequest, DATASET, Metric, Selector, TableRequest};
use super::statistics::{Comparison, Interval, Series, bootstrap, bootstrap::Intervals, compare, holm};
use super::table::{Cell, Contrast, Dataset, Difference, Estimate, Row, SeedEstimate, Table, Verdict};
use crate::base::Seed;

/// One line of cells: what it selects and what it is called.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Line {
    pub(super) selector: Selector,
    pub(super) label: String,
}

/// The rows and columns of a table.
pub(super) struct Layout {
    pub(super) rows: Vec<Line>,
    pub(super) columns: Vec<Line>,
    pub(super) baseline: Option<Line>,
}

impl Layout {
    pub(super) fn new(request: &TableRequest, cells: &Cells) -> Result<Layout> {
        let place = || format!("report `{}`", request.name);
        let rows = lines(&request.rows, request, cells).with_context(place)?;
        let columns = lines(&request.columns, request, cells).with_context(place)?;
        let baseline = match &request.baseline {
            None => None,
            Some(text) => Some(baseline(text, request, &rows).with_context(place)?),
        };
        Ok(Layout { rows, columns, baseline })
    }
}

/// Computes a table.
pub(super) fn table(request: &TableRequest, cells: &Cells, layout: &Layout, resamples: usize) -> Result<Table> {
    // The stream's name is fixed: the same scores give the same report.
    let seed = Seed(0).derive("report");
    let published = request.published.iter().flat_map(|(_, published)| published);
    let published = published.filter_map(|(text, value)| Some((cells.select(&Selector::parse(text).ok()?), *value)));
    // What chooses nothing here, such as a data set that is not there, belongs to no cell.
    let published = published.filter(|(choice, _)| !choice.instances.is_empty());
    let mut work = Work { cells, pending: Vec::new(), published: published.collect() };
    let mut notes: Vec<String> = Vec::new();
    let with_mean = layout.columns.len() > 1;
    let mut drafts: Vec<Vec<Draft>> = Vec::new();
    for row in &layout.rows {
        let cells_of = |line: &Line| -> Vec<Choice> {
            layout.columns.iter().map(|column| cells.select(&line.selector.and(&column.selector))).collect()
        };
        let chosen = cells_of(row);
        let base = layout.baseline.as_ref().map(cells_of);
        let mut line = Vec::new();
        for (index, column) in layout.columns.iter().enumerate() {
            let selector = row.selector.and(&column.selector).to_string();
            line.push(work.draft(selector, &chosen[index], base.as_ref().map(|base| &base[index]), request.metric));
        }
        if with_mean {
            let base = base.map(|base| together(&base));
            line.push(work.draft(row.selector.to_string(), &together(&chosen), base.as_ref(), request.metric));
        }
        drafts.push(line);
    }
    let mut contrasts = Vec::new();
    for contrast in &request.contrasts {
        contrasts.push(
            work.contrast(contrast, request)
                .with_context(|| format!("report `{}`, contrast `{}`", request.name, contrast.name))?,
        );
    }

    let series: Vec<&Series> = work.pending.iter().collect();
    let intervals = bootstrap(&series, cells.seeds.len(), &cells.items, resamples, seed);
    let finished = Finished { cells, pending: &work.pending, intervals: &intervals, seed };

    let comparisons: Vec<Option<Comparison>> =
        drafts.iter().flatten().map(|draft| draft.difference.and_then(|index| finished.comparison(index))).collect();
    let mut corrected = correct(&comparisons);
    let family = comparisons.iter().flatten().count();
    let mut comparisons = comparisons.into_iter();
    let rows: Vec<Row> = layout
        .rows
        .iter()
        .zip(drafts)
        .map(|(line, drafts)| {
            let cells = drafts.into_iter().map(|draft| {
                let comparison = comparisons.next().flatten();
                finished.cell(draft, comparison, &mut corrected)
            });
            Row { label: line.label.clone(), selector: line.selector.to_string(), cells: cells.collect() }
        })
        .collect();

    let comparisons: Vec<_> =
        contrasts.iter().map(|one| one.series.and_then(|index| finished.comparison(index))).collect();
    let mut corrected = correct(&comparisons);
    let contrasts: Vec<Contrast> = contrasts
        .into_iter()
        .zip(comparisons)
        .map(|(draft, comparison)| finished.contrast(draft, comparison, &mut corrected))
        .collect();

    notes.extend(remarks(cells, &rows, &contrasts));
    let datasets = cells.datasets.iter().zip(cells.items.datasets());
    let mut columns: Vec<String> = layout.columns.iter().map(|line| line.label.clone()).collect();
    if with_mean {
        columns.push("mean".to_string());
    }
    Ok(Table {
        name: request.name.clone(),
        title: if request.title.is_empty() { request.name.clone() } else { request.title.clone() },
        stage: request.stage.clone(),
        metric: request.metric,
        rows_are: axes(&request.rows),
        columns_are: axes(&request.columns),
        columns,
        rows,
        baseline: layout.baseline.as_ref().map(|line| line.label.clone()),
        family,
        datasets: datasets.map(|(name, range)| Dataset { name: name.clone(), items: range.len() }).collect(),
        breakdown: cells.datasets.len() > 1 && !request.columns.iter().chain(&request.rows).any(|axis| axis == DATASET),
        seeds: cells.seeds.clone(),
        resamples,
        contrasts,
        source: request.published.as_ref().map(|(source, _)| source.clone()),
        notes,
    })
}

/// Label of a selector: the request's own words for as many of its values as they stand for, then the values.
pub(super) fn label(selector: &Selector, request: &TableRequest) -> String {
    let own = request.labels.iter().filter_map(|(text, words)| Some((Selector::parse(text).ok()?.pins, words)));
    let mut own: Vec<_> = own.filter(|(pins, _)| !pins.is_empty()).collect();
    own.sort_by_key(|(pins, _)| std::cmp::Reverse(pins.len()));
    let mut left = selector.pins.clone();
    // By their first axis, so that values with words of their own stand where the others do.
    let mut parts: BTreeMap<String, String> = BTreeMap::new();
    for (pins, words) in own {
        if pins.iter().all(|(axis, value)| left.get(axis) == Some(value)) {
            left.retain(|axis, _| !pins.contains_key(axis));
            parts.extend(pins.into_keys().next().map(|axis| (axis, words.clone())));
        }
    }
    parts.extend(left);
    let parts: Vec<String> = parts.into_values().collect();
    if parts.is_empty() { "all".to_string() } else { parts.join(" · ") }
}

fn lines(texts: &[String], request: &TableRequest, cells: &Cells) -> Result<Vec<Line>> {
    let selectors: Vec<Selector> = if texts.iter().any(|text| text.contains('=')) {
        let parsed: Result<Vec<Selector>, String> = texts.iter().map(|text| Selector::parse(text)).collect();
        parsed.map_err(|message| anyhow!(message))?
    } else {
        cells.combinations(&texts.iter().map(String::as_str).collect::<Vec<_>>())
    };
    Ok(selectors.into_iter().map(|selector| Line { label: label(&selector, request), selector }).collect())
}

/// The baseline is a selector, or the label or value of a row.
fn baseline(text: &str, request: &TableRequest, rows: &[Line]) -> Result<Line> {
    if text.contains('=') {
        let selector = Selector::parse(text).map_err(|message| anyhow!(message))?;
        // Written short for a row, it is that row: with the row's other values, and its label.
        let fits: Vec<&Line> = rows.iter().filter(|row| selector.matches(&row.selector.pins)).collect();
        return Ok(match fits[..] {
            [row] => row.clone(),
            _ => Line { label: label(&selector, request), selector },
        });
    }
    let named = |row: &&Line| row.label == text || row.selector.pins.values().any(|value| value == text);
    rows.iter().find(named).cloned().ok_or_else(|| anyhow!("the baseline `{text}` is no row of the table"))
}

fn axes(texts: &[String]) -> String {
    if texts.iter().any(|text| text.contains('=')) { String::new() } else { texts.join(" · ") }
}

/// The cells of a row as one. A mean over columns of which one is empty is no mean over the columns: then nothing.
fn together(chosen: &[Choice]) -> Choice {
    if chosen.iter().any(|choice| choice.instances.is_empty()) {
        return Choice::default();
    }
    let mut all: Vec<usize> = chosen.iter().flat_map(|choice| &choice.instances).copied().collect();
    all.sort_unstable();
    all.dedup();
    Choice { instances: all, dataset: None }
}

/// Holm over the comparisons that exist; the adjusted values come out in the same order.
fn correct(comparisons: &[Option<Comparison>]) -> std::vec::IntoIter<f64> {
    holm(&comparisons.iter().flatten().map(|one| one.p).collect::<Vec<_>>()).into_iter()
}

/// A cell before its intervals: indices into the pending series.
struct Draft {
    selector: String,
    instances: Vec<String>,
    missing: Vec<String>,
    metric: usize,
    compliance: usize,
    readable: usize,
    difference: Option<usize>,
    published: Option<f64>,
}

struct ContrastDraft {
    request: ContrastRequest,
    series: Option<usize>,
    missing: Vec<String>,
    /// Selectors that no instance matches.
    unmatched: Vec<String>,
}

/// Collects every series, so that all of them see the same resamples.
struct Work<'a> {
    cells: &'a Cells<'a>,
    pending: Vec<Series>,
    published: Vec<(Choice, f64)>,
}

impl Work<'_> {
    fn push(&mut self, series: Series) -> usize {
        self.pending.push(series);
        self.pending.len() - 1
    }

    fn draft(&mut self, selector: String, choice: &Choice, base: Option<&Choice>, metric: Metric) -> Draft {
        let Pool { instances: names, missing, metric: values, compliance, readable } = self.cells.pool(choice, metric);
        let difference = base.filter(|base| *base != choice).map(|base| {
            let base = self.cells.pool(base, metric).metric;
            self.push(Series::combination(&[(1.0, &values), (-1.0, &base)]))
        });
        let (metric, compliance, readable) = (self.push(values), self.push(compliance), self.push(readable));
        // What was published for the same evaluations, however they are named there.
        let published = self.published.iter().find(|(known, _)| known == choice).map(|(_, value)| *value);
        Draft { selector, instances: names, missing, metric, compliance, readable, difference, published }
    }

    fn contrast(&mut self, contrast: &ContrastRequest, request: &TableRequest) -> Result<ContrastDraft> {
        let mut draft =
            ContrastDraft { request: contrast.clone(), series: None, missing: Vec::new(), unmatched: Vec::new() };
        let mut terms: Vec<(f64, Series)> = Vec::new();
        for (sign, side) in [(1.0, &contrast.plus), (-1.0, &contrast.minus)] {
            for text in side {
                let selector = Selector::parse(text).map_err(|message| anyhow!(message))?;
                let choice = self.cells.select(&selector);
                if choice.instances.is_empty() {
                    draft.unmatched.push(text.clone());
                }
                let pool = self.cells.pool(&choice, request.metric);
                draft
                    .missing
                    .extend(pool.missing.into_iter().filter(|name| !draft.missing.contains(name)).collect::<Vec<_>>());
                terms.push((sign / side.len() as f64, pool.metric));
            }
        }
        if !contrast.plus.is_empty() && !contrast.minus.is_empty() {
            let terms: Vec<(f64, &Series)> = terms.iter().map(|(weight, series)| (*weight, series)).collect();
            draft.series = Some(self.push(Series::combination(&terms)));
        }
        Ok(draft)
    }
}

/// The series with their intervals.
struct Finished<'a> {
    cells: &'a Cells<'a>,
    pending: &'a [Series],
    intervals: &'a [Intervals],
    seed: Seed,
}

impl Finished<'_> {
    fn comparison(&self, index: usize) -> Option<Comparison> {
        compare(&self.pending[index], &self.cells.items, self.seed)
    }

    fn overall(&self, index: usize) -> Option<Estimate> {
        let series = &self.pending[index];
        let mean = series.average(&self.cells.items)?;
        let items = series.items(0..self.cells.items.len());
        Some(Estimate { mean, interval: self.intervals[index].overall?, items, seeds: series.seeds() })
    }

    fn datasets(&self, index: usize) -> Vec<Option<Estimate>> {
        let series = &self.pending[index];
        let estimate = |(range, interval): (std::ops::Range<usize>, &Option<Interval>)| {
            let (mean, items) = (series.average_of(range.clone())?, series.items(range));
            Some(Estimate { mean, interval: (*interval)?, items, seeds: series.seeds() })
        };
        self.cells.items.datasets().zip(&self.intervals[index].datasets).map(estimate).collect()
    }

    fn difference(
        &self,
        index: Option<usize>,
        comparison: Option<Comparison>,
        corrected: &mut impl Iterator<Item = f64>,
    ) -> Option<Difference> {
        let comparison = comparison?;
        let p_holm = corrected.next()?;
        Some(Difference { estimate: self.overall(index?)?, comparison, p_holm })
    }

    fn cell(&self, draft: Draft, comparison: Option<Comparison>, corrected: &mut impl Iterator<Item = f64>) -> Cell {
        Cell {
            difference: self.difference(draft.difference, comparison, corrected),
            estimate: self.overall(draft.metric),
            compliance: self.overall(draft.compliance),
            readable: self.overall(draft.readable),
            datasets: self.datasets(draft.metric),
            selector: draft.selector,
            instances: draft.instances,
            missing: draft.missing,
            published: draft.published,
        }
    }

    fn contrast(
        &self,
        draft: ContrastDraft,
        comparison: Option<Comparison>,
        corrected: &mut impl Iterator<Item = f64>,
    ) -> Contrast {
        let difference = self.difference(draft.series, comparison, corrected);
        let mut by_seed = Vec::new();
        if let Some(series) = draft.series.map(|index| &self.pending[index]) {
            for (seed, name) in self.cells.seeds.iter().enumerate() {
                let mean = series.average_of_seed(seed, &self.cells.items);
                by_seed.extend(mean.map(|mean| SeedEstimate { seed: name.clone(), mean }));
            }
            // What all seeds share was measured once, however many rows carry it.
            by_seed.truncate(series.seeds());
        }
        let (verdict, words) = match &difference {
            Some(difference) => Verdict::of(difference, &by_seed),
            None => (Verdict::NotMeasured, unmeasured(&draft)),
        };
        let datasets = draft.series.map(|index| self.datasets(index)).unwrap_or_default();
        let ContrastDraft { request: ContrastRequest { name, about, plus, minus }, missing, .. } = draft;
        Contrast { name, about, plus, minus, difference, by_seed, datasets, verdict, words, missing }
    }
}

fn unmeasured(draft: &ContrastDraft) -> String {
    match (&draft.unmatched[..], &draft.missing[..]) {
        ([], []) if draft.series.is_none() => "a contrast needs both `plus` and `minus`".to_string(),
        ([], []) => "the two sides share no item".to_string(),
        ([first, ..], _) => format!("no instance matches `{first}`"),
        ([], [only]) => format!("`{only}` has not run"),
        ([], [first, rest @ ..]) => format!("`{first}` and {} more have not run", rest.len()),
    }
}

fn remarks(cells: &Cells, rows: &[Row], contrasts: &[Contrast]) -> Vec<String> {
    let mut notes = Vec::new();
    let all = || rows.iter().flat_map(|row| &row.cells);
    let mut missing: Vec<&String> = all().flat_map(|cell| &cell.missing).collect();
    missing.extend(contrasts.iter().flat_map(|contrast| &contrast.missing));
    missing.sort_unstable();
    missing.dedup();
    match missing[..] {
        [] => {}
        [only] => notes.push(format!("not run yet: `{only}`")),
        [first, ..] => notes.push(format!("not run yet: {} instances, among them `{first}`", missing.len())),
    }
    let estimates = || all().filter_map(|cell| cell.estimate);
    if estimates().next().is_none() {
        return notes;
    }
    let most = estimates().map(|estimate| estimate.seeds).max().unwrap_or(0);
    if estimates().any(|estimate| estimate.seeds == 1) {
        let which = if most == 1 { "every cell has" } else { "some cells have" };
        notes.push(format!("{which} one seed: the interval is of the items alone"));
    }
    if (2..5).contains(&most) {
        notes.push(format!("{most} seeds: the part of the interval that is due to seeds is on the short side"));
    }
    if cells.datasets.len() > 1 {
        notes.push("averages count every data set once".to_string());
    }
    notes
}
