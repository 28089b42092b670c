//! From a table's request to its numbers: lays out rows and columns, then one bootstrap for all of them.

use std::collections::BTreeMap;

use anyhow::{Context, Result, anyhow};

use super::baseline;
use super::cells::{Cells, Choice};
use super::drafts::{Draft, Drafts};
use super::input::{DATASET, Selector, TableRequest};
use super::statistics::{Comparison, Series, bootstrap, holm};
use super::table::{Contrast, Dataset, Row, Table};
use ablate_core::base::Seed;

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
            Some(text) => Some(baseline::find(text, request, &rows).with_context(place)?),
        };
        let layout = Layout { rows, columns, baseline };
        baseline::check(&layout, cells).with_context(place)?;
        Ok(layout)
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
    let mut work = Drafts::new(cells, published.collect());
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
        let mut draft = |selector: &Selector, choice: &Choice, base: Option<&Choice>| {
            let base = base.filter(|base| baseline::is_compared(base, choice));
            line.push(work.draft(selector.to_string(), choice, base, request.metric));
        };
        for (index, column) in layout.columns.iter().enumerate() {
            let base = base.as_ref().map(|base| &base[index]);
            draft(&row.selector.and(&column.selector), &chosen[index], base);
        }
        if with_mean {
            let base = base.map(|base| together(&base));
            draft(&row.selector, &together(&chosen), base.as_ref());
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

    let series: Vec<&Series> = work.series.iter().collect();
    let intervals = bootstrap(&series, cells.seeds.len(), &cells.items, resamples, seed);
    let finished = work.finish(intervals, seed);

    let differences: Vec<_> = drafts.iter().flatten().map(|draft| draft.difference).collect();
    let comparisons = finished.comparisons(&differences);
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

    let comparisons = finished.comparisons(&contrasts.iter().map(|one| one.quantity).collect::<Vec<_>>());
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
    // Columns of one data set have a mean on that one.
    let dataset = chosen.first().and_then(|first| first.dataset);
    Choice { instances: all, dataset: dataset.filter(|_| chosen.iter().all(|choice| choice.dataset == dataset)) }
}

/// Holm over the comparisons that exist; the adjusted values come out in the same order.
fn correct(comparisons: &[Option<Comparison>]) -> std::vec::IntoIter<f64> {
    holm(&comparisons.iter().flatten().map(|one| one.p).collect::<Vec<_>>()).into_iter()
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
