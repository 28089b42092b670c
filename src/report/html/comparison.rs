//! The page of a comparison: what differs, the table, the changed answers, and all answers.

use std::fmt::Write;

use super::escape::{code, escape};
use super::{Section, sections};
use crate::answers::cells::label;
use crate::comparison::{Comparison, ParameterDifference};
use crate::text_table::thousands;

/// Values that are longer than this are folded.
const MAX_VALUE: usize = 300;

/// Most evaluations without a counterpart that are named.
const MAX_UNPAIRED: usize = 50;

/// The sections of the page, in order.
pub(super) fn page_sections(comparison: &Comparison, changes: &[String]) -> Vec<Section> {
    let own = |id: &str, title: &str, body: String| Section { id: id.into(), title: title.into(), body };
    let mut all = vec![
        own("changes", "What changed", change_list(changes)),
        own("parameters", "Parameters that differ", parameter_table(comparison)),
    ];
    all.extend(sections(&comparison.report));
    let place = all.iter().position(|section| section.id == "answers").unwrap_or(all.len());
    all.insert(place, own("flips", "Changed answers", changed_answers(comparison)));
    all.retain(|section| !section.body.is_empty());
    all
}

fn change_list(changes: &[String]) -> String {
    let lines = changes.iter().map(|line| format!("<li>{}</li>", code(line)));
    if changes.is_empty() { String::new() } else { format!("<ul class=\"notes\">{}</ul>", lines.collect::<String>()) }
}

fn parameter_table(comparison: &Comparison) -> String {
    if comparison.parameters.is_empty() {
        return String::new();
    }
    let mut text = format!(
        "<div class=\"scroll\" tabindex=\"0\" role=\"region\" aria-label=\"parameters that differ\"><table class=\"dense parameters\">\
         <thead><tr><th scope=\"col\">key</th><th scope=\"col\">{}</th><th scope=\"col\">{}</th></tr></thead><tbody>",
        escape(&comparison.first),
        escape(&comparison.second)
    );
    for ParameterDifference { stage, key, values } in &comparison.parameters {
        let name = key.as_ref().map_or_else(|| stage.clone(), |key| format!("{stage}.{key}"));
        _ = write!(text, "<tr><th scope=\"row\"><code>{}</code></th>", escape(&name));
        for values in values {
            _ = write!(text, "<td>{}</td>", parameter_values(values));
        }
        text.push_str("</tr>");
    }
    text + "</tbody></table></div>"
}

/// The values of one side, one per line.
fn parameter_values(values: &[String]) -> String {
    if values.is_empty() {
        return "<span class=\"muted\">absent</span>".to_string();
    }
    let lines = values.iter().map(|value| format!("<code>{}</code>", escape(value))).collect::<Vec<_>>().join("<br>");
    let length: usize = values.iter().map(|value| value.chars().count()).sum();
    if length <= MAX_VALUE {
        return lines;
    }
    format!("<details><summary>{} characters</summary>{lines}</details>", thousands(length as u64))
}

/// The number of changed answers per group, with links to them.
fn changed_answers(comparison: &Comparison) -> String {
    let Comparison { first, second, flips, identical, unpaired, report, .. } = comparison;
    let mut text = format!(
        "<p class=\"sub\">Right: a score of 0.5 or more. Gained: wrong with <code>{}</code>, right with <code>{}</code>. Over all seeds.</p>",
        escape(first),
        escape(second)
    );
    if flips.is_empty() {
        text =
            "<p class=\"sub\">Each side averages several evaluations per item, so single answers are not compared.</p>"
                .to_string();
    } else {
        text.push_str(
            "<div class=\"scroll\" tabindex=\"0\" role=\"region\" aria-label=\"changed answers\"><table class=\"dense sortable\"><thead><tr>\
             <th scope=\"col\">group</th><th scope=\"col\" class=\"num\">gained</th><th scope=\"col\" class=\"num\">lost</th>\
             <th scope=\"col\" class=\"num\">right on both sides</th><th scope=\"col\" class=\"num\">wrong on both</th></tr></thead><tbody>",
        );
    }
    for group in flips {
        let link = |flip: &str, count: usize| {
            if count == 0 || report.answers.is_none() {
                return thousands(count as u64);
            }
            let cell = |side: &str| format!("cell {}", label(side, &group.group));
            let mut query = form_urlencoded::Serializer::new(String::new());
            query.append_pair("cell", &cell(second)).append_pair("with", &cell(first)).append_pair("flip", flip);
            format!("<a href=\"#answers?{}\">{}</a>", escape(&query.finish()), thousands(count as u64))
        };
        _ = write!(text, "<tr><th scope=\"row\">{}</th>", escape(&group.group));
        let counts = group.counts;
        for cell in [
            link("gained", counts.gained),
            link("lost", counts.lost),
            thousands(counts.both_right as u64),
            thousands(counts.both_wrong as u64),
        ] {
            _ = write!(text, "<td class=\"num\">{cell}</td>");
        }
        text.push_str("</tr>");
    }
    if !flips.is_empty() {
        text.push_str("</tbody></table></div>");
    }
    if *identical > 0 {
        _ = write!(
            text,
            "<p class=\"legend\">Pairs of evaluations with the same result: {}.</p>",
            thousands(*identical as u64)
        );
    }
    for (side, names) in [first, second].into_iter().zip(unpaired).filter(|(_, names)| !names.is_empty()) {
        let listed = names.iter().take(MAX_UNPAIRED).map(|name| format!("<li><code>{}</code></li>", escape(name)));
        let more = names.len().saturating_sub(MAX_UNPAIRED);
        let more = if more > 0 { format!("<li>{} more</li>", thousands(more as u64)) } else { String::new() };
        _ = write!(
            text,
            "<details><summary>Not compared, only in <code>{}</code>: {}</summary><ul class=\"chips\">{}{more}</ul></details>",
            escape(side),
            thousands(names.len() as u64),
            listed.collect::<String>()
        );
    }
    text
}
