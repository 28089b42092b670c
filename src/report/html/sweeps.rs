//! The scores of a table against the values of its axes: line charts, heat maps and ternary plots.

use std::fmt::Write;

use super::color_scale::{scale, step};
use super::escape::escape;
use super::line_chart::{self, ChartLine, LineChart};
use super::ternary;
use crate::sweeps::{HeatMap, LineSweep, Sweep};
use crate::table::Estimate;
use crate::text_table;

/// The plots of a table. Empty without one.
pub(super) fn render(sweeps: &[Sweep], metric: &str) -> String {
    let mut text = String::new();
    for sweep in sweeps {
        match sweep {
            Sweep::Line(line) => text.push_str(&render_line(line, metric)),
            Sweep::Heat(heat) => text.push_str(&render_heat_map(heat, metric)),
            Sweep::Ternary(one) => text.push_str(&ternary::render(one, metric)),
        }
    }
    if text.is_empty() { text } else { format!("<div class=\"plots\">{text}</div>") }
}

fn render_line(sweep: &LineSweep, metric: &str) -> String {
    let series = sweep.series.iter().map(|series| ChartLine {
        label: series.label.clone(),
        main: series.points.iter().map(|(at, estimate)| (*at, estimate.mean)).collect(),
        intervals: series.points.iter().map(|(at, one)| (*at, one.interval.low, one.interval.high)).collect(),
        marked: true,
        ..ChartLine::default()
    });
    let levels = sweep.levels.iter().map(|(label, estimate)| ChartLine {
        label: format!("{label} (no {})", sweep.axis),
        main: vec![(sweep.values.first().map_or(0.0, |value| value.0), estimate.mean)],
        level: true,
        ..ChartLine::default()
    });
    let mut lines: Vec<ChartLine> = series.chain(levels).collect();
    separate(&mut lines, sweep);
    let parts = lines.len().div_ceil(line_chart::MAX_LINES);
    let mut text = String::new();
    for (part, lines) in (1..).zip(lines.chunks(line_chart::MAX_LINES)) {
        let part = if parts > 1 { format!(", part {part} of {parts}") } else { String::new() };
        let name = format!("{metric} by {}{part}", sweep.axis);
        let chart = LineChart {
            name: name.clone(),
            x_name: &sweep.axis,
            x_ticks: Some(sweep.values.clone()),
            percent: true,
            lines: lines.to_vec(),
        };
        let Some(svg) = chart.svg() else { continue };
        let mut about = "95 % confidence intervals".to_string();
        if sweep.logarithmic {
            about += ", logarithmic axis";
        } else if !sweep.numeric {
            about += ", values in the order of the file";
        }
        _ = write!(
            text,
            "<figure><figcaption><b>{}</b> in percent, {about}</figcaption>{svg}{}</figure>",
            escape(&name),
            line_chart::legend(chart.lines.iter().map(|line| line.label.as_str()))
        );
    }
    text
}

/// Moves lines with whiskers apart by a little, so that these do not cover each other.
fn separate(lines: &mut [ChartLine], sweep: &LineSweep) {
    let gaps = sweep.values.windows(2).map(|pair| pair[1].0 - pair[0].0).filter(|gap| *gap > 0.0);
    let gap = gaps.fold(f64::INFINITY, f64::min);
    if lines.len() <= line_chart::MAX_AREAS || !gap.is_finite() {
        return;
    }
    let count = lines.len() as f64;
    for (line, index) in lines.iter_mut().zip(0..) {
        let shift = 0.3 * gap * ((f64::from(index) + 0.5) / count - 0.5);
        line.main.iter_mut().for_each(|point| point.0 += shift);
        line.intervals.iter_mut().for_each(|point| point.0 += shift);
    }
}

/// A table whose cells are colored by their score.
fn render_heat_map(heat: &HeatMap, metric: &str) -> String {
    let means = || heat.cells.iter().flatten().flatten().map(|estimate| estimate.mean);
    let (low, high) = (means().fold(f64::INFINITY, f64::min), means().fold(f64::NEG_INFINITY, f64::max));
    let mut text = format!(
        "<figure class=\"wide\"><figcaption><b>{} by {} and {}</b> {}, percent with 95 % confidence interval</figcaption>\
         <div class=\"scroll\" tabindex=\"0\" role=\"region\" aria-label=\"heat map of {}\"><table class=\"heat\"><thead><tr>\
         <th scope=\"col\">{} \\ {}</th>",
        escape(metric),
        escape(&heat.row_axis),
        escape(&heat.column_axis),
        escape(&heat.label),
        escape(&heat.label),
        escape(&heat.row_axis),
        escape(&heat.column_axis)
    );
    for column in &heat.columns {
        _ = write!(text, "<th scope=\"col\" class=\"num\">{}</th>", escape(column));
    }
    text.push_str("</tr></thead><tbody>");
    for (row, cells) in heat.rows.iter().zip(&heat.cells) {
        _ = write!(text, "<tr><th scope=\"row\">{}</th>", escape(row));
        for cell in cells {
            text.push_str(&heat_cell(cell.as_ref(), low, high));
        }
        text.push_str("</tr>");
    }
    text + "</tbody></table></div>" + &scale(low, high) + "</figure>"
}

fn heat_cell(cell: Option<&Estimate>, low: f64, high: f64) -> String {
    let Some(estimate) = cell else { return "<td class=\"num\">–</td>".to_string() };
    format!(
        "<td class=\"num cell h{}\"><b>{}</b><small>{}</small></td>",
        step(estimate.mean, low, high),
        text_table::percent(estimate.mean),
        escape(&text_table::interval(estimate))
    )
}
