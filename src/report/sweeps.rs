//! Sweeps: the scores of a table against the values of its axes, for the plots of the page.
//!
//! | axes of the table | plot |
//! |---|---|
//! | one axis of numbers | the score against its values, one line per combination of the other axes |
//! | two axes of numbers | a heat map per combination of the other axes |
//! | an axis of three shares that add up to 1 | a ternary plot with the fitted surface |
//! | no axis of numbers | the score against the values of the last axis of the rows, if there are three or more |

use std::collections::BTreeMap;

use super::input::MixtureAxis;
use super::layout::{Layout, label};
use super::mixture::{self, MixtureFit, MixturePoint};
use super::table::{Cell, Estimate, Table};
use ablate_experiment::{DATASET, GroupBy, ReportSpec, Selector};

/// A plot of a table's scores.
#[derive(Clone, Debug, PartialEq)]
pub enum Sweep {
    Line(LineSweep),
    Heat(HeatMap),
    Ternary(Ternary),
}

/// The scores against the values of one axis.
#[derive(Clone, Debug, PartialEq)]
pub struct LineSweep {
    pub axis: String,
    /// The labels of the axis with their positions.
    pub values: Vec<(f64, String)>,
    /// Whether the positions are numbers, and not only an order.
    pub numeric: bool,
    /// Whether the positions are powers of 2 of the values.
    pub logarithmic: bool,
    pub series: Vec<Series>,
    /// Cells that do not have the axis.
    pub levels: Vec<(String, Estimate)>,
}

/// The scores of one combination of the other axes, by increasing position.
#[derive(Clone, Debug, PartialEq)]
pub struct Series {
    pub label: String,
    pub points: Vec<(f64, Estimate)>,
}

/// The scores at the values of two axes.
#[derive(Clone, Debug, PartialEq)]
pub struct HeatMap {
    /// The other axes.
    pub label: String,
    pub row_axis: String,
    pub column_axis: String,
    pub rows: Vec<String>,
    pub columns: Vec<String>,
    /// By row and column.
    pub cells: Vec<Vec<Option<Estimate>>>,
}

/// The scores of mixes of three sources.
#[derive(Clone, Debug, PartialEq)]
pub struct Ternary {
    pub axis: String,
    /// The other axes.
    pub label: String,
    /// The names of the three sources.
    pub parts: Vec<String>,
    /// The measured mixes with their labels.
    pub points: Vec<(String, MixturePoint)>,
    /// None if the points do not determine a model.
    pub fit: Option<MixtureFit>,
}

/// Fewest values of an axis without numbers.
const ENOUGH_LABELS: usize = 3;

/// From this ratio of the largest to the smallest value on, the axis is logarithmic.
const LOGARITHMIC: f64 = 8.0;

/// One cell of the table that has a score.
struct Scored<'a> {
    selector: Selector,
    estimate: &'a Estimate,
}

/// The plots of a table.
pub(super) fn sweeps(spec: &ReportSpec, table: &Table, layout: &Layout, mixtures: &[MixtureAxis]) -> Vec<Sweep> {
    let cells = cells(table, layout);
    let axes = axes(spec, &cells);
    let mixture = mixtures.iter().find(|mixture| axes.contains(&mixture.axis));
    if let Some(mixture) = mixture {
        return match mixture.parts.len() {
            2 => line(spec, &cells, &mixture.axis, first_shares(mixture)).into_iter().collect(),
            3 => groups(spec, &cells, &[&mixture.axis]).iter().filter_map(|group| ternary(mixture, group)).collect(),
            _ => Vec::new(),
        };
    }
    let numeric: Vec<&String> = axes.iter().filter(|axis| numbers(&cells, axis).is_some()).collect();
    if let [rows, columns, ..] = numeric[..] {
        let groups = groups(spec, &cells, &[rows, columns]);
        return groups.iter().filter_map(|group| heat_map(rows, columns, group)).map(Sweep::Heat).collect();
    }
    if let [axis] = numeric[..] {
        let values = numbers(&cells, axis).unwrap_or_default();
        return line(spec, &cells, axis, values).into_iter().collect();
    }
    let GroupBy::Axes(rows) = &spec.rows else { return Vec::new() };
    let Some(axis) = rows.iter().rev().find(|axis| *axis != DATASET) else { return Vec::new() };
    let labels = labels(&cells, axis);
    if labels.len() < ENOUGH_LABELS {
        return Vec::new();
    }
    let order = labels.into_iter().zip(0..).map(|(label, index)| (label, f64::from(index))).collect();
    let named = line(spec, &cells, axis, order).map(|sweep| match sweep {
        Sweep::Line(line) => Sweep::Line(LineSweep { numeric: false, ..line }),
        other => other,
    });
    named.into_iter().collect()
}

/// The cells with a score, without the column of means.
fn cells<'a>(table: &'a Table, layout: &Layout) -> Vec<Scored<'a>> {
    let of_row = |(header, row): (&super::layout::Header, &'a super::table::Row)| {
        let cells = layout.columns.iter().zip(&row.cells).map(|(column, cell): (_, &'a Cell)| {
            Some(Scored { selector: header.selector.and(&column.selector), estimate: cell.estimate.as_ref()? })
        });
        cells.collect::<Vec<_>>()
    };
    layout.rows.iter().zip(&table.rows).flat_map(of_row).flatten().collect()
}

/// The axes of the table, those of the rows first, without the data set.
fn axes(spec: &ReportSpec, cells: &[Scored]) -> Vec<String> {
    let mut axes: Vec<String> = Vec::new();
    let listed = [&spec.rows, &spec.columns].into_iter().flat_map(|groups| match groups {
        GroupBy::Axes(axes) => axes.as_slice(),
        GroupBy::Selectors(_) => &[],
    });
    let named = cells.iter().flat_map(|cell| cell.selector.values.keys());
    for axis in listed.chain(named) {
        if axis != DATASET && !axes.contains(axis) {
            axes.push(axis.clone());
        }
    }
    axes
}

/// The labels of an axis in order of appearance.
fn labels(cells: &[Scored], axis: &str) -> Vec<String> {
    let mut labels: Vec<String> = Vec::new();
    for label in cells.iter().filter_map(|cell| cell.selector.values.get(axis)) {
        if !labels.contains(label) {
            labels.push(label.clone());
        }
    }
    labels
}

/// The labels of an axis as numbers. None if one is not a number, or if there is only one.
fn numbers(cells: &[Scored], axis: &str) -> Option<BTreeMap<String, f64>> {
    let number = |label: String| {
        let number = label.parse::<f64>().ok().filter(|number| number.is_finite())?;
        Some((label, number))
    };
    let numbers: Option<BTreeMap<String, f64>> = labels(cells, axis).into_iter().map(number).collect();
    numbers.filter(|numbers| numbers.len() > 1)
}

/// The share of the first source of each mix.
fn first_shares(mixture: &MixtureAxis) -> BTreeMap<String, f64> {
    mixture.shares.iter().filter_map(|(label, shares)| Some((label.clone(), *shares.first()?))).collect()
}

/// The cells by the combination of all axes but some, in order of appearance, with its label.
fn groups<'c, 'a>(
    spec: &ReportSpec,
    cells: &'c [Scored<'a>],
    without: &[&String],
) -> Vec<(String, Vec<&'c Scored<'a>>)> {
    let mut groups: Vec<(Selector, Vec<&Scored>)> = Vec::new();
    for cell in cells.iter().filter(|cell| without.iter().all(|axis| cell.selector.values.contains_key(*axis))) {
        let mut key = cell.selector.clone();
        key.values.retain(|axis, _| !without.contains(&axis));
        match groups.iter_mut().find(|(known, _)| *known == key) {
            Some((_, cells)) => cells.push(cell),
            None => groups.push((key, vec![cell])),
        }
    }
    groups.into_iter().map(|(key, cells)| (label(&key, spec), cells)).collect()
}

/// None without two values in one line.
fn line(spec: &ReportSpec, cells: &[Scored], axis: &str, values: BTreeMap<String, f64>) -> Option<Sweep> {
    let known: Vec<f64> = values.values().copied().collect();
    let (low, high) =
        known.iter().fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), one| (low.min(*one), high.max(*one)));
    let logarithmic = low > 0.0 && high / low >= LOGARITHMIC;
    let position = |number: f64| if logarithmic { number.log2() } else { number };
    let axis_name = axis.to_string();
    let series: Vec<Series> = groups(spec, cells, &[&axis_name])
        .into_iter()
        .map(|(label, cells)| {
            let point = |cell: &&Scored| Some((position(*values.get(&cell.selector.values[axis])?), *cell.estimate));
            let mut points: Vec<(f64, Estimate)> = cells.iter().filter_map(point).collect();
            points.sort_by(|a, b| a.0.total_cmp(&b.0));
            Series { label, points }
        })
        .collect();
    if !series.iter().any(|series| series.points.len() > 1) {
        return None;
    }
    let without = cells.iter().filter(|cell| !cell.selector.values.contains_key(axis));
    let levels = without.map(|cell| (label(&cell.selector, spec), *cell.estimate)).collect();
    let mut values: Vec<(f64, String)> = values.into_iter().map(|(label, number)| (position(number), label)).collect();
    values.sort_by(|a, b| a.0.total_cmp(&b.0));
    Some(Sweep::Line(LineSweep { axis: axis.to_string(), values, numeric: true, logarithmic, series, levels }))
}

/// None with fewer than two rows or columns.
fn heat_map(row_axis: &str, column_axis: &str, (label, cells): &(String, Vec<&Scored>)) -> Option<HeatMap> {
    let sorted = |axis: &str| {
        let mut labels: Vec<String> = cells.iter().map(|cell| cell.selector.values[axis].clone()).collect();
        let number = |label: &String| label.parse::<f64>().unwrap_or(f64::NAN);
        labels.sort_by(|a, b| number(a).total_cmp(&number(b)));
        labels.dedup();
        labels
    };
    let (rows, columns) = (sorted(row_axis), sorted(column_axis));
    if rows.len() < 2 || columns.len() < 2 {
        return None;
    }
    let at = |row: &String, column: &String| {
        let is_here = |cell: &&&Scored| {
            cell.selector.values.get(row_axis) == Some(row) && cell.selector.values.get(column_axis) == Some(column)
        };
        cells.iter().find(is_here).map(|cell| *cell.estimate)
    };
    let cells = rows.iter().map(|row| columns.iter().map(|column| at(row, column)).collect()).collect();
    Some(HeatMap {
        label: label.clone(),
        row_axis: row_axis.to_string(),
        column_axis: column_axis.to_string(),
        rows,
        columns,
        cells,
    })
}

/// None without a measured mix.
fn ternary(mixture: &MixtureAxis, (label, cells): &(String, Vec<&Scored>)) -> Option<Sweep> {
    let point = |cell: &&Scored| {
        let label = &cell.selector.values[&mixture.axis];
        let (_, shares) = mixture.shares.iter().find(|(known, _)| known == label)?;
        Some((label.clone(), MixturePoint::measured(shares.clone(), cell.estimate)))
    };
    let points: Vec<(String, MixturePoint)> = cells.iter().filter_map(point).collect();
    if points.is_empty() {
        return None;
    }
    let measured: Vec<MixturePoint> = points.iter().map(|(_, point)| point.clone()).collect();
    Some(Sweep::Ternary(Ternary {
        axis: mixture.axis.clone(),
        label: label.clone(),
        parts: mixture.parts.clone(),
        points,
        fit: mixture::fit(&measured).ok(),
    }))
}
