//! A report as one self-contained page: no script, no request, light and dark, prints well. Computes nothing.

mod credits;
mod curves;
mod escape;
mod graph;
mod samples;
mod tables;

use std::fmt::Write;

use escape::{capital, code, escape};

use super::Report;
use super::grid;
use super::input::Curve;
use super::table::Table;

/// What the page may load, told to the browser: its own style and data URLs, nothing else.
const POLICY: &str =
    "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'";

/// The whole page.
pub(super) fn render(report: &Report) -> String {
    let page = Page::of(report);
    let mut text = format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta http-equiv=\"Content-Security-Policy\" content=\"{POLICY}\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n<meta name=\"color-scheme\" content=\"light dark\">\n\
         <title>{title}</title>\n<style>\n{}</style>\n</head>\n<body>\n<a class=\"skip\" href=\"#main\">to the results</a>\n\
         <header><h1>{title}</h1>",
        include_str!("page.css"),
        title = escape(&report.experiment),
    );
    if !report.about.is_empty() {
        _ = write!(text, "<p class=\"about\">{}</p>", escape(&report.about));
    }
    text.push_str("<nav aria-label=\"sections\"><ul>");
    for section in &page.0 {
        _ = write!(text, "<li><a href=\"#{}\">{}</a></li>", section.id, escape(&section.title));
    }
    text.push_str("</ul></nav></header>\n<main id=\"main\">\n");
    for section in &page.0 {
        _ = writeln!(
            text,
            "<section aria-labelledby=\"{0}\"><h2 id=\"{0}\">{1}</h2>{2}</section>",
            section.id,
            escape(&section.title),
            section.body
        );
    }
    text.push_str("</main>\n<footer>");
    if !report.provenance.is_empty() {
        text.push_str("<dl>");
        for (name, value) in &report.provenance {
            _ = write!(text, "<dt>{}</dt><dd>{}</dd>", escape(name), escape(value));
        }
        text.push_str("</dl>");
    }
    text.push_str("</footer>\n</body>\n</html>\n");
    text
}

struct Section {
    id: String,
    title: String,
    body: String,
}

struct Page(Vec<Section>);

impl Page {
    fn of(report: &Report) -> Page {
        let mut page = Page(Vec::new());
        for (number, table) in report.tables.iter().enumerate() {
            page.add(format!("table-{number}"), &table.title, table_body(table));
        }
        if !report.notes.is_empty() {
            page.add("notes".into(), "Notes", list(&report.notes));
        }
        page.add("curves".into(), "Training", curves_body(&report.curves));
        for (number, (title, groups)) in report.disagreements.iter().enumerate() {
            let name = if report.disagreements.len() > 1 { format!("Responses: {title}") } else { "Responses".into() };
            let intro = "<p class=\"sub\">Items on which two arms disagree, taken evenly from all of them.</p>";
            let groups = groups.iter().enumerate().map(|(index, group)| samples::render(group, index == 0));
            let body: String = groups.collect();
            page.add(
                format!("responses-{number}"),
                &name,
                if body.is_empty() { body } else { format!("{intro}{body}") },
            );
        }
        page.add("credits".into(), "Token credit", credits::render(&report.credits));
        let dag = graph::svg(&report.graph);
        if !dag.is_empty() {
            let about =
                "<p class=\"sub\">One box per stage, with the number of its instances; dashed: not all have run.</p>";
            let scroll = "<div class=\"scroll\" tabindex=\"0\" role=\"region\" aria-label=\"graph of the stages\">";
            page.add("pipeline".into(), "Pipeline", format!("{about}{scroll}{dag}</div>"));
        }
        if !report.costs.is_empty() {
            page.add("cost".into(), "Cost", tables::render_costs(&report.costs));
        }
        page
    }

    /// Adds a section unless it has nothing to show.
    fn add(&mut self, id: String, title: &str, body: String) {
        if !body.is_empty() {
            self.0.push(Section { id, title: title.to_string(), body });
        }
    }
}

fn table_body(table: &Table) -> String {
    let mut text =
        format!("<p class=\"sub\"><code>{}</code>, {}</p>", escape(&table.stage), escape(&grid::evidence(table)));
    let mean = table.columns.len() > 1;
    _ = write!(
        text,
        "<h3>{}</h3>{}",
        escape(&capital(table.metric.words())),
        tables::render_grid(&grid::main(table), false, mean)
    );
    if !table.contrasts.is_empty() {
        _ = write!(text, "<h3>Claims</h3>{}", tables::render_contrasts(table));
    }
    for grid in grid::details(table) {
        _ = write!(text, "<h3>{}</h3>{}", escape(&capital(&grid.caption)), tables::render_grid(&grid, true, false));
    }
    text.push_str(&list(&table.notes));
    text
}

fn curves_body(curves: &[Curve]) -> String {
    let mut stages: Vec<&str> = Vec::new();
    for curve in curves {
        if !stages.contains(&curve.stage.as_str()) {
            stages.push(&curve.stage);
        }
    }
    let mut text = String::new();
    for stage in stages {
        let mine: Vec<&Curve> = curves.iter().filter(|curve| curve.stage == stage).collect();
        let mut keys = String::new();
        for (index, curve) in mine.iter().enumerate() {
            let point = curve.instance.strip_prefix(stage).unwrap_or(&curve.instance).trim_start_matches('@');
            let name = if point.is_empty() { stage } else { point };
            _ = write!(keys, "<li class=\"k{}\">{}</li>", index % curves::COLORS, escape(name));
        }
        for (quantity, svg) in curves::plots(&mine) {
            _ = write!(
                text,
                "<figure><figcaption><b>{}</b> {quantity} by step</figcaption>{svg}<ul class=\"keys\">{keys}</ul></figure>",
                escape(stage)
            );
        }
    }
    if text.is_empty() {
        text
    } else {
        format!("<p class=\"sub\">Faint: as recorded. Strong: a running mean.</p><div class=\"plots\">{text}</div>")
    }
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
