//! Tables, contrasts and costs as HTML.

use std::fmt::Write;

use super::escape::{capital, code, escape};
use crate::input::Cost;
use crate::table::{ContrastResult, Difference, Table, Verdict};
use crate::text_table::{self, TextColumn, TextTable, Trend};

/// Longest heading of a column that stays on one line, in characters.
const MAX_UNBROKEN: usize = 16;

/// A table that scrolls sideways if it does not fit. `mean` separates the last column from the others.
pub(super) fn render_table(table: &TextTable, dense: bool, mean: bool) -> String {
    let last = |column: usize| if mean && column + 1 == table.columns.len() { " last" } else { "" };
    let mut text = format!(
        "<div class=\"scroll\" tabindex=\"0\" role=\"region\" aria-label=\"{}\"><table class=\"{}\"><thead><tr><th scope=\"col\">{}</th>",
        escape(&table.caption),
        if dense { "sortable dense" } else { "sortable" },
        escape(&table.corner)
    );
    for (column, TextColumn { label, items }) in table.columns.iter().enumerate() {
        let items = items.map(|items| format!("<small>n {}</small>", text_table::thousands(items as u64)));
        let heading = escape(label) + &items.unwrap_or_default();
        let short = if label.chars().count() <= MAX_UNBROKEN { " short" } else { "" };
        _ = write!(text, "<th scope=\"col\" class=\"num{short}{}\">{heading}</th>", last(column));
    }
    text.push_str("</tr></thead><tbody>");
    for row in &table.rows {
        _ = write!(text, "<tr><th scope=\"row\">{}</th>", escape(&row.label));
        for (column, cell) in row.cells.iter().enumerate() {
            let trend = match cell.trend {
                Trend::Up => " class=\"up\"",
                Trend::Down => " class=\"down\"",
                Trend::None => "",
            };
            _ = write!(text, "<td class=\"num cell{}\"><b>{}</b>", last(column), escape(&cell.mean));
            if !cell.difference.is_empty() {
                _ = write!(text, "<i{trend}>{}</i>", escape(&cell.difference));
            }
            for small in [&cell.interval, &cell.published].into_iter().filter(|small| !small.is_empty()) {
                _ = write!(text, "<small>{}</small>", escape(small));
            }
            text.push_str("</td>");
        }
        text.push_str("</tr>");
    }
    text.push_str("</tbody></table></div>");
    for line in &table.legend {
        _ = write!(text, "<p class=\"legend\">{}</p>", code(&sentence(line)));
    }
    text
}

/// The contrasts, with their confidence intervals as a forest plot.
pub(super) fn render_contrasts(table: &Table) -> String {
    let differences = || table.contrasts.iter().filter_map(|contrast| contrast.difference.as_ref());
    let ends = differences().flat_map(|one| [one.estimate.interval.low.abs(), one.estimate.interval.high.abs()]);
    let scale = nice_end(ends.fold(0.0, f64::max));
    let mut text = String::from(
        "<div class=\"scroll\" tabindex=\"0\" role=\"region\" aria-label=\"contrasts\"><table class=\"contrasts sortable\"><thead><tr>\
         <th scope=\"col\">contrast</th><th scope=\"col\" class=\"num\">points</th><th scope=\"col\">95 % confidence interval</th>\
         <th scope=\"col\" class=\"num\">p</th><th scope=\"col\" class=\"num\">gained / lost</th>\
         <th scope=\"col\">verdict</th></tr></thead><tbody>",
    );
    for contrast in &table.contrasts {
        text.push_str(&render_contrast(contrast, scale));
    }
    text.push_str("</tbody>");
    if differences().next().is_some() {
        _ = write!(
            text,
            "<tfoot class=\"axis\"><tr><td colspan=\"2\"></td><td>{}</td><td colspan=\"3\"></td></tr></tfoot>",
            forest_axis(scale)
        );
    }
    text.push_str("</table></div>");
    let Some(correction) = text_table::contrast_correction(&table.contrasts) else { return text };
    let mut methods: Vec<String> = differences().map(|one| one.test.method.to_string()).collect();
    methods.dedup();
    _ = write!(
        text,
        "<p class=\"legend\">Points: mean of the <code>plus</code> cells minus mean of the <code>minus</code> cells, in \
         percentage points, on shared items and seeds. p: two-sided, {}; {correction}. Gained and lost: pairs of item and seed \
         with a positive and a negative difference.</p>",
        escape(&methods.join(", "))
    );
    text
}

fn render_contrast(contrast: &ContrastResult, scale: f64) -> String {
    let class = match contrast.verdict {
        Verdict::Shown => " class=\"up\"",
        Verdict::OppositeShown => " class=\"down\"",
        Verdict::BelowMargin | Verdict::NotShown | Verdict::NotMeasured => "",
    };
    let mut text = format!("<tr><th scope=\"row\">{}", escape(&contrast.name));
    if !contrast.about.is_empty() {
        _ = write!(text, "<small>{}</small>", escape(&contrast.about));
    }
    text.push_str("</th>");
    match &contrast.difference {
        Some(difference) => {
            let test = &difference.test;
            _ = write!(
                text,
                "<td class=\"num cell\"><b>{}</b><small>{}</small></td><td{class}>{}</td><td class=\"num\">{}</td>\
                 <td class=\"num\">{} / {}</td>",
                escape(&text_table::percentage_points(difference.estimate.mean)),
                escape(&text_table::interval(&difference.estimate)),
                forest_plot(difference, scale),
                escape(&text_table::p_value(difference.p_holm)),
                text_table::thousands(test.gained as u64),
                text_table::thousands(test.lost as u64),
            );
        }
        None => text
            .push_str("<td class=\"num cell\"><b>–</b></td><td></td><td class=\"num\">–</td><td class=\"num\">–</td>"),
    }
    let (verdict, reason) = (capital(&contrast.words.to_string()), code(&contrast.reason));
    _ = write!(text, "<td class=\"verdict\"><strong{class}>{verdict}</strong>{reason}</td></tr>");
    text
}

/// The smallest of 1, 2, 2.5 and 5 times a power of ten that is not below a value.
fn nice_end(value: f64) -> f64 {
    let power = 10f64.powf(value.max(1e-3).log10().floor());
    [1.0, 2.0, 2.5, 5.0].into_iter().map(|factor| factor * power).find(|end| *end >= value).unwrap_or(10.0 * power)
}

/// The axis of the forest plots, in percentage points.
fn forest_axis(scale: f64) -> String {
    let mut text = String::from(
        "<svg class=\"forest\" viewBox=\"0 0 200 28\" role=\"img\" aria-label=\"scale in percentage points\">",
    );
    for (x, share) in [(4.0, -1.0), (52.0, -0.5), (100.0, 0.0), (148.0, 0.5), (196.0, 1.0)] {
        let value = 100.0 * scale * share;
        let label = if scale < 0.02 { format!("{value:+.2}") } else { format!("{value:+}") };
        let label = if share == 0.0 { "0".to_string() } else { label.replace('-', "−") };
        _ = write!(
            text,
            "<path class=\"zero\" d=\"M{x} 0v6\"/><text x=\"{x}\" y=\"20\" text-anchor=\"middle\">{label}</text>"
        );
    }
    text + "</svg>"
}

/// The confidence interval as a line with a dot at the mean. Zero is in the middle.
fn forest_plot(difference: &Difference, scale: f64) -> String {
    let x = |value: f64| 100.0 + 96.0 * (value / scale).clamp(-1.0, 1.0);
    let (low, high) = (difference.estimate.interval.low, difference.estimate.interval.high);
    format!(
        "<svg class=\"forest\" viewBox=\"0 0 200 28\" aria-hidden=\"true\">\
         <path class=\"half\" d=\"M4 -10V38M52 -10V38M148 -10V38M196 -10V38\"/><line class=\"zero\" x1=\"100\" x2=\"100\" y1=\"-10\" y2=\"38\"/>\
         <line class=\"range\" x1=\"{:.1}\" x2=\"{:.1}\" y1=\"14\" y2=\"14\"/><circle cx=\"{:.1}\" cy=\"14\" r=\"4.5\"/></svg>",
        x(low),
        x(high),
        x(difference.estimate.mean)
    )
}

/// The cost of each stage, and how much work the store saved.
pub(super) fn render_costs(costs: &[Cost]) -> String {
    let mut stages: Vec<(&str, &str)> = Vec::new();
    for cost in costs {
        if !stages.iter().any(|(stage, _)| *stage == cost.stage) {
            stages.push((&cost.stage, &cost.kind));
        }
    }
    let mut text = String::from(
        "<div class=\"scroll\" tabindex=\"0\" role=\"region\" aria-label=\"cost\"><table class=\"dense sortable\"><thead><tr><th scope=\"col\">stage</th>\
         <th scope=\"col\">kind</th><th scope=\"col\" class=\"num\">instances</th><th scope=\"col\" class=\"num\">reused</th>\
         <th scope=\"col\" class=\"num\">seconds</th><th scope=\"col\" class=\"num\">tokens</th>\
         <th scope=\"col\" class=\"num\">FLOP</th><th scope=\"col\">device</th></tr></thead><tbody>",
    );
    for (stage, kind) in stages {
        let of_stage: Vec<&Cost> = costs.iter().filter(|cost| cost.stage == stage).collect();
        text.push_str(&cost_row(stage, kind, &of_stage));
    }
    text.push_str("</tbody><tfoot>");
    text.push_str(&cost_row("total", "", &costs.iter().collect::<Vec<_>>()));
    text.push_str("</tfoot></table></div>");
    let reused: Vec<&Cost> = costs.iter().filter(|cost| cost.reused).collect();
    if !reused.is_empty() {
        let saved: f64 = reused.iter().map(|cost| cost.seconds).sum();
        _ = write!(
            text,
            "<p class=\"legend\">{} of {} instances were reused from the store: {} of {} saved.</p>",
            reused.len(),
            costs.len(),
            duration(saved),
            duration(costs.iter().map(|cost| cost.seconds).sum())
        );
    }
    text
}

fn cost_row(stage: &str, kind: &str, costs: &[&Cost]) -> String {
    let tokens = costs.iter().filter_map(|cost| cost.tokens).reduce(u64::saturating_add);
    let flops = costs.iter().filter_map(|cost| cost.flops).reduce(|a, b| a + b);
    let mut devices: Vec<&str> = costs.iter().filter_map(|cost| cost.device.as_deref()).collect();
    devices.sort_unstable();
    devices.dedup();
    let reused = costs.iter().filter(|cost| cost.reused).count();
    let number = |text: String| format!("<td class=\"num\">{text}</td>");
    let seconds: f64 = costs.iter().map(|cost| cost.seconds).sum();
    format!(
        "<tr><th scope=\"row\">{}</th><td>{}</td>{}{}{}{}{}<td>{}</td></tr>",
        escape(stage),
        escape(kind),
        number(costs.len().to_string()),
        number(if reused == 0 { "–".to_string() } else { reused.to_string() }),
        number(format!("{seconds:.1}")),
        number(tokens.map_or_else(|| "–".to_string(), text_table::thousands)),
        number(flops.map_or_else(|| "–".to_string(), power_of_ten)),
        escape(&devices.join(", "))
    )
}

fn power_of_ten(value: f64) -> String {
    if !value.is_finite() || value <= 0.0 {
        return "–".to_string();
    }
    let exponent = value.log10().floor() as i32;
    format!("{:.1}·10<sup>{exponent}</sup>", value / 10f64.powi(exponent))
}

/// A duration with its two largest units.
pub fn duration(seconds: f64) -> String {
    let whole = seconds.max(0.0).round() as u64;
    match whole {
        0..60 => format!("{seconds:.1} s"),
        60..3600 => format!("{} min {} s", whole / 60, whole % 60),
        _ => format!("{} h {} min", whole / 3600, whole % 3600 / 60),
    }
}

fn sentence(text: &str) -> String {
    format!("{}{}", capital(text), if text.ends_with('.') { "" } else { "." })
}
