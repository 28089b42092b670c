//! Renders a report for the terminal: aligned columns within the terminal's width, with optional color.

use std::fmt::Write;

use unicode_width::UnicodeWidthStr;

use super::Report;
use super::detail_tables;
use super::table::{ContrastResult, Table, Verdict};
use super::text_table::{self, TextCell, TextTable, Trend};

const BOLD: &str = "1";
const DIM: &str = "2";
const GREEN: &str = "32";
const RED: &str = "31";

/// Renders tables, contrasts and notes in lines of at most `width` columns. A `width` below 40 counts as 40.
pub(super) fn render(report: &Report, width: usize, color: bool) -> String {
    let renderer = Renderer { width: width.max(40), color };
    let mut lines: Vec<String> = Vec::new();
    for table in &report.tables {
        if !lines.is_empty() {
            lines.push(String::new());
        }
        renderer.table(table, &mut lines);
    }
    for note in &report.notes {
        renderer.paragraph("note: ", note, &mut lines);
    }
    if let Some(line) = report.made_by.line() {
        renderer.paragraph("made by: ", &line, &mut lines);
    }
    lines.push(String::new());
    lines.iter().map(|line| line.trim_end()).collect::<Vec<_>>().join("\n")
}

struct Renderer {
    width: usize,
    color: bool,
}

/// The parts of a cell that are shown.
#[derive(Clone, Copy, PartialEq)]
enum Detail {
    MeanAndInterval,
    Mean,
}

/// Widths of a table.
struct TableWidths<'a> {
    detail: Detail,
    label: usize,
    /// By column: the parts of its cells.
    parts: &'a [CellWidths],
    /// By column, with the space before it.
    columns: &'a [usize],
}

/// A text with its ANSI style.
struct Span(String, &'static str);

impl Renderer {
    fn table(&self, table: &Table, lines: &mut Vec<String>) {
        lines.push(self.paint(&truncate(&table.title, self.width), BOLD));
        let sample = format!("`{}`, {}", table.stage, text_table::sample_size(table));
        lines.push(self.paint(&truncate(&sample, self.width), DIM));
        for part in std::iter::once(text_table::main(table)).chain(detail_tables::render(table)) {
            lines.push(String::new());
            self.text_table(&part, lines);
        }
        if !table.contrasts.is_empty() {
            lines.push(String::new());
            self.contrasts(&table.contrasts, lines);
        }
        if !table.notes.is_empty() {
            lines.push(String::new());
        }
        for note in &table.notes {
            self.paragraph("note: ", note, lines);
        }
    }

    fn text_table(&self, table: &TextTable, lines: &mut Vec<String>) {
        lines.push(self.paint(&truncate(&table.caption, self.width), BOLD));
        let labels = table.rows.iter().map(|row| row.label.as_str()).chain([table.corner.as_str()]);
        let label_width = labels.map(UnicodeWidthStr::width).max().unwrap_or(0).min(self.width / 3);
        let available = self.width - label_width;
        let headings: Vec<String> = table.columns.iter().map(ToString::to_string).collect();
        let columns = |detail: Detail| -> Vec<CellWidths> {
            (0..headings.len()).map(|column| CellWidths::of(table, column, detail)).collect()
        };
        let widths = |columns: &[CellWidths]| -> Vec<usize> {
            let width = |(parts, heading): (&CellWidths, &String)| parts.total().max(heading.width().min(24)) + 3;
            columns.iter().zip(&headings).map(width).collect()
        };
        // Without intervals if they do not fit, and in blocks of columns if the means do not fit either.
        let with_intervals = columns(Detail::MeanAndInterval);
        let fits = widths(&with_intervals).iter().sum::<usize>() <= available || with_intervals.len() == 1;
        let (detail, parts) =
            if fits { (Detail::MeanAndInterval, with_intervals) } else { (Detail::Mean, columns(Detail::Mean)) };
        let widths = widths(&parts);
        let mut start = 0;
        while start < widths.len() {
            let mut end = start + 1;
            while end < widths.len() && widths[start..=end].iter().sum::<usize>() <= available {
                end += 1;
            }
            if start > 0 {
                lines.push(String::new());
            }
            let widths = TableWidths { detail, label: label_width, parts: &parts, columns: &widths };
            self.block(table, start..end, &widths, lines);
            start = end;
        }
        for legend in &table.legend {
            self.paragraph("", legend, lines);
        }
    }

    /// Renders some columns of all rows.
    fn block(&self, table: &TextTable, columns: std::ops::Range<usize>, widths: &TableWidths, lines: &mut Vec<String>) {
        let TableWidths { detail, label: label_width, parts, columns: widths } = *widths;
        let mut head = pad_right(&truncate(&table.corner, label_width), label_width);
        for column in columns.clone() {
            head.push_str("   ");
            head.push_str(&pad_right(
                &truncate(&table.columns[column].to_string(), widths[column] - 3),
                widths[column] - 3,
            ));
        }
        lines.push(self.paint(head.trim_end(), DIM));
        for row in &table.rows {
            let mut line = pad_right(&truncate(&row.label, label_width), label_width);
            for column in columns.clone() {
                let spans = parts[column].spans(&row.cells[column], detail);
                let used: usize = spans.iter().map(|Span(text, _)| text.width()).sum();
                line.push_str("   ");
                for Span(text, style) in &spans {
                    line.push_str(&self.paint(text, style));
                }
                line.push_str(&" ".repeat((widths[column] - 3).saturating_sub(used)));
            }
            lines.push(line);
        }
    }

    fn contrasts(&self, contrasts: &[ContrastResult], lines: &mut Vec<String>) {
        lines.push(self.paint("contrasts", BOLD));
        let name_width = contrasts.iter().map(|one| one.name.width()).max().unwrap_or(0).min(self.width / 3);
        for contrast in contrasts {
            let mut line = pad_right(&truncate(&contrast.name, name_width), name_width);
            if let Some(difference) = &contrast.difference {
                let p = format!("p {}", text_table::p_value(difference.p_holm));
                let interval = text_table::interval(&difference.estimate);
                _ = write!(line, "   {:>6}", text_table::percentage_points(difference.estimate.mean));
                line.push_str(&self.paint(&format!(" {interval:<15}"), DIM));
                _ = write!(line, " {p:<9}");
            } else {
                _ = write!(line, "   {:>6} {:<15} {:<9}", "–", "", "");
            }
            let style = match contrast.verdict {
                Verdict::Shown => GREEN,
                Verdict::OppositeShown => RED,
                Verdict::BelowMargin | Verdict::NotShown | Verdict::NotMeasured => BOLD,
            };
            line.push(' ');
            line.push_str(&self.paint(&contrast.words.to_string(), style));
            lines.push(line);
            for text in [&contrast.about, &contrast.reason] {
                if !text.is_empty() {
                    self.paragraph("    ", text, lines);
                }
            }
        }
        let correction = text_table::contrast_correction(contrasts).map(|one| format!(", p-value: {one}"));
        let legend = format!("percentage points, 95 % confidence interval{}", correction.unwrap_or_default());
        self.paragraph("", &legend, lines);
    }

    /// A text wrapped at the width. Lines after the first are indented by the width of `lead`.
    fn paragraph(&self, lead: &str, text: &str, lines: &mut Vec<String>) {
        let indent = " ".repeat(lead.width());
        let mut line = lead.to_string();
        let mut empty = true;
        for word in strip_control(text).split_whitespace() {
            if !empty && line.width() + 1 + word.width() > self.width {
                lines.push(self.paint(&line, DIM));
                line.clone_from(&indent);
                empty = true;
            }
            if !empty {
                line.push(' ');
            }
            line.push_str(word);
            empty = false;
        }
        lines.push(self.paint(&line, DIM));
    }

    fn paint(&self, text: &str, style: &str) -> String {
        if self.color && !style.is_empty() && !text.trim().is_empty() {
            format!("\x1b[{style}m{text}\x1b[0m")
        } else {
            text.to_string()
        }
    }
}

/// Widths of the parts of a column's cells, which are aligned with each other.
struct CellWidths {
    mean: usize,
    /// 1 if a mean of the column has a dagger, which takes one column of its own.
    dagger: usize,
    interval: usize,
    difference: usize,
    published: usize,
}

impl CellWidths {
    fn of(table: &TextTable, column: usize, detail: Detail) -> CellWidths {
        let cells = table.rows.iter().map(|row| &row.cells[column]);
        let widest = |part: &dyn Fn(&TextCell) -> usize| cells.clone().map(part).max().unwrap_or(0);
        let interval = if detail == Detail::MeanAndInterval { widest(&|cell| cell.interval.width()) } else { 0 };
        CellWidths {
            mean: widest(&|cell| cell.mean.trim_end_matches('†').width()),
            dagger: widest(&|cell| usize::from(cell.mean.ends_with('†'))),
            interval,
            difference: widest(&|cell| cell.difference.trim_end_matches('*').width()),
            published: widest(&|cell| cell.published.width()),
        }
    }

    fn total(&self) -> usize {
        let spaced = |width: usize| if width > 0 { width + 1 } else { 0 };
        // The star takes one column of its own, so that the digits are aligned.
        let difference = if self.difference > 0 { self.difference + 2 } else { 0 };
        self.mean + self.dagger + spaced(self.interval) + difference + spaced(self.published)
    }

    fn spans(&self, cell: &TextCell, detail: Detail) -> Vec<Span> {
        let number = cell.mean.trim_end_matches('†');
        let dagger = if cell.mean.ends_with('†') { "†" } else { "" };
        let mut spans = vec![Span(format!("{}{}", pad_left(number, self.mean), pad_right(dagger, self.dagger)), "")];
        if detail == Detail::MeanAndInterval && self.interval > 0 {
            spans.push(Span(format!(" {}", pad_right(&cell.interval, self.interval)), DIM));
        }
        if self.difference > 0 {
            let number = cell.difference.trim_end_matches('*');
            let star = if cell.difference.ends_with('*') { "*" } else { " " };
            let style = match cell.trend {
                Trend::Up => GREEN,
                Trend::Down => RED,
                Trend::None => "",
            };
            spans.push(Span(format!(" {}{star}", pad_left(number, self.difference)), style));
        }
        if self.published > 0 {
            spans.push(Span(format!(" {}", pad_left(&cell.published, self.published)), DIM));
        }
        spans
    }
}

/// The text, padded with spaces on the right.
pub(super) fn pad_right(text: &str, width: usize) -> String {
    format!("{text}{}", " ".repeat(width.saturating_sub(text.width())))
}

/// The text, padded with spaces on the left.
pub(super) fn pad_left(text: &str, width: usize) -> String {
    format!("{}{text}", " ".repeat(width.saturating_sub(text.width())))
}

/// Replaces control characters by spaces, so that a label cannot send escape sequences to the terminal.
pub(super) fn strip_control(text: &str) -> String {
    text.chars().map(|character| if character.is_control() { ' ' } else { character }).collect()
}

/// At most `width` columns of the text, without control characters. A truncated text ends in `…`.
fn truncate(text: &str, width: usize) -> String {
    let text = strip_control(text);
    if text.width() <= width {
        return text;
    }
    let mut short = String::new();
    for character in text.chars() {
        if short.width() + character.to_string().width() + 1 > width {
            break;
        }
        short.push(character);
    }
    short.push('…');
    short
}
