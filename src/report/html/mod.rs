//! Renders a report as one self-contained HTML page, without scripts and without requests.

mod curves;
mod escape;
mod graph;
mod responses;
mod tables;
mod token_credit;

use std::fmt::Write;

use escape::{capital, code, escape};

use super::Report;
use super::detail_tables;
use super::input::Curve;
use super::table::Table;
use super::text_table;

/// The content security policy: the page can load its own style and data URLs only.
const POLICY: &str =
    "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'";

pub(super) fn render(report: &Report) -> String {
    let sections = sections(report);
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
    for section in &sections {
        _ = write!(text, "<li><a href=\"#{}\">{}</a></li>", section.id, escape(&section.title));
    }
    text.push_str("</ul></nav></header>\n<main id=\"main\">\n");
    for section in &sections {
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

/// The sections that are not empty.
fn sections(report: &Report) -> Vec<Section> {
    let mut sections = Vec::new();
    let mut add = |id: String, title: &str, body: String| {
        if !body.is_empty() {
            sections.push(Section { id, title: title.to_string(), body });
        }
    };
    for (number, table) in report.tables.iter().enumerate() {
        add(format!("table-{number}"), &table.title, table_body(table));
    }
    add("notes".into(), "Notes", list(&report.notes));
    add("curves".into(), "Training", curves_body(&report.curves));
    for (number, (title, groups)) in report.disagreements.iter().enumerate() {
        let name = if report.disagreements.len() > 1 { format!("Responses: {title}") } else { "Responses".into() };
        let groups = groups.iter().enumerate().map(|(index, group)| responses::render(group, index == 0));
        let about = "<p class=\"sub\">An evenly spaced sample of the items on which two cells disagree.</p>";
        add(format!("responses-{number}"), &name, format!("{about}{}", groups.collect::<String>()));
    }
    add("credits".into(), "Token credit", token_credit::render(&report.credits));
    let graph = graph::svg(&report.graph);
    if !graph.is_empty() {
        let about =
            "<p class=\"sub\">One box per stage with its number of instances. Dashed: some instances have not run.</p>";
        let scroll = "<div class=\"scroll\" tabindex=\"0\" role=\"region\" aria-label=\"graph of the stages\">";
        add("pipeline".into(), "Pipeline", format!("{about}{scroll}{graph}</div>"));
    }
    if !report.costs.is_empty() {
        add("cost".into(), "Cost", tables::render_costs(&report.costs));
    }
    sections
}

fn table_body(table: &Table) -> String {
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
    if !table.contrasts.is_empty() {
        _ = write!(text, "<h3>Contrasts</h3>{}", tables::render_contrasts(table));
    }
    for part in detail_tables::render(table) {
        _ = write!(text, "<h3>{}</h3>{}", escape(&capital(&part.caption)), tables::render_table(&part, true, false));
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
        let of_stage: Vec<&Curve> = curves.iter().filter(|curve| curve.stage == stage).collect();
        let mut keys = String::new();
        for (index, curve) in of_stage.iter().enumerate() {
            let pairs: Vec<String> = curve.point.iter().map(|(axis, label)| format!("{axis}={label}")).collect();
            let name = if pairs.is_empty() { stage.to_string() } else { pairs.join(",") };
            _ = write!(keys, "<li class=\"k{}\">{}</li>", index % curves::COLORS, escape(&name));
        }
        for (quantity, svg) in curves::plots(&of_stage) {
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
        format!(
            "<p class=\"sub\">Thin lines: recorded values. Thick lines: moving average.</p><div class=\"plots\">{text}</div>"
        )
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
