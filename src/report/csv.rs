//! Renders the tables and the contrasts of a report as CSV, for spreadsheets and scripts.

use std::collections::BTreeSet;

use super::Report;
use super::budget::{Amount, CellBudget};
use super::table::{Cell, ContrastResult, Dataset, Difference, Estimate, Table};
use ablate_experiment::DATASET;

/// The columns before those of the axes.
const CELL: [&str; 3] = ["table", "row", "column"];
/// The columns after those of the axes.
const ESTIMATE: [&str; 17] = [
    "dataset",
    "mean",
    "low",
    "high",
    "items",
    "seeds",
    "difference",
    "difference_low",
    "difference_high",
    "p",
    "p_holm",
    "steps",
    "tokens",
    "flops",
    "epochs",
    "examples",
    "questions",
];
const CONTRAST: [&str; 20] = [
    "table",
    "contrast",
    "about",
    "plus",
    "minus",
    "dataset",
    "seed",
    "difference",
    "low",
    "high",
    "items",
    "seeds",
    "p",
    "p_holm",
    "gained",
    "lost",
    "detectable",
    "margin",
    "verdict",
    "reason",
];

/// One line per cell and data set, with one column per axis: empty if the cell has several values of the axis. Values are
/// shares from 0 to 1, not percent.
pub(super) fn tables(report: &Report) -> String {
    let cells = || report.tables.iter().flat_map(|table| &table.rows).flat_map(|row| &row.cells);
    let axes: BTreeSet<&String> = cells().flat_map(|cell| cell.axes.keys()).filter(|axis| *axis != DATASET).collect();
    let is_reserved = |axis: &str| CELL.contains(&axis) || ESTIMATE.contains(&axis);
    let axis_column = |axis: &&String| quote(&if is_reserved(axis) { format!("axis.{axis}") } else { (*axis).clone() });
    let names = |names: &[&str]| names.iter().map(ToString::to_string).collect::<Vec<_>>();
    let mut text = line(&[names(&CELL), axes.iter().map(axis_column).collect(), names(&ESTIMATE)].concat());
    for table in &report.tables {
        for row in &table.rows {
            for (column, cell) in table.columns.iter().zip(&row.cells) {
                let value =
                    |axis: &&String| cell.axes.get(*axis).and_then(Option::as_deref).map_or(String::new(), quote_label);
                let place = [&table.name, &row.label, column].map(|name| quote(name)).into_iter();
                let place: Vec<String> = place.chain(axes.iter().map(value)).collect();
                estimate_lines(table, cell).for_each(|rest| text.push_str(&line(&[place.clone(), rest].concat())));
            }
        }
    }
    text
}

/// The columns from `dataset` on of a cell: its own line, and one per data set if it has several.
fn estimate_lines<'a>(table: &'a Table, cell: &'a Cell) -> impl Iterator<Item = Vec<String>> + 'a {
    let single = cell.axes.get(DATASET).and_then(Option::as_deref);
    let difference = cell.difference.as_ref().map_or_else(
        || vec![String::new(); 5],
        |Difference { estimate: Estimate { mean, interval, .. }, test, p_holm, .. }| {
            [*mean, interval.low, interval.high, test.p_value, *p_holm].map(|number| number.to_string()).to_vec()
        },
    );
    let dataset = vec![single.map_or(String::new(), quote)];
    let whole = [dataset, numbers(cell.estimate.as_ref()), difference, budget(cell)].concat();
    let parts = table.datasets.iter().filter(move |_| single.is_none()).filter_map(|Dataset { name, .. }| {
        let estimate = cell.datasets.get(name)?;
        Some([vec![quote(name)], numbers(Some(estimate)), vec![String::new(); 11]].concat())
    });
    std::iter::once(whole).chain(parts)
}

/// One line per contrast, then one per data set and one per seed.
pub(super) fn contrasts(report: &Report) -> String {
    let mut text = line(&CONTRAST.map(str::to_string));
    for table in &report.tables {
        for contrast in &table.contrasts {
            contrast_lines(table, contrast, &mut text);
        }
    }
    text
}

fn contrast_lines(table: &Table, contrast: &ContrastResult, text: &mut String) {
    let ContrastResult { name, about, plus, minus, difference, margin, by_seed, datasets, words, reason, .. } =
        contrast;
    let place: Vec<String> =
        [&table.name, name, about, &plus.join("; "), &minus.join("; ")].map(|text| quote(text)).to_vec();
    let optional = |number: Option<f64>| number.map(|number| number.to_string()).unwrap_or_default();
    let estimate = numbers(difference.as_ref().map(|one| &one.estimate));
    let test = difference.as_ref().map_or_else(
        || vec![String::new(); 5],
        |Difference { test, p_holm, detectable, .. }| {
            let counts = [test.gained, test.lost].map(|count| count.to_string());
            let [gained, lost] = counts;
            vec![test.p_value.to_string(), p_holm.to_string(), gained, lost, detectable.to_string()]
        },
    );
    let verdict = vec![optional(*margin), quote(&words.to_string()), quote(reason)];
    let mut add = |dataset: &str, seed: &str, rest: Vec<String>| {
        text.push_str(&line(&[place.clone(), vec![quote(dataset), quote(seed)], rest].concat()));
    };
    add("", "", [estimate, test, verdict].concat());
    // A contrast of one data set or of one seed is that line already.
    for (dataset, estimate) in datasets.iter().filter(|_| datasets.len() > 1) {
        add(dataset, "", [numbers(Some(estimate)), vec![String::new(); 8]].concat());
    }
    for one in by_seed.iter().filter(|_| by_seed.len() > 1) {
        add("", &one.seed, [vec![one.mean.to_string()], vec![String::new(); 12]].concat());
    }
}

fn line(cells: &[String]) -> String {
    cells.join(",") + "\n"
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

/// As [`quote`], for the label of an axis: a number is not a formula.
fn quote_label(label: &str) -> String {
    if label.parse::<f64>().is_ok_and(f64::is_finite) { label.to_string() } else { quote(label) }
}

/// Mean, interval, items and seeds.
fn numbers(estimate: Option<&Estimate>) -> Vec<String> {
    let Some(Estimate { mean, interval, items, seeds }) = estimate else { return vec![String::new(); 5] };
    let [mean, low, high] = [*mean, interval.low, interval.high].map(|number| number.to_string());
    vec![mean, low, high, items.to_string(), seeds.to_string()]
}

/// The means of the training budget. A number that is not known is empty.
fn budget(cell: &Cell) -> Vec<String> {
    let Some(budget) = &cell.budget else { return vec![String::new(); 6] };
    let CellBudget { steps, tokens, flops, examples, epochs, questions, .. } = budget;
    let mean = |amount: &Option<Amount>| amount.map(|one| one.mean.to_string()).unwrap_or_default();
    [steps, tokens, flops, epochs, examples, questions].map(mean).to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_that_are_numbers_stay_numbers() {
        assert_eq!(["-1", "+2.5e-3", "-x", "1,2"].map(quote_label), ["-1", "+2.5e-3", "'-x", "\"1,2\""]);
    }

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
