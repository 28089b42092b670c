//! Renders the tables of a report as CSV, for spreadsheets and scripts.

use std::fmt::Write;

use super::Report;
use super::budget::{Amount, CellBudget};
use super::table::{Cell, Dataset, Estimate};

/// One line per cell and data set. Values are shares from 0 to 1, not percent.
pub(super) fn render(report: &Report) -> String {
    let mut text = String::from(
        "table,row,column,dataset,mean,low,high,items,seeds,difference,difference_low,difference_high,p,p_holm,steps,tokens,\
         flops,epochs,examples,questions\n",
    );
    for table in &report.tables {
        for row in &table.rows {
            for (column, cell) in table.columns.iter().zip(&row.cells) {
                let cell_columns = [&table.name, &row.label, column].map(|name| quote(name)).join(",");
                let difference = cell.difference.as_ref().map_or_else(
                    || ",,,,".to_string(),
                    |one| {
                        let Estimate { mean, interval, .. } = one.estimate;
                        format!("{mean},{},{},{},{}", interval.low, interval.high, one.test.p_value, one.p_holm)
                    },
                );
                _ = writeln!(text, "{cell_columns},,{},{difference},{}", numbers(cell.estimate.as_ref()), budget(cell));
                for Dataset { name, .. } in &table.datasets {
                    if let Some(estimate) = cell.datasets.get(name) {
                        _ = writeln!(text, "{cell_columns},{},{},,,,,,,,,,,", quote(name), numbers(Some(estimate)));
                    }
                }
            }
        }
    }
    text
}

/// Quotes a text from data or from the experiment's file. A text that a spreadsheet would run as a formula gets a
/// leading apostrophe, which marks text.
pub(super) fn quote(text: &str) -> String {
    let first = text.trim_start().chars().next().or(text.chars().next());
    let formula = first.is_some_and(|first| "=+-@\u{ff1d}\u{ff0b}\u{ff0d}\u{ff20}".contains(first))
        || text.starts_with(['\t', '\r', '\n']);
    let marked = format!("'{text}");
    let text = if formula { &marked } else { text };
    if text.contains([',', '"', '\n', '\r']) { format!("\"{}\"", text.replace('"', "\"\"")) } else { text.to_string() }
}

fn numbers(estimate: Option<&Estimate>) -> String {
    let Some(Estimate { mean, interval, items, seeds }) = estimate else { return ",,,,".to_string() };
    format!("{mean},{},{},{items},{seeds}", interval.low, interval.high)
}

/// The means of the training budget. A number that is not known is empty.
fn budget(cell: &Cell) -> String {
    let Some(budget) = &cell.budget else { return ",,,,,".to_string() };
    let CellBudget { steps, tokens, flops, examples, epochs, questions, .. } = budget;
    let mean = |amount: &Option<Amount>| amount.map(|one| one.mean.to_string()).unwrap_or_default();
    [steps, tokens, flops, epochs, examples, questions].map(mean).join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formulas_are_marked_as_text() {
        let cases = [
            ("=HYPERLINK(\"http://x\")", "\"'=HYPERLINK(\"\"http://x\"\")\""),
            ("+1", "'+1"),
            ("-1", "'-1"),
            ("@sum", "'@sum"),
            (" =1+1", "' =1+1"),
            ("\t=1", "'\t=1"),
            ("\r=1", "\"'\r=1\""),
            ("\u{ff1d}1", "'\u{ff1d}1"),
            ("a=b, -c", "\"a=b, -c\""),
            ("", ""),
        ];
        for (text, cell) in cases {
            assert_eq!(quote(text), cell, "{text:?}");
        }
    }
}
