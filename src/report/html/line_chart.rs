//! A line chart as SVG: plotters draws the axes, and the lines are elements with the classes of the page's style, so that
//! they follow its color scheme and a script can read their values.

use std::fmt::Write;
use std::ops::Range;

use plotters::coord::ranged1d::{DefaultFormatting, KeyPointHint};
use plotters::coord::types::RangedCoordf64;
use plotters::prelude::*;

use super::escape::escape;

const SIZE: (u32, u32) = (560, 280);
/// Placeholder colors. [`draw_axes`] replaces them by variables of the page's style, which has a light and a dark scheme.
const INK: RGBColor = RGBColor(1, 2, 3);
const GRID: RGBColor = RGBColor(1, 2, 4);
/// Number of colors in the page's palette, `--s0` to `--s7`.
const COLORS: usize = 8;
/// Number of dash patterns, classes `d0` to `d3`.
const DASHES: usize = 4;
/// Most lines of a chart: each has its own color and dash pattern.
pub(super) const MAX_LINES: usize = COLORS * DASHES;
/// With more lines of marked points, intervals are drawn as whiskers: areas would cover each other.
pub(super) const MAX_AREAS: usize = 4;

/// A line chart.
#[derive(Default)]
pub(super) struct LineChart<'a> {
    /// The text for screen readers.
    pub(super) name: String,
    /// What the x values are, for the readout.
    pub(super) x_name: &'a str,
    /// Positions and labels on the x axis. None: round numbers.
    pub(super) x_ticks: Option<Vec<(f64, String)>>,
    /// Whether the y values are shares, which are shown in percent.
    pub(super) percent: bool,
    /// At most [`MAX_LINES`].
    pub(super) lines: Vec<ChartLine>,
}

/// One line of a chart. Its index in the chart is its style.
#[derive(Clone, Debug, Default)]
pub(super) struct ChartLine {
    pub(super) label: String,
    pub(super) main: Vec<(f64, f64)>,
    /// Drawn thin, behind the main lines.
    pub(super) thin: Vec<(f64, f64)>,
    /// The interval of each x value: x, low, high.
    pub(super) intervals: Vec<(f64, f64, f64)>,
    /// Whether each point of `main` is marked and has a readout of its own.
    pub(super) marked: bool,
    /// A horizontal line over the whole width, at the first point of `main`.
    pub(super) level: bool,
}

/// The classes of a line's color and dash pattern.
pub(super) fn style(index: usize) -> String {
    format!("s{} d{}", index % COLORS, index / COLORS % DASHES)
}

/// The legend of a chart. None for a single line without a label.
pub(super) fn legend<'l>(labels: impl Iterator<Item = &'l str>) -> String {
    let mut items = String::new();
    for (index, label) in labels.enumerate() {
        _ = write!(
            items,
            "<li><svg class=\"key {}\" viewBox=\"0 0 26 6\" aria-hidden=\"true\"><path d=\"M0 3H26\"/></svg>{}</li>",
            style(index),
            escape(label)
        );
    }
    format!("<ul class=\"keys\">{items}</ul>")
}

impl LineChart<'_> {
    /// The SVG. None without a line of two points.
    pub(super) fn svg(&self) -> Option<String> {
        let drawn = |line: &&ChartLine| line.main.len() > 1;
        if !self.lines.iter().any(|line| drawn(&line)) {
            return None;
        }
        let points = || self.lines.iter().flat_map(|line| line.main.iter().chain(&line.thin));
        let positions =
            self.lines.iter().filter(|line| !line.level).flat_map(|line| line.main.iter().chain(&line.thin));
        let ends = self.lines.iter().flat_map(|line| &line.intervals).flat_map(|(_, low, high)| [*low, *high]);
        let x = bounds(positions.map(|point| point.0), 0.0)?;
        let y = bounds(points().map(|point| point.1).chain(ends), 0.05)?;
        // Room for the marks at both ends.
        let margin = if self.x_ticks.is_some() { 0.04 * (x.end - x.start) } else { 0.0 };
        let x = x.start - margin..x.end + margin;
        let place = self.draw_axes(x.clone(), y.clone())?;
        let map = format!(
            "{} {} {} {}",
            numbers(&[x.start, x.end]),
            numbers(&place.x),
            numbers(&[y.start, y.end]),
            numbers(&place.y)
        );
        let mut svg = place.axes.replacen(
            &format!("<svg width=\"{}\" height=\"{}\"", SIZE.0, SIZE.1),
            &format!(
                "<svg class=\"plot\" tabindex=\"0\" role=\"img\" aria-label=\"{}\" data-map=\"{map}\" data-x=\"{}\"{}",
                escape(&self.name),
                escape(self.x_name),
                if self.percent { " data-percent=\"\"" } else { "" }
            ),
            1,
        );
        svg.truncate(svg.rfind("</svg>")?);
        let to = |(px, py): (f64, f64)| {
            let at = |value: f64, range: &Range<f64>, pixels: [f64; 2]| {
                pixels[0] + (value - range.start) / (range.end - range.start) * (pixels[1] - pixels[0])
            };
            (at(px, &x, place.x), at(py, &y, place.y))
        };
        let path = |points: &[(f64, f64)]| -> String {
            let pairs = points.iter().map(|&point| to(point)).map(|(x, y)| format!("{x:.1},{y:.1}"));
            pairs.collect::<Vec<_>>().join(" ")
        };
        let has_area = |line: &ChartLine| line.intervals.len() > 1 && (!line.marked || self.lines.len() <= MAX_AREAS);
        for (index, line) in self.lines.iter().enumerate() {
            if has_area(line) {
                let low = line.intervals.iter().map(|one| (one.0, one.1));
                let high = line.intervals.iter().rev().map(|one| (one.0, one.2));
                let outline: Vec<(f64, f64)> = low.chain(high).collect();
                _ = write!(svg, "<polygon class=\"band {}\" points=\"{}\"/>", style(index), path(&outline));
            }
            if !line.thin.is_empty() {
                _ = write!(svg, "<polyline class=\"thin {}\" points=\"{}\"/>", style(index), path(&line.thin));
            }
        }
        for (index, line) in self.lines.iter().enumerate() {
            if !has_area(line) {
                for &(at, low, high) in &line.intervals {
                    let ((x, y0), (_, y1)) = (to((at, low)), to((at, high)));
                    _ = write!(svg, "<path class=\"whisker {}\" d=\"M{x:.1} {y0:.1}V{y1:.1}\"/>", style(index));
                }
            }
            let level =
                line.main.first().filter(|_| line.level).map(|point| vec![(x.start, point.1), (x.end, point.1)]);
            let shown = level.as_ref().unwrap_or(&line.main);
            let class = if line.level { "line level" } else { "line" };
            _ = write!(
                svg,
                "<polyline class=\"{class} {}\" data-name=\"{}\" points=\"{}\"/>",
                style(index),
                escape(&line.label),
                path(shown)
            );
            if line.marked && !line.level {
                for &point in &line.main {
                    let (x, y) = to(point);
                    _ = write!(svg, "<circle class=\"mark {}\" cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"3.5\"/>", style(index));
                }
            }
        }
        svg.push_str("</svg>");
        Some(svg)
    }

    /// The frame of the chart with its ticks, as SVG in the colors of the page, and the pixels of the plotting area.
    fn draw_axes(&self, x: Range<f64>, y: Range<f64>) -> Option<Place> {
        let given: Option<Vec<f64>> = self.x_ticks.as_ref().map(|ticks| ticks.iter().map(|tick| tick.0).collect());
        let ticks = given.unwrap_or_else(|| RangedCoordf64::from(x.clone()).key_points(6));
        let label = |at: &f64| match &self.x_ticks {
            Some(ticks) => ticks.iter().find(|tick| tick.0.total_cmp(at).is_eq()).map(|tick| tick.1.clone()),
            None => Some(tick(*at, x.end - x.start)),
        };
        let spread = y.end - y.start;
        let mut svg = String::new();
        let pixels;
        {
            let area = SVGBackend::with_string(&mut svg, SIZE).into_drawing_area();
            let mut chart = ChartBuilder::on(&area)
                .margin(6)
                .margin_right(14)
                .x_label_area_size(24)
                .y_label_area_size(52)
                .build_cartesian_2d(Ticks { range: x.clone(), ticks: ticks.clone() }, y.clone())
                .ok()?;
            let font = ("sans-serif", 12).into_font().color(&INK);
            chart
                .configure_mesh()
                .disable_x_mesh()
                .bold_line_style(GRID)
                .light_line_style(TRANSPARENT)
                .axis_style(GRID)
                .label_style(font)
                .x_labels(ticks.len().max(2))
                .y_labels(5)
                .x_label_formatter(&|at| label(at).unwrap_or_default())
                .y_label_formatter(&|at| {
                    if self.percent { tick(100.0 * at, 100.0 * spread) } else { tick(*at, spread) }
                })
                .draw()
                .ok()?;
            pixels = chart.plotting_area().get_pixel_range();
            area.present().ok()?;
        }
        let axes = svg.replace("#010203", "var(--muted)").replace("#010204", "var(--rule)");
        let (across, down) = pixels;
        let ends = |range: Range<i32>| [f64::from(range.start), f64::from(range.end)];
        let [top, bottom] = ends(down);
        Some(Place { axes, x: ends(across), y: [bottom, top] })
    }
}

/// The drawn axes.
struct Place {
    axes: String,
    /// Pixels of the smallest and the largest value.
    x: [f64; 2],
    y: [f64; 2],
}

/// An axis with given ticks.
struct Ticks {
    range: Range<f64>,
    ticks: Vec<f64>,
}

impl Ranged for Ticks {
    type FormatOption = DefaultFormatting;
    type ValueType = f64;

    fn map(&self, value: &f64, limit: (i32, i32)) -> i32 {
        RangedCoordf64::from(self.range.clone()).map(value, limit)
    }

    fn key_points<Hint: KeyPointHint>(&self, _: Hint) -> Vec<f64> {
        self.ticks.clone()
    }

    fn range(&self) -> Range<f64> {
        self.range.clone()
    }
}

/// The range of some values with a margin on both sides. A single value gets a range of 1. None without a value.
fn bounds(values: impl Iterator<Item = f64>, margin: f64) -> Option<Range<f64>> {
    let (low, high) = values.fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), one| (low.min(one), high.max(one)));
    if !low.is_finite() || !high.is_finite() {
        return None;
    }
    let margin = if high > low { margin * (high - low) } else { 0.5 };
    Some(low - margin..high + margin)
}

/// A number on an axis, with the digits that its spread needs.
pub(super) fn tick(value: f64, spread: f64) -> String {
    let text = match spread {
        spread if spread < 0.05 => format!("{value:.3}"),
        spread if spread < 5.0 => format!("{value:.2}"),
        _ => format!("{value:.0}"),
    };
    if text.trim_start_matches('-').chars().all(|c| c == '0' || c == '.') { text.replace('-', "") } else { text }
}

fn numbers(values: &[f64]) -> String {
    values.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn no_two_lines_of_a_chart_look_the_same() {
        let styles: BTreeSet<String> = (0..MAX_LINES).map(style).collect();
        assert_eq!(styles.len(), MAX_LINES);
    }

    #[test]
    fn values_can_be_read_back_from_the_chart() {
        let line = ChartLine { label: "<a>".into(), main: vec![(1.0, 2.0), (3.0, 6.0)], ..ChartLine::default() };
        let svg = LineChart { name: "loss".into(), lines: vec![line], ..LineChart::default() }.svg().unwrap();
        let map: Vec<f64> = svg
            .split("data-map=\"")
            .nth(1)
            .unwrap()
            .split('"')
            .next()
            .unwrap()
            .split(' ')
            .map(|n| n.parse().unwrap())
            .collect();
        let points = svg.split("class=\"line s0 d0\"").nth(1).unwrap().split("points=\"").nth(1).unwrap();
        let last = points.split('"').next().unwrap().rsplit(' ').next().unwrap();
        let (x, y) = last.split_once(',').unwrap();
        let value = |text: &str, map: &[f64]| {
            map[0] + (text.parse::<f64>().unwrap() - map[2]) / (map[3] - map[2]) * (map[1] - map[0])
        };
        assert!((value(x, &map[..4]) - 3.0).abs() < 0.01 && (value(y, &map[4..]) - 6.0).abs() < 0.02, "{svg}");
        assert!(svg.contains("data-name=\"&lt;a&gt;\"") && !svg.contains("#0102") && !svg.contains("style="), "{svg}");
    }

    #[test]
    fn a_chart_needs_a_line_of_two_points() {
        let chart = |main: Vec<(f64, f64)>| {
            LineChart { lines: vec![ChartLine { main, ..ChartLine::default() }], ..LineChart::default() }.svg()
        };
        assert!(chart(vec![]).is_none() && chart(vec![(1.0, 1.0)]).is_none());
        assert!(chart(vec![(1.0, 1.0), (2.0, 1.0)]).is_some());
    }
}
