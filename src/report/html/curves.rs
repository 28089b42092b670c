//! Training curves as SVG, in the colors of the page.

use plotters::prelude::*;

use crate::input::Curve;
use ablate_data::records::CurveStep;

/// One line of a plot.
struct Line {
    points: Vec<(f64, f64)>,
}

const SIZE: (u32, u32) = (520, 260);
/// Most points of a line.
const MAX_POINTS: usize = 400;
/// Placeholder colors. [`recolor`] replaces them by variables of the page's style, which has a light and a dark scheme.
const INK: RGBColor = RGBColor(1, 2, 3);
const GRID: RGBColor = RGBColor(1, 2, 4);
/// Number of colors in the page's palette, `--s0` to `--s5`.
pub(super) const COLORS: usize = 6;

/// The plots of one stage: name of the quantity and SVG. A quantity without two finite values has no plot.
pub(super) fn plots(curves: &[&Curve]) -> Vec<(String, String)> {
    let quantity = |name: &str, of: &dyn Fn(&CurveStep) -> Option<f64>| {
        let line = |curve: &&Curve| {
            let values = curve.points.iter().filter_map(|point| Some((point.step as f64, of(point)?)));
            Line { points: downsample(&values.filter(|(_, y)| y.is_finite()).collect::<Vec<_>>()) }
        };
        let lines: Vec<Line> = curves.iter().map(line).collect();
        plot(&lines).map(|svg| (name.to_string(), svg))
    };
    let all = [
        quantity("loss", &|point| Some(point.loss)),
        quantity("reward accuracy", &|point| point.reward_accuracy),
        quantity("reward margin", &|point| point.reward_margin),
    ];
    all.into_iter().flatten().collect()
}

/// Draws thin lines through the values and thick lines through their moving averages. None without a line of two
/// points.
fn plot(lines: &[Line]) -> Option<String> {
    let all = || lines.iter().flat_map(|line| &line.points);
    if !lines.iter().any(|line| line.points.len() > 1) {
        return None;
    }
    let range = |of: &dyn Fn(&(f64, f64)) -> f64| {
        let low = all().map(of).fold(f64::INFINITY, f64::min);
        let high = all().map(of).fold(f64::NEG_INFINITY, f64::max);
        let margin = if high > low { 0.04 * (high - low) } else { 0.5 };
        (low, high, margin)
    };
    let ((x0, x1, _), (y0, y1, margin)) = (range(&|point| point.0), range(&|point| point.1));
    let mut svg = String::new();
    {
        let area = SVGBackend::with_string(&mut svg, SIZE).into_drawing_area();
        let mut chart = ChartBuilder::on(&area)
            .margin(6)
            .x_label_area_size(30)
            .y_label_area_size(48)
            .build_cartesian_2d(x0..x1.max(x0 + 1.0), y0 - margin..y1 + margin)
            .ok()?;
        let font = ("sans-serif", 12).into_font().color(&INK);
        chart
            .configure_mesh()
            .disable_x_mesh()
            .bold_line_style(GRID)
            .light_line_style(TRANSPARENT)
            .axis_style(GRID)
            .label_style(font)
            .x_labels(6)
            .y_labels(5)
            .x_label_formatter(&|x| format!("{x:.0}"))
            .y_label_formatter(&|y| number(*y, y1 - y0))
            .draw()
            .ok()?;
        for (index, line) in lines.iter().enumerate() {
            let color = RGBColor(1, 3, (index % COLORS) as u8);
            let raw = LineSeries::new(line.points.iter().copied(), color.mix(0.28).stroke_width(1));
            chart.draw_series(raw).ok()?;
        }
        for (index, line) in lines.iter().enumerate() {
            let color = RGBColor(1, 3, (index % COLORS) as u8);
            chart.draw_series(LineSeries::new(moving_average(&line.points), color.stroke_width(2))).ok()?;
        }
        area.present().ok()?;
    }
    Some(recolor(&svg))
}

/// The centered moving average. The window is a twentieth of the line, and smaller near the ends.
fn moving_average(points: &[(f64, f64)]) -> Vec<(f64, f64)> {
    let average = |index: usize| {
        let half = (points.len() / 40).min(index).min(points.len() - 1 - index);
        let window = &points[index - half..=index + half];
        (points[index].0, window.iter().map(|point| point.1).sum::<f64>() / window.len() as f64)
    };
    (0..points.len()).map(average).collect()
}

/// At most [`MAX_POINTS`] points, each the mean of a group of neighbors.
fn downsample(points: &[(f64, f64)]) -> Vec<(f64, f64)> {
    let size = points.len().div_ceil(MAX_POINTS).max(1);
    let mean = |part: &[(f64, f64)]| {
        let (x, y) = part.iter().fold((0.0, 0.0), |sum, point| (sum.0 + point.0, sum.1 + point.1));
        (x / part.len() as f64, y / part.len() as f64)
    };
    points.chunks(size).map(mean).collect()
}

fn number(value: f64, spread: f64) -> String {
    match spread {
        spread if spread < 0.05 => format!("{value:.3}"),
        spread if spread < 5.0 => format!("{value:.2}"),
        _ => format!("{value:.0}"),
    }
}

/// Replaces the placeholder colors, and the fixed size by a class.
fn recolor(svg: &str) -> String {
    let mut text = svg.replace("#010203", "var(--muted)").replace("#010204", "var(--rule)");
    for index in 0..COLORS {
        text = text.replace(&format!("#01030{index}"), &format!("var(--s{index})"));
    }
    text.replacen(&format!("width=\"{}\" height=\"{}\"", SIZE.0, SIZE.1), "class=\"plot\"", 1)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::input::TimeSpan;

    fn curve(losses: &[f64]) -> Curve {
        let point = |(index, loss): (usize, &f64)| CurveStep {
            step: index as u64 + 1,
            loss: *loss,
            learning_rate: Some(1e-3),
            gradient_norm: None,
            tokens: None,
            reward_accuracy: None,
            reward_margin: None,
        };
        let points = losses.iter().enumerate().map(point).collect();
        Curve { instance: "sft".into(), stage: "sft".into(), point: BTreeMap::new(), points, time: TimeSpan::default() }
    }

    #[test]
    fn plots_use_the_colors_of_the_page() {
        let plots = plots(&[&curve(&[3.0, 2.0, 1.5, 1.4])]);
        assert_eq!(plots.len(), 1);
        let svg = &plots[0].1;
        assert!(svg.contains("stroke=\"var(--s0)\"") && svg.contains("var(--muted)"), "{svg}");
        assert!(!svg.contains("#01") && !svg.contains("width=\"520\""), "{svg}");
    }

    #[test]
    fn curves_without_two_points_have_no_plot() {
        assert!(plots(&[&curve(&[])]).is_empty());
        assert!(plots(&[&curve(&[1.0])]).is_empty());
        assert!(plots(&[&curve(&[f64::NAN, f64::INFINITY, 1.0])]).is_empty());
        assert_eq!(plots(&[&curve(&[1.0, 1.0])]).len(), 1);
    }

    #[test]
    fn the_moving_average_does_not_lag() {
        let straight: Vec<(f64, f64)> = (0..200).map(|i| (f64::from(i), f64::from(i))).collect();
        assert!(moving_average(&straight).iter().all(|(x, y)| (x - y).abs() < 1e-9));
        // A window of 5 points on either side: at the step itself 5 of 11 points are still high.
        let step: Vec<(f64, f64)> = (0..200).map(|i| (f64::from(i), if i < 100 { 2.0 } else { 1.0 })).collect();
        assert!((moving_average(&step)[100].1 - (5.0 * 2.0 + 6.0) / 11.0).abs() < 1e-12);
    }
}
