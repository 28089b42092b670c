//! The baseline of a table: one row, or evaluations that are in no row. A cell is never compared with a mean that
//! includes its own evaluations.

use anyhow::{Result, bail};

use super::compute::{Header, Layout, label};
use super::score_matrix::{CellSource, ScoreMatrix};
use ablate_experiment::{ReportSpec, Selector};

/// The row that the baseline matches, or a header for evaluations that are in no row.
pub(super) fn find(baseline: &Selector, spec: &ReportSpec, rows: &[Header]) -> Result<Header> {
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

/// Refuses a baseline that is a mean over rows.
pub(super) fn check(layout: &Layout, matrix: &ScoreMatrix) -> Result<()> {
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
