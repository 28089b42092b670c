//! A table as text in cells: what the terminal, Markdown and HTML show alike. Knows no width, no markup.

use super::input::Metric;
use super::table::{Cell, Contrast, Difference, Estimate, Table};

/// Rows of texts under a caption.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Grid {
    pub(super) caption: String,
    /// What the row labels are.
    pub(super) corner: String,
    pub(super) columns: Vec<String>,
    pub(super) rows: Vec<GridRow>,
    /// How to read the cells.
    pub(super) legend: Vec<String>,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct GridRow {
    pub(super) label: String,
    pub(super) cells: Vec<GridCell>,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct GridCell {
    /// `–` when nothing has been measured.
    pub(super) mean: String,
    /// `[low, high]`, or empty.
    pub(super) interval: String,
    /// `+1.2`, starred when it is significant; or empty.
    pub(super) difference: String,
    pub(super) trend: Trend,
    /// `(74.4)`: what others published, or empty.
    pub(super) published: String,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Trend {
    #[default]
    None,
    Up,
    Down,
}

/// Percent with one decimal.
pub(super) fn percent(share: f64) -> String {
    unsigned_zero(format!("{:.1}", 100.0 * share))
}

/// Percentage points with a sign.
pub(super) fn points(difference: f64) -> String {
    let text = unsigned_zero(format!("{:+.1}", 100.0 * difference));
    if text == "+0.0" { "0.0".to_string() } else { text.replace('-', "−") }
}

/// `[low, high]` in percent or points.
pub(super) fn interval(estimate: &Estimate) -> String {
    let ends = [estimate.interval.low, estimate.interval.high].map(|end| percent(end).replace('-', "−"));
    format!("[{}, {}]", ends[0], ends[1])
}

/// A p value as people read it.
pub(super) fn p_value(p: f64) -> String {
    match p {
        p if p < 0.001 => "<0.001".to_string(),
        p if p < 0.1 => format!("{p:.3}"),
        p => format!("{p:.2}"),
    }
}

/// A number with thin groups of thousands.
pub(super) fn grouped(number: u64) -> String {
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

fn unsigned_zero(text: String) -> String {
    match text.as_str() {
        "-0.0" => "0.0".to_string(),
        _ => text,
    }
}

/// The central table.
pub(super) fn main(table: &Table) -> Grid {
    let rows = table
        .rows
        .iter()
        .map(|row| GridRow { label: row.label.clone(), cells: row.cells.iter().map(main_cell).collect() });
    let mut legend = vec![scale(table)];
    if table.rows.iter().flat_map(|row| &row.cells).any(partial) {
        legend.push("† not all seeds have run".to_string());
    }
    if let (Some(baseline), true) = (&table.baseline, table.family > 0) {
        let compared = if table.family == 1 { "1 comparison".into() } else { format!("{} comparisons", table.family) };
        legend
            .push(format!("signed: difference to `{baseline}` on shared items; * p < 0.05 after Holm over {compared}"));
    }
    if let Some(source) = &table.source {
        legend.push(format!("in parentheses: {source}"));
    }
    Grid {
        caption: table.metric.words().to_string(),
        corner: table.rows_are.clone(),
        columns: table.columns.clone(),
        rows: rows.collect(),
        legend,
    }
}

/// One row per cell of the central table, one column per data set.
fn breakdown(table: &Table) -> Option<Grid> {
    let single = |row: usize| columns(table).map(move |column| (row, column));
    let rows = (0..table.rows.len()).flat_map(single).map(|(row, column)| {
        let cell = &table.rows[row].cells[column];
        let label = match table.columns.len() {
            1 => table.rows[row].label.clone(),
            _ => format!("{} · {}", table.rows[row].label, table.columns[column]),
        };
        let cells = table.datasets.iter().map(|dataset| full(cell.datasets.get(&dataset.name), None));
        GridRow { label, cells: cells.collect() }
    });
    let rows: Vec<GridRow> = rows.filter(|row| row.cells.iter().any(|cell| !cell.interval.is_empty())).collect();
    let headings =
        table.datasets.iter().map(|dataset| format!("{} (n {})", dataset.name, grouped(dataset.items as u64)));
    (table.breakdown && !rows.is_empty()).then(|| Grid {
        caption: format!("{} by data set", table.metric.words()),
        corner: String::new(),
        columns: headings.collect(),
        rows,
        legend: vec![scale(table)],
    })
}

/// The grids below the central table: data sets, format compliance, readable answers.
pub(super) fn details(table: &Table) -> Vec<Grid> {
    [breakdown(table), compliance(table), readable(table)].into_iter().flatten().collect()
}

/// Format compliance of the cells, unless that is what the central table shows.
fn compliance(table: &Table) -> Option<Grid> {
    let legend = "percent of responses that follow the prompt's form and end by themselves, 95 % interval";
    let measured = table.rows.iter().flat_map(|row| &row.cells).any(|cell| cell.compliance.is_some());
    (measured && table.metric != Metric::Compliance)
        .then(|| side_grid(table, Metric::Compliance, legend, |cell| cell.compliance.as_ref()))
}

/// Readable answers of the cells, where any answer could not be read.
fn readable(table: &Table) -> Option<Grid> {
    let legend = "percent of responses from which an answer of the item's type could be read, 95 % interval";
    let lacking =
        table.rows.iter().flat_map(|row| &row.cells).filter_map(|cell| cell.readable).any(|one| one.mean < 1.0);
    (lacking && table.metric != Metric::Readable)
        .then(|| side_grid(table, Metric::Readable, legend, |cell| cell.readable.as_ref()))
}

/// One estimate of each cell of the central table.
fn side_grid(table: &Table, metric: Metric, legend: &str, of: impl Fn(&Cell) -> Option<&Estimate>) -> Grid {
    let shown: Vec<usize> = columns(table).collect();
    let rows = table.rows.iter().map(|row| GridRow {
        label: row.label.clone(),
        cells: shown.iter().map(|&column| full(of(&row.cells[column]), None)).collect(),
    });
    Grid {
        caption: metric.words().to_string(),
        corner: table.rows_are.clone(),
        columns: shown.iter().map(|&column| table.columns[column].clone()).collect(),
        rows: rows.collect(),
        legend: vec![legend.to_string()],
    }
}

/// `, p after Holm over 6`: how many contrasts the correction counts; nothing when none was measured.
pub(super) fn holm_words(contrasts: &[Contrast]) -> String {
    match contrasts.iter().filter(|contrast| contrast.difference.is_some()).count() {
        0 => String::new(),
        1 => ", p of one test".to_string(),
        tested => format!(", p after Holm over {tested}"),
    }
}

/// How many items and seeds stand behind the cells: `1,200 items, 3 seeds`.
pub(super) fn evidence(table: &Table) -> String {
    let cells = || table.rows.iter().flat_map(|row| &row.cells).filter_map(|cell| cell.estimate);
    let range = |of: &dyn Fn(&Estimate) -> usize| {
        let (low, high) =
            (cells().map(|one| of(&one)).min().unwrap_or(0), cells().map(|one| of(&one)).max().unwrap_or(0));
        let text = |count: usize| grouped(count as u64);
        (high, if low == high { text(high) } else { format!("{}–{}", text(low), text(high)) })
    };
    let (items, item_words) = range(&|one| one.items);
    let (seeds, seed_words) = range(&|one| one.seeds);
    let plural = |count: usize| if count == 1 { "" } else { "s" };
    format!("{item_words} item{}, {seed_words} seed{}", plural(items), plural(seeds))
}

/// The columns of single prompts, benchmarks, ...: not the mean.
fn columns(table: &Table) -> std::ops::Range<usize> {
    0..if table.columns.len() > 1 { table.columns.len() - 1 } else { table.columns.len() }
}

fn scale(table: &Table) -> String {
    let resamples = grouped(table.resamples as u64);
    format!("percent, 95 % interval (bootstrap over seeds and items, {resamples} resamples)")
}

fn main_cell(cell: &Cell) -> GridCell {
    let mut shown = full(cell.estimate.as_ref(), cell.difference.as_ref());
    if partial(cell) {
        shown.mean.push('†');
    }
    shown.published = cell.published.map(|share| format!("({})", percent(share))).unwrap_or_default();
    shown
}

/// Whether a measured cell lacks an instance.
fn partial(cell: &Cell) -> bool {
    cell.estimate.is_some() && !cell.missing.is_empty()
}

fn full(estimate: Option<&Estimate>, difference: Option<&Difference>) -> GridCell {
    let Some(estimate) = estimate else { return GridCell { mean: "–".to_string(), ..GridCell::default() } };
    let mut cell = GridCell { mean: percent(estimate.mean), interval: interval(estimate), ..GridCell::default() };
    if let Some(difference) = difference {
        cell.difference = points(difference.estimate.mean);
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
    fn numbers_read_as_people_write_them() {
        assert_eq!([percent(0.8304), percent(-0.0001), percent(1.0)], ["83.0", "0.0", "100.0"]);
        assert_eq!([points(0.012), points(-0.001), points(0.0), points(-0.0001)], ["+1.2", "−0.1", "0.0", "0.0"]);
        assert_eq!([p_value(0.0), p_value(0.0123), p_value(0.4), p_value(1.0)], ["<0.001", "0.012", "0.40", "1.00"]);
        assert_eq!([grouped(7), grouped(1200), grouped(1_234_567)], ["7", "1,200", "1,234,567"]);
    }
}
