//! A report as Markdown and as CSV. Computes nothing.

use std::fmt::Write;

use super::Report;
use super::grid::{self, Grid};
use super::table::{Contrast, Dataset, Estimate};

/// The report as GitHub-flavoured Markdown.
pub(super) fn render(report: &Report) -> String {
    let mut text = format!("# {}\n", escape(&report.experiment));
    if !report.about.is_empty() {
        _ = write!(text, "\n{}\n", escape(&report.about));
    }
    for table in &report.tables {
        _ = write!(text, "\n## {}\n\n`{}`, {}.\n", escape(&table.title), code(&table.stage), grid::evidence(table));
        for grid in std::iter::once(grid::main(table)).chain(grid::details(table)) {
            render_grid(&grid, &mut text);
        }
        if !table.contrasts.is_empty() {
            render_contrasts(&table.contrasts, &mut text);
        }
        list(&table.notes, &mut text);
    }
    list(&report.notes, &mut text);
    text
}

/// One line per cell and data set, for spreadsheets and scripts. Values are shares of 1.
pub(super) fn csv(report: &Report) -> String {
    let mut text = String::from(
        "table,row,column,dataset,mean,low,high,items,seeds,difference,difference_low,difference_high,p,p_holm\n",
    );
    for table in &report.tables {
        for row in &table.rows {
            for (column, cell) in table.columns.iter().zip(&row.cells) {
                let place = [&table.name, &row.label, column].map(|name| quote(name)).join(",");
                let difference = cell.difference.as_ref().map_or_else(
                    || ",,,,".to_string(),
                    |one| {
                        let Estimate { mean, interval, .. } = one.estimate;
                        format!("{mean},{},{},{},{}", interval.low, interval.high, one.comparison.p, one.p_holm)
                    },
                );
                _ = writeln!(text, "{place},,{},{difference}", numbers(cell.estimate.as_ref()));
                for Dataset { name, .. } in &table.datasets {
                    if let Some(estimate) = cell.datasets.get(name) {
                        _ = writeln!(text, "{place},{},{},,,,,", quote(name), numbers(Some(estimate)));
                    }
                }
            }
        }
    }
    text
}

fn list(lines: &[String], text: &mut String) {
    for (index, line) in lines.iter().enumerate() {
        _ = writeln!(text, "{}- {}", if index == 0 { "\n" } else { "" }, escape(line));
    }
}

fn render_grid(grid: &Grid, text: &mut String) {
    _ = write!(text, "\n**{}**\n\n| {} |", escape(&grid.caption), escape(&grid.corner));
    for column in &grid.columns {
        _ = write!(text, " {} |", escape(column));
    }
    _ = write!(text, "\n|---|{}\n", "---:|".repeat(grid.columns.len()));
    for row in &grid.rows {
        _ = write!(text, "| {} |", escape(&row.label));
        for cell in &row.cells {
            let parts = [&cell.mean, &cell.interval, &cell.difference, &cell.published].map(|part| escape(part));
            let parts: Vec<&str> = parts.iter().map(String::as_str).filter(|part| !part.is_empty()).collect();
            _ = write!(text, " {} |", parts.join(" "));
        }
        text.push('\n');
    }
    _ = writeln!(text, "\n{}.", grid.legend.iter().map(|line| escape(line)).collect::<Vec<_>>().join(". "));
}

fn render_contrasts(contrasts: &[Contrast], text: &mut String) {
    _ = write!(text, "\n**contrasts**, points, 95 % interval{}\n\n", grid::holm_words(contrasts));
    text.push_str("| claim | difference | 95 % interval | p | items | gained / lost | verdict |\n");
    text.push_str("|---|---:|---:|---:|---:|---:|---|\n");
    for contrast in contrasts {
        let name = [&contrast.name, &contrast.about].map(|part| escape(part));
        let name = name.iter().filter(|part| !part.is_empty()).cloned().collect::<Vec<_>>().join(": ");
        let numbers = contrast.difference.as_ref().map_or_else(
            || "– | | | | ".to_string(),
            |one| {
                let (mean, interval) = (grid::points(one.estimate.mean), grid::interval(&one.estimate));
                let (items, p) = (grid::grouped(one.estimate.items as u64), grid::p_value(one.p_holm));
                format!("{mean} | {interval} | {p} | {items} | {} / {}", one.comparison.gained, one.comparison.lost)
            },
        );
        let verdict = contrast.verdict.words();
        _ = writeln!(text, "| {name} | {numbers} | **{verdict}**: {} |", escape(&contrast.words));
    }
}

/// Text as it stands, whatever it holds: no markup, no HTML, no end of a cell.
fn escape(text: &str) -> String {
    let mut escaped = String::new();
    for character in text.chars() {
        match character {
            '\\' | '`' | '*' | '_' | '|' | '[' | ']' | '#' | '~' => escaped.extend(['\\', character]),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '&' => escaped.push_str("&amp;"),
            control if control.is_control() => escaped.push(' '),
            plain => escaped.push(plain),
        }
    }
    escaped
}

fn code(text: &str) -> String {
    text.replace('`', "'")
}

/// A text of data or of the file as a cell. A spreadsheet must not take it for a formula: where it begins like one, it gets
/// the apostrophe that spreadsheets mark text with. Numbers are our own and never come here.
fn quote(text: &str) -> String {
    let begins = text.trim_start().chars().next().or(text.chars().next());
    let formula = begins.is_some_and(|first| "=+-@\u{ff1d}\u{ff0b}\u{ff0d}\u{ff20}".contains(first))
        || text.starts_with(['\t', '\r', '\n']);
    let marked = format!("'{text}");
    let text = if formula { &marked } else { text };
    if text.contains([',', '"', '\n', '\r']) { format!("\"{}\"", text.replace('"', "\"\"")) } else { text.to_string() }
}

fn numbers(estimate: Option<&Estimate>) -> String {
    let Some(Estimate { mean, interval, items, seeds }) = estimate else { return ",,,,".to_string() };
    format!("{mean},{},{},{items},{seeds}", interval.low, interval.high)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_text_is_a_formula() {
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
