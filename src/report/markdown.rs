//! Renders a report as Markdown.

use std::fmt::Write;

use super::Report;
use super::detail_tables;
use super::table::ContrastResult;
use super::text_table::{self, TextTable};

/// Renders GitHub-flavoured Markdown.
pub(super) fn render(report: &Report) -> String {
    let mut text = format!("# {}\n", escape(&report.experiment));
    if !report.about.is_empty() {
        _ = write!(text, "\n{}\n", escape(&report.about));
    }
    for table in &report.tables {
        _ = write!(
            text,
            "\n## {}\n\n`{}`, {}.\n",
            escape(&table.title),
            code(&table.stage),
            text_table::sample_size(table)
        );
        for part in std::iter::once(text_table::main(table)).chain(detail_tables::render(table)) {
            render_table(&part, &mut text);
        }
        if !table.contrasts.is_empty() {
            render_contrasts(&table.contrasts, &mut text);
        }
        list(&table.notes, &mut text);
    }
    list(&report.notes, &mut text);
    if !report.provenance.is_empty() {
        text.push_str("\n## What made this report\n");
        let facts: Vec<String> = report.provenance.iter().map(|(name, value)| format!("{name}: {value}")).collect();
        list(&facts, &mut text);
    }
    text
}

fn list(lines: &[String], text: &mut String) {
    for (index, line) in lines.iter().enumerate() {
        _ = writeln!(text, "{}- {}", if index == 0 { "\n" } else { "" }, escape(line));
    }
}

fn render_table(table: &TextTable, text: &mut String) {
    _ = write!(text, "\n**{}**\n\n| {} |", escape(&table.caption), escape(&table.corner));
    for column in &table.columns {
        _ = write!(text, " {} |", escape(&column.to_string()));
    }
    _ = write!(text, "\n|---|{}\n", "---:|".repeat(table.columns.len()));
    for row in &table.rows {
        _ = write!(text, "| {} |", escape(&row.label));
        for cell in &row.cells {
            let parts = [&cell.mean, &cell.interval, &cell.difference, &cell.published].map(|part| escape(part));
            let parts: Vec<&str> = parts.iter().map(String::as_str).filter(|part| !part.is_empty()).collect();
            _ = write!(text, " {} |", parts.join(" "));
        }
        text.push('\n');
    }
    _ = writeln!(text, "\n{}.", table.legend.iter().map(|line| escape(line)).collect::<Vec<_>>().join(". "));
}

fn render_contrasts(contrasts: &[ContrastResult], text: &mut String) {
    let correction = text_table::contrast_correction(contrasts).map(|one| format!(", p-value: {one}"));
    _ = write!(text, "\n**contrasts**, percentage points{}\n\n", correction.unwrap_or_default());
    text.push_str("| contrast | difference | 95 % confidence interval | p | items | gained / lost | verdict |\n");
    text.push_str("|---|---:|---:|---:|---:|---:|---|\n");
    for contrast in contrasts {
        let name = [&contrast.name, &contrast.about].map(|part| escape(part));
        let name = name.iter().filter(|part| !part.is_empty()).cloned().collect::<Vec<_>>().join(": ");
        let numbers = contrast.difference.as_ref().map_or_else(
            || "– | | | | ".to_string(),
            |one| {
                let (mean, interval) =
                    (text_table::percentage_points(one.estimate.mean), text_table::interval(&one.estimate));
                let (items, p) = (text_table::thousands(one.estimate.items as u64), text_table::p_value(one.p_holm));
                format!("{mean} | {interval} | {p} | {items} | {} / {}", one.test.gained, one.test.lost)
            },
        );
        _ = writeln!(text, "| {name} | {numbers} | **{}**: {} |", contrast.words, escape(&contrast.reason));
    }
}

/// Escapes a text: it cannot add markup or HTML, or end a table cell.
pub(super) fn escape(text: &str) -> String {
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

/// A text between backticks.
pub(super) fn code(text: &str) -> String {
    text.replace('`', "'")
}
