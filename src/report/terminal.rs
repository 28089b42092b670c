//! A report for the terminal: aligned columns, no more than the width, color on demand. Computes nothing.

use std::fmt::Write;

use unicode_width::UnicodeWidthStr;

use super::Report;
use super::grid::{self, Grid, GridCell, Trend};
use super::table::{Contrast, Table, Verdict};

const BOLD: &str = "1";
const DIM: &str = "2";
const GREEN: &str = "32";
const RED: &str = "31";

/// The tables, contrasts and notes of a report, in lines of at most `width` columns (40 at least).
pub(super) fn render(report: &Report, width: usize, color: bool) -> String {
    let page = Page { width: width.max(40), color };
    let mut lines: Vec<String> = Vec::new();
    for table in &report.tables {
        if !lines.is_empty() {
            lines.push(String::new());
        }
        page.table(table, &mut lines);
    }
    for note in &report.notes {
        page.paragraph("note: ", note, &mut lines);
    }
    lines.push(String::new());
    lines.iter().map(|line| line.trim_end()).collect::<Vec<_>>().join("\n")
}

struct Page {
    width: usize,
    color: bool,
}

/// How much of a cell is shown.
#[derive(Clone, Copy, PartialEq)]
enum Detail {
    Interval,
    Mean,
}

/// How wide everything in a grid is.
struct Layout<'a> {
    detail: Detail,
    label_width: usize,
    /// By column.
    parts: &'a [Widths],
    widths: &'a [usize],
}

/// A text with the way it is painted.
struct Piece(String, &'static str);

impl Page {
    fn table(&self, table: &Table, lines: &mut Vec<String>) {
        lines.push(self.paint(&clip(&table.title, self.width), BOLD));
        let evidence = format!("`{}`, {}", table.stage, grid::evidence(table));
        lines.push(self.paint(&clip(&evidence, self.width), DIM));
        for grid in std::iter::once(grid::main(table)).chain(grid::details(table)) {
            lines.push(String::new());
            self.grid(&grid, lines);
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

    fn grid(&self, grid: &Grid, lines: &mut Vec<String>) {
        lines.push(self.paint(&clip(&grid.caption, self.width), BOLD));
        let labels = grid.rows.iter().map(|row| row.label.as_str()).chain([grid.corner.as_str()]);
        let label_width = labels.map(UnicodeWidthStr::width).max().unwrap_or(0).min(self.width / 3);
        let room = self.width - label_width;
        let columns = |detail: Detail| -> Vec<Widths> {
            (0..grid.columns.len()).map(|column| Widths::of(grid, column, detail)).collect()
        };
        let widths = |columns: &[Widths]| -> Vec<usize> {
            let cell = |(parts, name): (&Widths, &String)| parts.total().max(name.width().min(24)) + 3;
            columns.iter().zip(&grid.columns).map(cell).collect()
        };
        // Intervals where they fit; else the means alone, in blocks of columns if need be.
        let with_intervals = columns(Detail::Interval);
        let fits = widths(&with_intervals).iter().sum::<usize>() <= room || with_intervals.len() == 1;
        let (detail, parts) =
            if fits { (Detail::Interval, with_intervals) } else { (Detail::Mean, columns(Detail::Mean)) };
        let widths = widths(&parts);
        let mut start = 0;
        while start < widths.len() {
            let mut end = start + 1;
            while end < widths.len() && widths[start..=end].iter().sum::<usize>() <= room {
                end += 1;
            }
            if start > 0 {
                lines.push(String::new());
            }
            self.block(grid, start..end, &Layout { detail, label_width, parts: &parts, widths: &widths }, lines);
            start = end;
        }
        for legend in &grid.legend {
            self.paragraph("", legend, lines);
        }
    }

    fn block(&self, grid: &Grid, columns: std::ops::Range<usize>, layout: &Layout, lines: &mut Vec<String>) {
        let Layout { detail, label_width, parts, widths } = *layout;
        let mut head = pad(&clip(&grid.corner, label_width), label_width);
        for column in columns.clone() {
            head.push_str("   ");
            head.push_str(&pad(&clip(&grid.columns[column], widths[column] - 3), widths[column] - 3));
        }
        lines.push(self.paint(head.trim_end(), DIM));
        for row in &grid.rows {
            let mut line = pad(&clip(&row.label, label_width), label_width);
            for column in columns.clone() {
                let pieces = parts[column].pieces(&row.cells[column], detail);
                let used: usize = pieces.iter().map(|Piece(text, _)| text.width()).sum();
                line.push_str("   ");
                for Piece(text, style) in &pieces {
                    line.push_str(&self.paint(text, style));
                }
                line.push_str(&" ".repeat((widths[column] - 3).saturating_sub(used)));
            }
            lines.push(line);
        }
    }

    fn contrasts(&self, contrasts: &[Contrast], lines: &mut Vec<String>) {
        lines.push(self.paint(&format!("contrasts (points, 95 % interval{})", grid::holm_words(contrasts)), BOLD));
        let name_width = contrasts.iter().map(|one| one.name.width()).max().unwrap_or(0).min(self.width / 3);
        for contrast in contrasts {
            let mut line = pad(&clip(&contrast.name, name_width), name_width);
            if let Some(difference) = &contrast.difference {
                let p = format!("p {}", grid::p_value(difference.p_holm));
                let interval = grid::interval(&difference.estimate);
                _ = write!(line, "   {:>6}", grid::points(difference.estimate.mean));
                line.push_str(&self.paint(&format!(" {interval:<15}"), DIM));
                _ = write!(line, " {p:<9}");
            } else {
                _ = write!(line, "   {:>6} {:<15} {:<9}", "–", "", "");
            }
            let style = match contrast.verdict {
                Verdict::Supported => GREEN,
                Verdict::Contradicted => RED,
                Verdict::NotSupported | Verdict::NotMeasured => BOLD,
            };
            line.push(' ');
            line.push_str(&self.paint(contrast.verdict.words(), style));
            lines.push(line);
            for text in [&contrast.about, &contrast.words] {
                if !text.is_empty() {
                    self.paragraph("    ", text, lines);
                }
            }
        }
    }

    /// Words wrapped at the width; lines after the first are indented as far as `lead` is wide.
    fn paragraph(&self, lead: &str, text: &str, lines: &mut Vec<String>) {
        let indent = " ".repeat(lead.width());
        let mut line = lead.to_string();
        let mut empty = true;
        for word in clean(text).split_whitespace() {
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

/// Widths of the parts of a column's cells, so that means stand under means.
struct Widths {
    mean: usize,
    /// 1 when a mean of the column carries a dagger, which has a place of its own.
    dagger: usize,
    interval: usize,
    difference: usize,
    published: usize,
}

impl Widths {
    fn of(grid: &Grid, column: usize, detail: Detail) -> Widths {
        let cells = grid.rows.iter().map(|row| &row.cells[column]);
        let widest = |part: &dyn Fn(&GridCell) -> usize| cells.clone().map(part).max().unwrap_or(0);
        let interval = if detail == Detail::Interval { widest(&|cell| cell.interval.width()) } else { 0 };
        Widths {
            mean: widest(&|cell| cell.mean.trim_end_matches('†').width()),
            dagger: widest(&|cell| usize::from(cell.mean.ends_with('†'))),
            interval,
            difference: widest(&|cell| cell.difference.trim_end_matches('*').width()),
            published: widest(&|cell| cell.published.width()),
        }
    }

    fn total(&self) -> usize {
        let spaced = |width: usize| if width > 0 { width + 1 } else { 0 };
        // The star has a place of its own, so that signs and digits line up.
        let difference = if self.difference > 0 { self.difference + 2 } else { 0 };
        self.mean + self.dagger + spaced(self.interval) + difference + spaced(self.published)
    }

    fn pieces(&self, cell: &GridCell, detail: Detail) -> Vec<Piece> {
        let number = cell.mean.trim_end_matches('†');
        let dagger = if cell.mean.ends_with('†') { "†" } else { "" };
        let mut pieces = vec![Piece(format!("{}{}", left(number, self.mean), pad(dagger, self.dagger)), "")];
        if detail == Detail::Interval && self.interval > 0 {
            pieces.push(Piece(format!(" {}", pad(&cell.interval, self.interval)), DIM));
        }
        if self.difference > 0 {
            let number = cell.difference.trim_end_matches('*');
            let star = if cell.difference.ends_with('*') { "*" } else { " " };
            let style = match cell.trend {
                Trend::Up => GREEN,
                Trend::Down => RED,
                Trend::None => "",
            };
            pieces.push(Piece(format!(" {}{star}", left(number, self.difference)), style));
        }
        if self.published > 0 {
            pieces.push(Piece(format!(" {}", left(&cell.published, self.published)), DIM));
        }
        pieces
    }
}

/// The text with spaces after it.
pub(super) fn pad(text: &str, width: usize) -> String {
    format!("{text}{}", " ".repeat(width.saturating_sub(text.width())))
}

/// The text with spaces before it.
pub(super) fn left(text: &str, width: usize) -> String {
    format!("{}{text}", " ".repeat(width.saturating_sub(text.width())))
}

/// The text without control characters: a label or a name must not speak to the terminal.
pub(super) fn clean(text: &str) -> String {
    text.chars().map(|character| if character.is_control() { ' ' } else { character }).collect()
}

/// At most `width` columns of the text, without control characters; what is cut ends in `…`.
fn clip(text: &str, width: usize) -> String {
    let clean = clean(text);
    if clean.width() <= width {
        return clean;
    }
    let mut short = String::new();
    for character in clean.chars() {
        if short.width() + character.to_string().width() + 1 > width {
            break;
        }
        short.push(character);
    }
    short.push('…');
    short
}
