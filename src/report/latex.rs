//! Renders the tables of a report for LaTeX, with the rules of the package `booktabs`.

use std::fmt::Write;

use super::Report;
use super::table::{ContrastResult, Table};
use super::text_table::{self, TextCell, TextTable};
use ablate_core::base::escape::escape_line;

/// One `table` per table of the report and one per list of contrasts, for `\input`.
pub(super) fn render(report: &Report) -> String {
    let mut text = format!(
        "% Tables of the experiment `{}`, written by ablate.\n\
         % In your document: \\usepackage{{booktabs}} in the preamble, and \\input{{report.tex}} or one of the tables.\n\
         % It compiles with pdflatex, lualatex and xelatex. pdflatex stops at letters that it does not have (\"Unicode character\"):\n\
         % use lualatex or xelatex and a font that has them. With \\tracinglostchars=3 they also stop at a missing letter.\n",
        escape_line(&report.experiment)
    );
    for table in &report.tables {
        let label = label(&[&report.experiment, &table.name]);
        main_table(table, &label, &mut text);
        if !table.contrasts.is_empty() {
            contrasts(table, &label, &mut text);
        }
    }
    text
}

fn main_table(table: &Table, label: &str, text: &mut String) {
    let TextTable { caption, corner, columns, rows, legend } = text_table::main(table);
    let sample = text_table::sample_size(table);
    let caption = format!("{}: {caption}, {sample}. {}.", table.title, legend.join(". "));
    begin(&caption, label, &format!("l{}", "r".repeat(columns.len())), text);
    let header = std::iter::once(escape(&corner)).chain(columns.iter().map(|column| escape(&column.to_string())));
    _ = writeln!(text, "    {} \\\\\n    \\midrule", header.collect::<Vec<_>>().join(" & "));
    for row in &rows {
        let means = row.cells.iter().map(mean);
        let line = std::iter::once(escape(&row.label)).chain(means);
        _ = writeln!(text, "    {} \\\\", line.collect::<Vec<_>>().join(" & "));
        if row.cells.iter().any(|cell| !cell.interval.is_empty()) {
            let intervals = row.cells.iter().map(|cell| match cell.interval.as_str() {
                "" => String::new(),
                interval => format!("{{\\scriptsize {}}}", escape(interval)),
            });
            let line = std::iter::once(String::new()).chain(intervals);
            _ = writeln!(text, "    {} \\\\", line.collect::<Vec<_>>().join(" & ").trim_start());
        }
    }
    end(&table.notes, text);
}

/// The mean with its difference to the baseline and the published number.
fn mean(cell: &TextCell) -> String {
    let parts = [&cell.mean, &cell.difference, &cell.published];
    let parts: Vec<String> = parts.iter().filter(|part| !part.is_empty()).map(|part| escape(part)).collect();
    parts.join("~")
}

fn contrasts(table: &Table, label: &str, text: &mut String) {
    let correction = text_table::contrast_correction(&table.contrasts);
    let correction = correction.map(|correction| format!(", p-value: {correction}")).unwrap_or_default();
    let caption = format!(
        "{}: contrasts of {}, percentage points with the 95 % confidence interval{correction}. A contrast is shown if p < 0.05 and \
         the confidence interval excludes zero.",
        table.title, table.metric
    );
    begin(&caption, &format!("{label}-contrasts"), "p{0.34\\linewidth}rrrp{0.22\\linewidth}", text);
    text.push_str("    contrast & difference & interval & p & verdict \\\\\n    \\midrule\n");
    for ContrastResult { name, about, difference, words, .. } in &table.contrasts {
        let name: Vec<&str> = [name, about].into_iter().map(String::as_str).filter(|part| !part.is_empty()).collect();
        let numbers = difference.as_ref().map_or_else(
            || ["–".to_string(), String::new(), String::new()],
            |one| {
                let mean = text_table::percentage_points(one.estimate.mean);
                [mean, text_table::interval(&one.estimate), text_table::p_value(one.p_holm)]
            },
        );
        let line = std::iter::once(name.join(": ")).chain(numbers).chain([words.to_string()]);
        _ = writeln!(text, "    {} \\\\", line.map(|cell| escape(&cell)).collect::<Vec<_>>().join(" & "));
    }
    end(&[], text);
}

fn begin(caption: &str, label: &str, columns: &str, text: &mut String) {
    _ = write!(
        text,
        "\n\\begin{{table}}\n  \\centering\n  \\caption{{{}}}\n  \\label{{{label}}}\n  \\begin{{tabular}}{{{columns}}}\n    \\toprule\n",
        escape(caption)
    );
}

fn end(notes: &[String], text: &mut String) {
    text.push_str("    \\bottomrule\n  \\end{tabular}\n");
    if !notes.is_empty() {
        let notes: Vec<String> = notes.iter().map(|note| escape(note)).collect();
        _ = writeln!(text, "\n  \\smallskip\n  \\parbox{{\\linewidth}}{{\\footnotesize {}.}}", notes.join(". "));
    }
    text.push_str("\\end{table}\n");
}

/// The label of a table: `tab:EXPERIMENT-REPORT`. Characters that LaTeX would read are replaced.
fn label(parts: &[&str]) -> String {
    let plain = |c: char| if c.is_ascii_alphanumeric() || c == '-' || c == '.' { c } else { '-' };
    format!("tab:{}", parts.join("-").chars().map(plain).collect::<String>())
}

/// Escapes a text: LaTeX prints it as it is, also at the start of a line of a table. Control characters and bidirectional
/// controls are printed as their codes.
fn escape(text: &str) -> String {
    let (mut escaped, mut previous) = (String::new(), ' ');
    for character in escape_line(&text.replace('\n', " ")).chars() {
        match character {
            '\\' => escaped.push_str("\\textbackslash{}"),
            '{' | '}' | '$' | '&' | '#' | '_' | '%' => escaped.extend(['\\', character]),
            '~' => escaped.push_str("\\textasciitilde{}"),
            '^' => escaped.push_str("\\textasciicircum{}"),
            '<' => escaped.push_str("\\textless{}"),
            '>' => escaped.push_str("\\textgreater{}"),
            '|' => escaped.push_str("\\textbar{}"),
            '`' => escaped.push_str("\\textasciigrave{}"),
            '\'' => escaped.push_str("\\textquotesingle{}"),
            // `"` is a command in some languages of babel.
            '"' => escaped.push_str("{\\char34}"),
            // `\\[` and `\\*` are commands.
            '[' | ']' | '*' => escaped.extend(['{', character, '}']),
            // Two hyphens are a dash, two commas a quotation mark.
            '-' | ',' if previous == character => _ = write!(escaped, "\\mbox{{{character}}}"),
            '–' => escaped.push_str("--"),
            '−' => escaped.push_str("$-$"),
            '†' => escaped.push_str("\\textdagger{}"),
            '·' => escaped.push_str("\\textperiodcentered{}"),
            plain => escaped.push(plain),
        }
        previous = character;
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_special_character_is_escaped() {
        assert_eq!(escape("a_b & 50% #1 {x} $y$"), "a\\_b \\& 50\\% \\#1 \\{x\\} \\$y\\$");
        assert_eq!(escape("\\input~^"), "\\textbackslash{}input\\textasciitilde{}\\textasciicircum{}");
        assert_eq!(escape("[1] *"), "{[}1{]} {*}");
        assert_eq!(escape("a--b −1.0 – é"), "a-\\mbox{-}b $-$1.0 -- é");
        assert_eq!(escape("\u{202e}"), "\\textbackslash{}u\\{202e\\}");
    }

    #[test]
    fn labels_have_no_special_characters() {
        assert_eq!(label(&["my study", "a_b%"]), "tab:my-study-a-b-");
    }
}
