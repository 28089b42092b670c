//! `baseline` of a report: one row, or evaluations that are not in the rows. A baseline that is a mean over rows is
//! refused, because each of these rows would be compared with itself.

use std::collections::BTreeSet;

use super::checker::Checker;
use crate::diagnostics::list;
use crate::report_spec::GroupBy;
use crate::selector::{DATASET, Selector};

impl Checker<'_> {
    /// Checks a baseline against the rows and columns of the table.
    pub(super) fn baseline(&mut self, baseline: &Selector, rows: &GroupBy, columns: &GroupBy) {
        let by_dataset = rows.has_axis(DATASET);
        let (rows, columns) = (self.lines(rows), self.lines(columns));
        let names = |row: &Selector, axis: &str, value: &str| row.values.get(axis).is_some_and(|known| known == value);
        if by_dataset && baseline.dataset().is_none() {
            let is_row = |row: &Selector| baseline.values.iter().all(|(axis, value)| names(row, axis, value));
            if rows.iter().any(is_row) {
                let message = format!("the baseline `{baseline}` matches a row of each data set");
                let help = format!("make `{DATASET}` the columns, or add `{DATASET}=...`");
                return self.wrong(&["baseline"], message, Some(help));
            }
        }
        // With `dataset` among the rows, the data sets, and so the rows, are known only after a run.
        let is_meant =
            |row: &&Selector| !by_dataset && baseline.values.iter().all(|(axis, value)| names(row, axis, value));
        let meant: Vec<&Selector> = rows.iter().filter(is_meant).collect();
        let base = match meant.as_slice() {
            [] => baseline,
            [row] => *row,
            several => {
                let message = format!("the baseline `{baseline}` matches {} rows", several.len());
                let help = format!("name one of {}", list(several.iter().map(ToString::to_string)));
                return self.wrong(&["baseline"], message, Some(help));
            }
        };
        let averaged = rows.iter().filter(|row| {
            columns.iter().any(|column| {
                let (base, cell) = (base.and(column), row.and(column));
                let distinct_datasets = matches!((base.dataset(), cell.dataset()), (Some(a), Some(b)) if a != b);
                let (base, cell) = (self.members(&base), self.members(&cell));
                !distinct_datasets && !base.is_disjoint(&cell) && !base.is_subset(&cell)
            })
        });
        let averaged: Vec<String> = averaged.map(ToString::to_string).collect();
        if !averaged.is_empty() {
            let message = format!("the baseline `{baseline}` averages evaluations of {} rows", averaged.len());
            let help = format!("name one of {}, or evaluations that are not in the rows", list(averaged));
            self.wrong(&["baseline"], message, Some(help));
        }
    }

    /// The rows or columns that are known before a run: those by data set are not.
    fn lines(&self, by: &GroupBy) -> Vec<Selector> {
        let axes = match by {
            GroupBy::Selectors(selectors) => return selectors.clone(),
            GroupBy::Axes(axes) => axes.iter().filter(|axis| *axis != DATASET),
        };
        let mut all: Vec<Selector> = Vec::new();
        let mut known = BTreeSet::new();
        for point in self.points {
            let mut line = Selector::default();
            for axis in axes.clone() {
                match point.get(axis) {
                    Some(value) => drop(line.values.insert(axis.clone(), value.clone())),
                    None => drop(line.absent.insert(axis.clone())),
                }
            }
            if known.insert(line.clone()) {
                all.push(line);
            }
        }
        all
    }

    /// Indices of the points that a selector selects.
    fn members(&self, selector: &Selector) -> BTreeSet<usize> {
        self.points.iter().enumerate().filter(|(_, point)| selector.matches(point)).map(|(index, _)| index).collect()
    }
}
