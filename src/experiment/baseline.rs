//! The baseline of a report: one row, or evaluations outside of the rows. A mean over rows would be compared with what it
//! is made of. Reads no score.

use std::collections::{BTreeMap, BTreeSet};

use super::report::{Checks, DATASET};
use super::selector::Selector;
use super::text::list;

/// What a line of a table asks of a point: a value of an axis, or that it lacks the axis.
type Wanted = BTreeMap<String, Option<String>>;

impl Checks<'_> {
    /// Checks a baseline, in its plain form, against the lines of the table.
    pub(super) fn baseline(&mut self, text: &str, rows: &[String], columns: &[String]) {
        // What is no selector was said already.
        let Ok(Selector(pins)) = Selector::parse(text) else { return };
        let (rows, columns, open) = (self.wanted(rows), self.wanted(columns), rows.iter().any(|row| row == DATASET));
        let is_meant = |row: &&Wanted| pins.iter().all(|(axis, value)| row.get(axis) == Some(&Some(value.clone())));
        let pinned: BTreeMap<&String, &String> = pins.iter().filter(|(axis, _)| *axis != DATASET).collect();
        let is_row = |row: &&Wanted| pinned.iter().all(|(axis, value)| row.get(*axis) == Some(&Some((*value).clone())));
        if open && !pins.contains_key(DATASET) && rows.iter().any(|row| is_row(&row)) {
            let message = format!("the baseline `{text}` matches a row of each data set");
            let help = format!("make `{DATASET}` the columns, or add `{DATASET}=...`");
            return self.wrong(&["baseline"], message, Some(help));
        }
        // By data sets there are more rows than are known here.
        let meant: Vec<&Wanted> = if open { Vec::new() } else { rows.iter().filter(is_meant).collect() };
        let own: Wanted = pins.iter().map(|(axis, value)| (axis.clone(), Some(value.clone()))).collect();
        let base = match meant.as_slice() {
            [] => &own,
            [row] => *row,
            several => {
                let message = format!("the baseline `{text}` matches {} rows", several.len());
                let help = format!("name one of {}", list(several.iter().map(|row| shown(row))));
                return self.wrong(&["baseline"], message, Some(help));
            }
        };
        let inside = rows.iter().filter(|row| {
            columns.iter().any(|column| {
                let (base, cell) = (both(base, column), both(row, column));
                let apart = matches!((base.get(DATASET), cell.get(DATASET)), (Some(one), Some(other)) if one != other);
                let (base, cell) = (self.members(&base), self.members(&cell));
                !apart && !base.is_disjoint(&cell) && !base.is_subset(&cell)
            })
        });
        let inside: Vec<String> = inside.map(shown).collect();
        if !inside.is_empty() {
            let message = format!("the baseline `{text}` is a mean that {} rows are part of", inside.len());
            let help = format!("name one of {}, or evaluations that are no rows", list(inside));
            self.wrong(&["baseline"], message, Some(help));
        }
    }

    /// The lines that axes or selectors make, as far as they are known before a run.
    fn wanted(&self, lines: &[String]) -> Vec<Wanted> {
        if lines.iter().any(|line| line.contains('=')) {
            let selectors = lines.iter().filter_map(|line| Selector::parse(line).ok());
            return selectors.map(|one| one.0.into_iter().map(|(axis, value)| (axis, Some(value))).collect()).collect();
        }
        let axes: Vec<&String> = lines.iter().filter(|axis| *axis != DATASET).collect();
        let mut all: Vec<Wanted> = Vec::new();
        let mut known = BTreeSet::new();
        for point in self.points {
            let line: Wanted = axes.iter().map(|axis| ((*axis).clone(), point.get(*axis).cloned())).collect();
            if known.insert(line.clone()) {
                all.push(line);
            }
        }
        all
    }

    /// The points that fit, by their places.
    fn members(&self, wanted: &Wanted) -> BTreeSet<usize> {
        let fits = |point: &BTreeMap<String, String>| {
            wanted.iter().all(|(axis, value)| axis == DATASET || point.get(axis) == value.as_ref())
        };
        self.points.iter().enumerate().filter(|(_, point)| fits(point)).map(|(place, _)| place).collect()
    }
}

/// A line and a column at once; where they speak of the same axis, the line counts.
fn both(line: &Wanted, column: &Wanted) -> Wanted {
    let mut both = column.clone();
    both.extend(line.iter().map(|(axis, value)| (axis.clone(), value.clone())));
    both
}

fn shown(line: &Wanted) -> String {
    let pins = line.iter().filter_map(|(axis, value)| Some(format!("{axis}={}", value.as_ref()?)));
    pins.collect::<Vec<_>>().join(",")
}
