//! The tables below the main table.

use super::budget_table;
use super::table::Table;
use super::text_table::{self, TextTable};

/// Data sets, format compliance, readable answers and training budgets.
pub(super) fn render(table: &Table) -> Vec<TextTable> {
    let tables = [
        text_table::by_dataset,
        text_table::compliance,
        text_table::given_compliance,
        text_table::readable,
        budget_table::render,
    ];
    tables.into_iter().filter_map(|render| render(table)).collect()
}
