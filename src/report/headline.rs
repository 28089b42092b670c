//! The headline of a report: the number by which its run is remembered.

use super::Report;
use super::table::{Cell, ContrastResult, Estimate, Table};
use ablate_engine::Headline;

/// Of the first table: its first contrast that was measured, or else the row with the best value. The value of a row is
/// the one in its last column, which is the mean if there are several. `None` without a value.
pub(super) fn of(report: &Report) -> Option<Headline> {
    let table = report.tables.first()?;
    let measured = |one: &ContrastResult| {
        let estimate = one.difference.as_ref()?.estimate;
        Some(headline(table, &one.name, true, &estimate, &one.missing))
    };
    table.contrasts.iter().find_map(measured).or_else(|| best_row(table))
}

fn best_row(table: &Table) -> Option<Headline> {
    let sign = if table.metric.is_error() { -1.0 } else { 1.0 };
    let value = |cell: &Cell| cell.estimate.map(|estimate| (estimate, sign * estimate.mean));
    let rows = table.rows.iter().filter_map(|row| {
        let cell = row.cells.last()?;
        Some((&row.label, cell, value(cell)?))
    });
    let (label, cell, (estimate, _)) = rows.max_by(|(.., one), (.., other)| one.1.total_cmp(&other.1))?;
    Some(headline(table, label, false, &estimate, &cell.missing))
}

fn headline(table: &Table, label: &str, is_contrast: bool, estimate: &Estimate, missing: &[String]) -> Headline {
    let (low, high) = (estimate.interval.low, estimate.interval.high);
    Headline {
        report: table.name.clone(),
        metric: table.metric.to_string(),
        label: label.to_string(),
        is_contrast,
        value: estimate.mean,
        partial: !missing.is_empty(),
        interval: (low.is_finite() && high.is_finite()).then_some((low, high)),
    }
}
