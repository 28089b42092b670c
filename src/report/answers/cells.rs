//! Evaluations whose answers can be chosen together.

use std::collections::BTreeMap;

use crate::scores::Scores;
use crate::table::Table;
use ablate_experiment::Selector;

/// Evaluations whose answers can be chosen together.
pub(crate) struct AnswerCell {
    pub(crate) label: String,
    /// Index into [`Scores::datasets`]. None for all data sets.
    pub(crate) dataset: Option<usize>,
    /// Indices into [`Scores::evaluations`].
    pub(crate) evaluations: Vec<usize>,
}

/// The label of the cell of a row and a column.
pub(crate) fn label(row: &str, column: &str) -> String {
    format!("{row} · {column}")
}

/// The cells of tables, without the columns of means.
pub(crate) fn of_tables(tables: &[Table], scores: &Scores) -> Vec<AnswerCell> {
    let names = scores.evaluations.iter().map(|one| one.evaluation.instance.as_str());
    let by_name: BTreeMap<&str, usize> = names.zip(0..).collect();
    let mut cells = Vec::new();
    for table in tables {
        let columns = if table.columns.len() > 1 { table.columns.len() - 1 } else { table.columns.len() };
        let prefix = if tables.len() > 1 { format!("{}: ", table.title) } else { String::new() };
        for row in &table.rows {
            for (column, cell) in table.columns.iter().zip(&row.cells).take(columns) {
                let selector = Selector::parse(&cell.selector).unwrap_or_default();
                let dataset =
                    selector.dataset().and_then(|name| scores.datasets.iter().position(|known| known == name));
                cells.push(AnswerCell {
                    label: prefix.clone() + &label(&row.label, column),
                    dataset,
                    evaluations: cell.instances.iter().filter_map(|name| by_name.get(name.as_str()).copied()).collect(),
                });
            }
        }
    }
    cells
}
