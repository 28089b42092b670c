//! `published` of a report: numbers from a publication for some of the cells.

use std::collections::BTreeMap;

use super::checker::Checker;
use super::spec::Published;
use crate::selector::Selector;
use crate::tables::PublishedTable;

impl Checker<'_> {
    pub(super) fn published(&mut self, published: PublishedTable) -> Published {
        let PublishedTable { source, columns, rows } = published;
        let expected = columns.len();
        let columns = columns.iter().enumerate();
        let columns: Vec<Selector> =
            columns.filter_map(|(at, text)| self.selector(&["published", "columns", &at.to_string()], text)).collect();
        let mut cells: BTreeMap<String, (Selector, f64)> = BTreeMap::new();
        for (text, values) in rows {
            if values.len() != expected {
                let message = format!("{expected} columns need {expected} numbers, not {}", values.len());
                self.wrong(&["published", "rows", &text], message, None);
            }
            let Some(row) = self.selector_key(&["published", "rows"], &text) else { continue };
            for (column, percent) in columns.iter().zip(values) {
                cells.insert(format!("{row},{column}"), (column.and(&row), percent / 100.0));
            }
        }
        Published { source, cells: cells.into_values().collect() }
    }
}
