//! The layout of a table: rows, columns and baseline, with their labels.

use std::collections::BTreeMap;

use anyhow::{Result, bail};

use super::score_matrix::{CellSource, ScoreMatrix};
use ablate_experiment::{GroupBy, ReportSpec, Selector};

/// The header of a row or a column.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Header {
    pub(super) selector: Selector,
    pub(super) label: String,
}

/// The rows, the columns and the baseline of a table. The baseline is one row, or evaluations that are in no row.
pub(super) struct Layout {
    pub(super) rows: Vec<Header>,
    pub(super) columns: Vec<Header>,
    pub(super) baseline: Option<Header>,
}

impl Layout {
    pub(super) fn new(spec: &ReportSpec, matrix: &ScoreMatrix) -> Result<Layout> {
        let (rows, columns) = (headers(&spec.rows, spec, matrix), headers(&spec.columns, spec, matrix));
        let baseline = spec.baseline.as_ref().map(|baseline| find_baseline(baseline, spec, &rows)).transpose()?;
        let layout = Layout { rows, columns, baseline };
        check_baseline(&layout, matrix)?;
        Ok(layout)
    }
}

/// The label of a selector: the labels of the report where they apply, longest selectors first, and the values of the
/// remaining axes.
pub(super) fn label(selector: &Selector, spec: &ReportSpec) -> String {
    let mut labels: Vec<_> = spec.labels.iter().filter(|(labeled, _)| !labeled.values.is_empty()).collect();
    labels.sort_by_key(|(labeled, _)| std::cmp::Reverse(labeled.values.len()));
    let mut remaining = selector.values.clone();
    // In alphabetical order of the axes. A label is sorted by the first axis that it replaces.
    let mut parts: BTreeMap<String, String> = BTreeMap::new();
    for (labeled, label) in labels {
        if labeled.values.iter().all(|(axis, value)| remaining.get(axis) == Some(value)) {
            remaining.retain(|axis, _| !labeled.values.contains_key(axis));
            parts.extend(labeled.values.keys().next().map(|axis| (axis.clone(), label.clone())));
        }
    }
    parts.extend(remaining);
    let parts: Vec<String> = parts.into_values().collect();
    if parts.is_empty() { "all".to_string() } else { parts.join(" · ") }
}

fn headers(groups: &GroupBy, spec: &ReportSpec, matrix: &ScoreMatrix) -> Vec<Header> {
    let selectors = match groups {
        GroupBy::Axes(axes) => matrix.combinations(axes),
        GroupBy::Selectors(selectors) => selectors.clone(),
    };
    selectors.into_iter().map(|selector| Header { label: label(&selector, spec), selector }).collect()
}

/// The row that the baseline matches, or a header for evaluations that are in no row.
fn find_baseline(baseline: &Selector, spec: &ReportSpec, rows: &[Header]) -> Result<Header> {
    let matches =
        |row: &&Header| baseline.values.iter().all(|(axis, value)| row.selector.values.get(axis) == Some(value));
    let matching: Vec<&Header> = rows.iter().filter(matches).collect();
    match &matching[..] {
        // The baseline may name only some of the row's values.
        [row] => Ok((*row).clone()),
        [] => Ok(Header { label: label(baseline, spec), selector: baseline.clone() }),
        several => {
            let selectors = several.iter().map(|row| row.selector.to_string());
            bail!("the baseline `{baseline}` matches {} rows: name one of {}", several.len(), list(selectors))
        }
    }
}

/// Refuses a baseline that averages evaluations of several rows: a cell is never compared with a mean that includes it.
fn check_baseline(layout: &Layout, matrix: &ScoreMatrix) -> Result<()> {
    let Some(baseline) = &layout.baseline else { return Ok(()) };
    let mut included: Vec<String> = Vec::new();
    for row in &layout.rows {
        let partly = layout.columns.iter().any(|column| {
            let source = |line: &Header| matrix.select(&line.selector.and(&column.selector));
            let (base, cell) = (source(baseline), source(row));
            overlap(&base, &cell) && !base.evaluations.iter().all(|one| cell.evaluations.contains(one))
        });
        if partly {
            included.push(row.selector.to_string());
        }
    }
    if included.is_empty() {
        return Ok(());
    }
    let (count, name) = (included.len(), &baseline.selector);
    bail!(
        "the baseline `{name}` averages evaluations of {count} rows: name one of {}, or evaluations that are in no row",
        list(included)
    )
}

/// Whether a cell is compared with the baseline. A cell that shares evaluations with it is not.
pub(super) fn is_compared(base: &CellSource, cell: &CellSource) -> bool {
    !overlap(base, cell)
}

/// Whether two cells share scores. A cell without a data set has the scores of all data sets.
fn overlap(one: &CellSource, other: &CellSource) -> bool {
    let datasets = one.dataset.is_none() || other.dataset.is_none() || one.dataset == other.dataset;
    datasets && one.evaluations.iter().any(|evaluation| other.evaluations.contains(evaluation))
}

/// At most six names.
fn list(names: impl IntoIterator<Item = String>) -> String {
    let names: Vec<String> = names.into_iter().map(|name| format!("`{name}`")).collect();
    match names.len() {
        0..=6 => names.join(", "),
        all => format!("{} and {} more", names[..6].join(", "), all - 6),
    }
}
