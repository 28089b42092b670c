//! Tables of formatted numbers, shared by the terminal, Markdown and HTML renderers.

use std::fmt;

use super::statistics::ENOUGH_SEEDS;
use super::table::{Cell, ContrastResult, Difference, Estimate, Table};
use ablate_experiment::Metric;

#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct TextTable {
    pub(super) caption: String,
    /// Header of the row labels.
    pub(super) corner: String,
    pub(super) columns: Vec<TextColumn>,
    pub(super) rows: Vec<TextRow>,
    /// Explains the cells.
    pub(super) legend: Vec<String>,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct TextColumn {
    pub(super) label: String,
    /// Number of items, for a column of one data set.
    pub(super) items: Option<usize>,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct TextRow {
    pub(super) label: String,
    pub(super) cells: Vec<TextCell>,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct TextCell {
    /// `–` without scores. Ends with `†` if some instances have not run.
    pub(super) mean: String,
    /// `[low, high]`, or empty.
    pub(super) interval: String,
    /// `+1.2`, or `+1.2*` if it is significant, or empty.
    pub(super) difference: String,
    pub(super) trend: Trend,
    /// The published number, for example `(74.4)`, or empty.
    pub(super) published: String,
}

/// The direction of a significant difference.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Trend {
    #[default]
    None,
    Up,
    Down,
}

impl TextColumn {
    fn without_items(label: &str) -> TextColumn {
        TextColumn { label: label.to_string(), items: None }
    }
}

impl fmt::Display for TextColumn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.items {
            None => f.write_str(&self.label),
            Some(items) => write!(f, "{} (n {})", self.label, thousands(items as u64)),
        }
    }
}

/// A share in percent with one decimal.
pub(super) fn percent(share: f64) -> String {
    without_negative_zero(format!("{:.1}", 100.0 * share))
}

/// A difference in percentage points with a sign.
pub(super) fn percentage_points(difference: f64) -> String {
    let text = without_negative_zero(format!("{:+.1}", 100.0 * difference));
    if text == "+0.0" { "0.0".to_string() } else { text.replace('-', "−") }
}

/// `[low, high]` in percent or percentage points.
pub(super) fn interval(estimate: &Estimate) -> String {
    let ends = [estimate.interval.low, estimate.interval.high].map(|end| percent(end).replace('-', "−"));
    format!("[{}, {}]", ends[0], ends[1])
}

/// A p-value with three decimals below 0.1, and two from there on.
pub(super) fn p_value(p: f64) -> String {
    match p {
        p if p < 0.001 => "<0.001".to_string(),
        p if p < 0.1 => format!("{p:.3}"),
        p => format!("{p:.2}"),
    }
}

/// A number with a comma between groups of three digits.
pub(super) fn thousands(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A large number with two or three digits: `74,200`, `0.91 M`, `2.1 M`, `1.4 B`.
pub(super) fn compact(number: f64) -> String {
    match number {
        number if number < 1e5 => thousands(number.round() as u64),
        number if number < 9.95e5 => format!("{:.2} M", number / 1e6),
        number if number < 9.995e8 => format!("{:.1} M", number / 1e6),
        number => format!("{:.1} B", number / 1e9),
    }
}

fn without_negative_zero(text: String) -> String {
    match text.as_str() {
        "-0.0" => "0.0".to_string(),
        _ => text,
    }
}

/// The means with their differences to the baseline.
pub(super) fn main(table: &Table) -> TextTable {
    let rows = table
        .rows
        .iter()
        .map(|row| TextRow { label: row.label.clone(), cells: row.cells.iter().map(main_cell).collect() });
    let mut legend = vec![unit(table)];
    if table.rows.iter().flat_map(|row| &row.cells).any(partial) {
        legend.push("† some instances have not run".to_string());
    }
    if let (Some(baseline), Some(correction)) = (&table.baseline, correction(table.family_size)) {
        legend.push(format!("signed numbers: difference to `{baseline}` on shared items and seeds"));
        legend.push(format!("* p < 0.05 ({correction}) and the confidence interval of the difference excludes zero"));
    }
    if let Some(source) = &table.source {
        legend.push(format!("in parentheses: published in {source}"));
    }
    TextTable {
        caption: table.metric.to_string(),
        corner: table.row_axes.clone(),
        columns: table.columns.iter().map(|label| TextColumn::without_items(label)).collect(),
        rows: rows.collect(),
        legend,
    }
}

/// One row per cell of the main table, one column per data set.
pub(super) fn by_dataset(table: &Table) -> Option<TextTable> {
    let cells_of = |row: usize| columns(table).map(move |column| (row, column));
    let rows = (0..table.rows.len()).flat_map(cells_of).map(|(row, column)| {
        let cell = &table.rows[row].cells[column];
        let label = match table.columns.len() {
            1 => table.rows[row].label.clone(),
            _ => format!("{} · {}", table.rows[row].label, table.columns[column]),
        };
        let cells = table.datasets.iter().map(|dataset| text_cell(cell.datasets.get(&dataset.name), None));
        TextRow { label, cells: cells.collect() }
    });
    let rows: Vec<TextRow> = rows.filter(|row| row.cells.iter().any(|cell| !cell.interval.is_empty())).collect();
    let columns =
        table.datasets.iter().map(|dataset| TextColumn { label: dataset.name.clone(), items: Some(dataset.items) });
    (table.breakdown && !rows.is_empty()).then(|| TextTable {
        caption: format!("{} by data set", table.metric),
        corner: String::new(),
        columns: columns.collect(),
        rows,
        legend: vec![unit(table)],
    })
}

/// Format compliance of the cells, unless the main table shows it.
pub(super) fn compliance(table: &Table) -> Option<TextTable> {
    let legend = "percent of responses in the prompt's format that are not truncated, 95 % confidence interval";
    let measured = table.rows.iter().flat_map(|row| &row.cells).any(|cell| cell.compliance.is_some());
    (measured && table.metric != Metric::Compliance)
        .then(|| metric_table(table, Metric::Compliance, legend, |cell| cell.compliance.as_ref()))
}

/// Accuracy of the compliant responses, if some response does not comply.
pub(super) fn given_compliance(table: &Table) -> Option<TextTable> {
    let legend = "percent of the responses in the prompt's format, 95 % confidence interval";
    let cells = || table.rows.iter().flat_map(|row| &row.cells);
    let any_failed = cells().filter_map(|cell| cell.compliance).any(|one| one.mean < 1.0);
    let measured = cells().any(|cell| cell.accuracy_given_compliance.is_some());
    (any_failed && measured && table.metric == Metric::Accuracy).then(|| {
        metric_table(table, Metric::AccuracyGivenCompliance, legend, |cell| cell.accuracy_given_compliance.as_ref())
    })
}

/// Readable answers of the cells, if some answer could not be read.
pub(super) fn readable(table: &Table) -> Option<TextTable> {
    let legend = "percent of responses with a readable answer of the item's type, 95 % confidence interval";
    let any_unreadable =
        table.rows.iter().flat_map(|row| &row.cells).filter_map(|cell| cell.readable).any(|one| one.mean < 1.0);
    (any_unreadable && table.metric != Metric::Readable)
        .then(|| metric_table(table, Metric::Readable, legend, |cell| cell.readable.as_ref()))
}

/// One estimate per cell of the main table.
fn metric_table(table: &Table, metric: Metric, legend: &str, of: impl Fn(&Cell) -> Option<&Estimate>) -> TextTable {
    let shown: Vec<usize> = columns(table).collect();
    let rows = table.rows.iter().map(|row| TextRow {
        label: row.label.clone(),
        cells: shown.iter().map(|&column| text_cell(of(&row.cells[column]), None)).collect(),
    });
    TextTable {
        caption: metric.to_string(),
        corner: table.row_axes.clone(),
        columns: shown.iter().map(|&column| TextColumn::without_items(&table.columns[column])).collect(),
        rows: rows.collect(),
        legend: vec![legend.to_string()],
    }
}

/// The correction of the p-values of a family of tests. None without a test.
fn correction(tests: usize) -> Option<String> {
    match tests {
        0 => None,
        1 => Some("one test, no correction".to_string()),
        tests => Some(format!("Holm-Bonferroni correction over {tests} tests")),
    }
}

/// As [`correction`], for the contrasts of a table.
pub(super) fn contrast_correction(contrasts: &[ContrastResult]) -> Option<String> {
    correction(contrasts.iter().filter(|contrast| contrast.difference.is_some()).count())
}

/// The sample size of the cells: `1,200 items, 3 seeds`.
pub(super) fn sample_size(table: &Table) -> String {
    let cells = || table.rows.iter().flat_map(|row| &row.cells).filter_map(|cell| cell.estimate);
    let range = |of: &dyn Fn(&Estimate) -> usize| {
        let (low, high) =
            (cells().map(|one| of(&one)).min().unwrap_or(0), cells().map(|one| of(&one)).max().unwrap_or(0));
        let text = |count: usize| thousands(count as u64);
        (high, if low == high { text(high) } else { format!("{}–{}", text(low), text(high)) })
    };
    let (items, item_range) = range(&|one| one.items);
    let (seeds, seed_range) = range(&|one| one.seeds);
    let plural = |count: usize| if count == 1 { "" } else { "s" };
    format!("{item_range} item{}, {seed_range} seed{}", plural(items), plural(seeds))
}

/// The columns without the mean.
fn columns(table: &Table) -> std::ops::Range<usize> {
    0..if table.columns.len() > 1 { table.columns.len() - 1 } else { table.columns.len() }
}

fn unit(table: &Table) -> String {
    let seeds = table.rows.iter().flat_map(|row| &row.cells).filter_map(|cell| cell.estimate).map(|one| one.seeds);
    let (fewest, most) = seeds.fold((usize::MAX, 0), |(low, high), seeds| (low.min(seeds), high.max(seeds)));
    let scope = match (fewest >= ENOUGH_SEEDS, most >= ENOUGH_SEEDS) {
        (true, _) => "over seeds and items",
        (false, true) => "over seeds and items, or over items with fewer than three seeds",
        (false, false) => "over items, for these training runs",
    };
    format!("percent, 95 % confidence interval {scope}")
}

fn main_cell(cell: &Cell) -> TextCell {
    let mut shown = text_cell(cell.estimate.as_ref(), cell.difference.as_ref());
    if partial(cell) {
        shown.mean.push('†');
    }
    shown.published = cell.published.map(|share| format!("({})", percent(share))).unwrap_or_default();
    shown
}

/// Whether a cell has scores, but not of all its instances.
fn partial(cell: &Cell) -> bool {
    cell.estimate.is_some() && !cell.missing.is_empty()
}

fn text_cell(estimate: Option<&Estimate>, difference: Option<&Difference>) -> TextCell {
    let Some(estimate) = estimate else { return TextCell { mean: "–".to_string(), ..TextCell::default() } };
    let mut cell = TextCell { mean: percent(estimate.mean), interval: interval(estimate), ..TextCell::default() };
    if let Some(difference) = difference {
        cell.difference = percentage_points(difference.estimate.mean);
        if difference.significant() {
            cell.difference.push('*');
            cell.trend = if difference.estimate.mean > 0.0 { Trend::Up } else { Trend::Down };
        }
    }
    cell
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_formatted() {
        assert_eq!([percent(0.8304), percent(-0.0001), percent(1.0)], ["83.0", "0.0", "100.0"]);
        assert_eq!(
            [percentage_points(0.012), percentage_points(-0.001), percentage_points(0.0), percentage_points(-0.0001)],
            ["+1.2", "−0.1", "0.0", "0.0"]
        );
        assert_eq!([p_value(0.0), p_value(0.0123), p_value(0.4), p_value(1.0)], ["<0.001", "0.012", "0.40", "1.00"]);
        let counts = [74_200.0, 912_000.0, 999_400.0, 2_140_000.0, 1.41e9].map(compact);
        assert_eq!(counts, ["74,200", "0.91 M", "1.0 M", "2.1 M", "1.4 B"]);
        assert_eq!([thousands(7), thousands(1200), thousands(1_234_567)], ["7", "1,200", "1,234,567"]);
    }
}
