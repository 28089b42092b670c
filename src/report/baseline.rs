//! What the cells of a table are compared with: one row, or evaluations outside of the rows. A cell is never compared
//! with a mean that it is part of.

use anyhow::{Result, anyhow, bail};

use super::cells::{Cells, Choice};
use super::compute::{Layout, Line, label};
use super::input::{Selector, TableRequest};

/// The baseline is a selector, or the label or value of a row.
pub(super) fn find(text: &str, request: &TableRequest, rows: &[Line]) -> Result<Line> {
    let by_label: Vec<&Line> = rows.iter().filter(|row| row.label == text).collect();
    if let [row] = by_label[..] {
        return Ok(row.clone());
    }
    let selector =
        if text.contains('=') { Some(Selector::parse(text).map_err(|message| anyhow!(message))?) } else { None };
    let is_meant = |row: &&Line| match &selector {
        Some(selector) => selector.pins.iter().all(|(axis, value)| row.selector.pins.get(axis) == Some(value)),
        None => row.selector.pins.values().any(|value| value == text),
    };
    let meant: Vec<&Line> = rows.iter().filter(is_meant).collect();
    match (&meant[..], selector) {
        // Written short for a row, it is that row: with the row's other values, and its label.
        ([row], _) => Ok((*row).clone()),
        ([], Some(selector)) => Ok(Line { label: label(&selector, request), selector }),
        ([], None) => bail!("the baseline `{text}` is no row of the table"),
        (several, _) => {
            let selectors = several.iter().map(|row| row.selector.to_string());
            bail!("the baseline `{text}` matches {} rows: name one of {}", several.len(), listed(selectors))
        }
    }
}

/// Refuses a baseline that is a mean over rows.
pub(super) fn check(layout: &Layout, cells: &Cells) -> Result<()> {
    let Some(baseline) = &layout.baseline else { return Ok(()) };
    let mut inside: Vec<String> = Vec::new();
    for row in &layout.rows {
        let mixed = layout.columns.iter().any(|column| {
            let of = |line: &Line| cells.select(&line.selector.and(&column.selector));
            let (base, cell) = (of(baseline), of(row));
            share(&base, &cell) && !base.instances.iter().all(|instance| cell.instances.contains(instance))
        });
        if mixed {
            inside.push(row.selector.to_string());
        }
    }
    if inside.is_empty() {
        return Ok(());
    }
    let (count, name) = (inside.len(), &baseline.selector);
    bail!(
        "the baseline `{name}` is a mean that {count} rows are part of: name one of {}, or evaluations that are no rows",
        listed(inside)
    )
}

/// Whether a cell is compared with the baseline: not where they share evaluations, as the baseline's own row does.
pub(super) fn is_compared(base: &Choice, cell: &Choice) -> bool {
    !share(base, cell)
}

/// Whether evaluations on a data set belong to both. Where one is about a single data set, so is their difference.
fn share(one: &Choice, other: &Choice) -> bool {
    let datasets = one.dataset.is_none() || other.dataset.is_none() || one.dataset == other.dataset;
    datasets && one.instances.iter().any(|instance| other.instances.contains(instance))
}

/// Six names at most.
fn listed(names: impl IntoIterator<Item = String>) -> String {
    let names: Vec<String> = names.into_iter().map(|name| format!("`{name}`")).collect();
    match names.len() {
        0..=6 => names.join(", "),
        all => format!("{} and {} more", names[..6].join(", "), all - 6),
    }
}
