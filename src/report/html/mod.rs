//! Renders a report as one self-contained HTML page without requests.
//!
//! Tables and plots are HTML and SVG that need no script. The page's script sorts tables, zooms the graph, reads values
//! off plots, and shows the answers.

mod answers;
mod color_scale;
mod comparison;
mod curves;
mod document;
mod escape;
mod graph;
mod line_chart;
mod made_by;
mod responses;
mod stages;
mod sweeps;
mod tables;
mod ternary;
mod token_credit;

use std::fmt::Write;

pub use document::{PolicyHashes, document, policy_hashes};
pub use escape::escape;
pub use tables::duration;

use document::Delivery;
use escape::{capital, code};
use line_chart::ChartLine;

use super::Report;
use super::comparison::Comparison;
use super::detail_tables;
use super::sweeps::Sweep;
use super::table::Table;
use super::text_table;

/// The parts of a page that a server adds.
#[derive(Clone, Copy, Debug, Default)]
pub struct ServedPage<'a> {
    /// HTML before the first section.
    pub top: &'a str,
    /// Addresses of scripts of the server.
    pub scripts: &'a [&'a str],
}

/// A line of [`line_plot`].
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PlotLine {
    pub name: String,
    /// Step and value, by increasing step.
    pub points: Vec<(f64, f64)>,
}

/// Values by step as a figure with a legend, as the training curves are drawn. Of more lines than a plot can tell apart,
/// the first are drawn, and the title says so. None without a line of two finite points.
pub fn line_plot(title: &str, lines: &[PlotLine]) -> Option<String> {
    let line = |line: &PlotLine| {
        let finite = |point: &&(f64, f64)| point.0.is_finite() && point.1.is_finite();
        let thin: Vec<(f64, f64)> = line.points.iter().filter(finite).copied().collect();
        ChartLine { label: line.name.clone(), main: curves::moving_average(&thin), thin, ..ChartLine::default() }
    };
    let lines: Vec<ChartLine> = lines.iter().map(line).filter(|line| line.main.len() > 1).collect();
    let shown = lines.len().min(line_chart::MAX_LINES);
    let part =
        if shown < lines.len() { format!(", the first {shown} of {} lines", lines.len()) } else { String::new() };
    curves::figure(&format!("{title}{part}"), lines.into_iter().take(shown).collect())
}

/// The page as a file, or as a server sends it.
pub(super) fn render(report: &Report, served: Option<&ServedPage>) -> String {
    frame(report, &sections(report), served)
}

/// The page of a comparison as a file. `changes` says in lines what changed between two runs.
pub fn comparison_page(comparison: &Comparison, changes: &[String]) -> String {
    frame(&comparison.report, &comparison::page_sections(comparison, changes), None)
}

fn frame(report: &Report, sections: &[Section], served: Option<&ServedPage>) -> String {
    let mut text =
        format!("<a class=\"skip\" href=\"#main\">to the results</a>\n<header><h1>{}</h1>", escape(&report.experiment));
    if !report.about.is_empty() {
        _ = write!(text, "<p class=\"about\">{}</p>", escape(&report.about));
    }
    text.push_str("<nav aria-label=\"sections\"><ul>");
    for section in sections {
        _ = write!(text, "<li><a href=\"#{}\">{}</a></li>", section.id, escape(&section.title));
    }
    text.push_str("</ul></nav></header>\n<main id=\"main\">\n");
    text.push_str(served.map_or("", |served| served.top));
    for section in sections {
        _ = writeln!(
            text,
            "<section aria-labelledby=\"{0}\"><h2 id=\"{0}\">{1}</h2>{2}</section>",
            section.id,
            escape(&section.title),
            section.body
        );
    }
    text.push_str("</main>\n<footer>");
    text.push_str(&made_by::render(&report.made_by));
    text.push_str("</footer>\n");
    let delivery = served.map_or(Delivery::File, |served| Delivery::Server(served.scripts));
    document::frame(&report.experiment, &text, &delivery)
}

struct Section {
    id: String,
    title: String,
    body: String,
}

/// The sections that are not empty.
fn sections(report: &Report) -> Vec<Section> {
    let mut sections = Vec::new();
    let mut add = |id: String, title: &str, body: String| {
        if !body.is_empty() {
            sections.push(Section { id, title: title.to_string(), body });
        }
    };
    for (number, table) in report.tables.iter().enumerate() {
        let plots = report.sweeps.get(number).map_or(&[][..], Vec::as_slice);
        add(format!("table-{number}"), &table.title, table_body(table, plots));
    }
    add("notes".into(), "Notes", list(&report.notes));
    add("curves".into(), "Training", curves::render(&report.curves));
    for (number, (title, groups)) in report.disagreements.iter().enumerate() {
        let name = if report.disagreements.len() > 1 { format!("Responses: {title}") } else { "Responses".into() };
        let groups = groups.iter().enumerate().map(|(index, group)| responses::render(group, index == 0));
        let about = "<p class=\"sub\">An evenly spaced sample of the items on which two cells disagree.</p>";
        add(format!("responses-{number}"), &name, format!("{about}{}", groups.collect::<String>()));
    }
    add("answers".into(), "Answers", answers::render(report.answers.as_ref()));
    add("credits".into(), "Token credit", token_credit::render(&report.credits));
    let graph = graph::svg(&report.graph);
    if !graph.is_empty() {
        let about = "<p class=\"sub\">One box per stage with its number of instances. Dashed: some instances have not run. A box \
                     leads to the config, inputs, costs and log of its stage.</p>";
        let view =
            "<div class=\"scroll graph-view\" tabindex=\"0\" role=\"region\" aria-label=\"graph of the stages\">";
        let stages = stages::render(&report.stages);
        add("pipeline".into(), "Pipeline", format!("{about}{view}{graph}</div><div class=\"stages\">{stages}</div>"));
    }
    if !report.costs.is_empty() {
        add("cost".into(), "Cost", tables::render_costs(&report.costs));
    }
    sections
}

fn table_body(table: &Table, plots: &[Sweep]) -> String {
    let mut text = format!(
        "<p class=\"sub\"><code>{}</code>, {}</p>",
        escape(&table.stage),
        escape(&text_table::sample_size(table))
    );
    let mean = table.columns.len() > 1;
    _ = write!(
        text,
        "<h3>{}</h3>{}",
        escape(&capital(&table.metric.to_string())),
        tables::render_table(&text_table::main(table), false, mean)
    );
    text.push_str(&sweeps::render(plots, &capital(&table.metric.to_string())));
    if !table.contrasts.is_empty() {
        _ = write!(text, "<h3>Contrasts</h3>{}", tables::render_contrasts(table));
    }
    for part in detail_tables::render(table) {
        _ = write!(text, "<h3>{}</h3>{}", escape(&capital(&part.caption)), tables::render_table(&part, true, false));
    }
    text.push_str(&list(&table.notes));
    text
}

fn list(lines: &[String]) -> String {
    if lines.is_empty() {
        return String::new();
    }
    let mut text = String::from("<ul class=\"notes\">");
    for line in lines {
        _ = write!(text, "<li>{}</li>", code(&capital(line)));
    }
    text + "</ul>"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_plot_leaves_out_what_it_cannot_draw() {
        let line = |name: &str, points: &[(f64, f64)]| PlotLine { name: name.to_string(), points: points.to_vec() };
        let figure =
            line_plot("loss", &[line("a", &[(1.0, 2.0), (2.0, f64::NAN), (3.0, 1.0)]), line("b", &[(1.0, 1.0)])]);
        let figure = figure.unwrap();
        assert!(figure.contains("data-name=\"a\"") && !figure.contains("data-name=\"b\"") && !figure.contains("NaN"));
        assert_eq!(line_plot("loss", &[line("a", &[(1.0, f64::INFINITY), (2.0, 1.0)])]), None);
        let many: Vec<PlotLine> = (0..40).map(|number| line(&number.to_string(), &[(1.0, 2.0), (2.0, 1.0)])).collect();
        assert!(line_plot("loss", &many).unwrap().contains("the first 32 of 40 lines"));
    }
}
