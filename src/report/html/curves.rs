//! Training curves as SVG. The seeds of a point are averaged.

use std::collections::BTreeMap;
use std::fmt::Write;

use super::escape::escape;
use super::line_chart::{self, ChartLine, LineChart};
use crate::input::Curve;
use crate::statistics::series::mean;
use ablate_data::records::CurveStep;

/// Most points of a line.
const MAX_POINTS: usize = 400;

/// The figures of all curves. Empty without a curve of two points.
pub(super) fn render(curves: &[Curve]) -> String {
    let mut stages: Vec<&str> = Vec::new();
    for curve in curves {
        if !stages.contains(&curve.stage.as_str()) {
            stages.push(&curve.stage);
        }
    }
    let mut figures = String::new();
    for stage in stages {
        let of_stage: Vec<&Curve> = curves.iter().filter(|curve| curve.stage == stage).collect();
        for (quantity, of) in QUANTITIES {
            figures.push_str(&render_quantity(stage, quantity, &by_point(stage, &of_stage), of));
        }
    }
    if figures.is_empty() {
        return figures;
    }
    format!(
        "<p class=\"sub\">Thick lines: moving average over a twentieth of the steps, by a straight line where the window ends \
         with the training. Thin lines: recorded values. Seeds of a point are averaged at each step, and the area goes from \
         their lowest to their highest value.</p><div class=\"plots\">{figures}</div>"
    )
}

type Quantity = fn(&CurveStep) -> Option<f64>;

const QUANTITIES: [(&str, Quantity); 3] = [
    ("loss", |point| Some(point.loss)),
    ("reward accuracy", |point| point.reward_accuracy),
    ("reward margin", |point| point.reward_margin),
];

/// The curves of each point without its seed, in order of appearance.
fn by_point<'c>(stage: &str, curves: &[&'c Curve]) -> Vec<(String, Vec<&'c Curve>)> {
    let mut points: Vec<(String, Vec<&Curve>)> = Vec::new();
    for curve in curves {
        let pairs = curve.point.iter().filter(|(axis, _)| *axis != "seed");
        let pairs: Vec<String> = pairs.map(|(axis, label)| format!("{axis}={label}")).collect();
        let name = if pairs.is_empty() { stage.to_string() } else { pairs.join(",") };
        match points.iter_mut().find(|(known, _)| *known == name) {
            Some((_, seeds)) => seeds.push(curve),
            None => points.push((name, vec![curve])),
        }
    }
    points
}

fn render_quantity(stage: &str, quantity: &str, points: &[(String, Vec<&Curve>)], of: Quantity) -> String {
    let lines: Vec<ChartLine> = points
        .iter()
        .map(|(label, seeds)| {
            let values =
                seeds.iter().map(|curve| curve.points.iter().filter_map(|point| Some((point.step, of(point)?))));
            average_seeds(label, values.map(Iterator::collect).collect())
        })
        .filter(|line| line.main.len() > 1)
        .collect();
    let parts = lines.len().div_ceil(line_chart::MAX_LINES);
    let mut figures = String::new();
    for (part, lines) in (1..).zip(lines.chunks(line_chart::MAX_LINES)) {
        let part = if parts > 1 { format!(", part {part} of {parts}") } else { String::new() };
        figures.push_str(&figure(&format!("{stage}: {quantity} by step{part}"), lines.to_vec()).unwrap_or_default());
    }
    figures
}

/// A figure with a legend. None without a line of two points.
pub(super) fn figure(title: &str, lines: Vec<ChartLine>) -> Option<String> {
    let chart = LineChart { name: title.to_string(), x_name: "step", lines, ..LineChart::default() };
    let svg = chart.svg()?;
    let legend = line_chart::legend(chart.lines.iter().map(|line| line.label.as_str()));
    let mut figure = String::new();
    _ = write!(figure, "<figure><figcaption><b>{}</b></figcaption>{svg}{legend}</figure>", escape(title));
    Some(figure)
}

/// The line of one point: the mean of the seeds that have a value at a step, and the range of several seeds.
fn average_seeds(label: &str, seeds: Vec<Vec<(u64, f64)>>) -> ChartLine {
    let several = seeds.iter().filter(|seed| !seed.is_empty()).count() > 1;
    let mut by_step: BTreeMap<u64, Vec<f64>> = BTreeMap::new();
    for (step, value) in seeds.into_iter().flatten().filter(|(_, value)| value.is_finite()) {
        by_step.entry(step).or_default().push(value);
    }
    let steps: Vec<(f64, Vec<f64>)> = by_step.into_iter().map(|(step, values)| (step as f64, values)).collect();
    let line = |of: &dyn Fn(&[f64]) -> f64| -> Vec<(f64, f64)> {
        downsample(&steps.iter().map(|(step, values)| (*step, of(values))).collect::<Vec<_>>())
    };
    let thin = line(&|values| mean(values.iter().copied()).unwrap_or_default());
    let mut intervals = Vec::new();
    if several {
        let low = moving_average(&line(&|values| values.iter().copied().fold(f64::INFINITY, f64::min)));
        let high = moving_average(&line(&|values| values.iter().copied().fold(f64::NEG_INFINITY, f64::max)));
        intervals = low.iter().zip(&high).map(|(low, high)| (low.0, low.1, high.1)).collect();
    }
    ChartLine { label: label.to_string(), main: moving_average(&thin), thin, intervals, ..ChartLine::default() }
}

/// The moving average over a twentieth of the line. Where the window ends with the line, it is the straight line of least
/// squares through the window: a mean would lag behind a rising or falling curve. In the middle of evenly spaced points
/// both are equal.
pub(super) fn moving_average(points: &[(f64, f64)]) -> Vec<(f64, f64)> {
    let half = points.len() / 40;
    let fit = |index: usize| {
        let window = &points[index.saturating_sub(half)..(index + half + 1).min(points.len())];
        let count = window.len() as f64;
        let (x, y) = window.iter().fold((0.0, 0.0), |sum, point| (sum.0 + point.0 / count, sum.1 + point.1 / count));
        let (products, squares) = window.iter().fold((0.0, 0.0), |sum, point| {
            (sum.0 + (point.0 - x) * (point.1 - y), sum.1 + (point.0 - x) * (point.0 - x))
        });
        let slope = if squares > 0.0 { products / squares } else { 0.0 };
        (points[index].0, y + slope * (points[index].0 - x))
    };
    (0..points.len()).map(fit).collect()
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::input::TimeSpan;

    fn curve(point: &[(&str, &str)], losses: &[f64]) -> Curve {
        let step = |(index, loss): (usize, &f64)| CurveStep {
            step: index as u64 + 1,
            loss: *loss,
            learning_rate: Some(1e-3),
            gradient_norm: None,
            tokens: None,
            reward_accuracy: None,
            reward_margin: None,
        };
        let point = point.iter().map(|(axis, label)| ((*axis).to_string(), (*label).to_string())).collect();
        Curve {
            instance: "sft".into(),
            stage: "sft".into(),
            point,
            points: losses.iter().enumerate().map(step).collect(),
            time: TimeSpan::default(),
        }
    }

    #[test]
    fn plots_use_the_colors_of_the_page() {
        let html = render(&[curve(&[], &[3.0, 2.0, 1.5, 1.4])]);
        assert_eq!(html.matches("<figure>").count(), 1);
        assert!(html.contains("class=\"line s0 d0\"") && html.contains("var(--muted)"), "{html}");
    }

    #[test]
    fn curves_without_two_points_have_no_plot() {
        assert!(render(&[curve(&[], &[])]).is_empty());
        assert!(render(&[curve(&[], &[1.0])]).is_empty());
        assert!(render(&[curve(&[], &[f64::NAN, f64::INFINITY, 1.0])]).is_empty());
        assert!(!render(&[curve(&[], &[1.0, 1.0])]).is_empty());
    }

    #[test]
    fn seeds_of_a_point_share_a_line() {
        let curves = [
            curve(&[("lr", "1"), ("seed", "0")], &[3.0, 2.0]),
            curve(&[("lr", "1"), ("seed", "1")], &[5.0, 4.0, 1.0]),
            curve(&[("lr", "2"), ("seed", "0")], &[2.0, 2.0]),
        ];
        let html = render(&curves);
        assert_eq!((html.matches("class=\"line ").count(), html.matches("class=\"band ").count()), (2, 1));
        assert!(html.contains("data-name=\"lr=1\"") && html.contains("data-name=\"lr=2\""), "{html}");
        let line = average_seeds("a", vec![vec![(1, 3.0), (2, 2.0)], vec![(1, 5.0), (2, 4.0), (3, 1.0)]]);
        assert_eq!(line.main, [(1.0, 4.0), (2.0, 3.0), (3.0, 1.0)]);
        assert_eq!(line.intervals, [(1.0, 3.0, 5.0), (2.0, 2.0, 4.0), (3.0, 1.0, 1.0)]);
    }

    #[test]
    fn more_lines_than_styles_are_several_plots() {
        let label = |index: usize| index.to_string();
        let labels: Vec<String> = (0..=line_chart::MAX_LINES).map(label).collect();
        let curves: Vec<Curve> = labels.iter().map(|label| curve(&[("lr", label)], &[2.0, 1.0])).collect();
        let html = render(&curves);
        assert_eq!(html.matches("<figure>").count(), 2);
        assert!(html.contains("part 2 of 2"), "{html}");
    }

    #[test]
    fn the_moving_average_neither_lags_nor_bends() {
        let straight: Vec<(f64, f64)> = (0..200).map(|i| (f64::from(i), f64::from(i))).collect();
        assert!(moving_average(&straight).iter().all(|(x, y)| (x - y).abs() < 1e-9));
        // A window of 5 points on either side: at the step itself 5 of 11 points are still high.
        let step: Vec<(f64, f64)> = (0..200).map(|i| (f64::from(i), if i < 100 { 2.0 } else { 1.0 })).collect();
        assert!((moving_average(&step)[100].1 - (5.0 * 2.0 + 6.0) / 11.0).abs() < 1e-12);
        // The last value averages its window, too: it is not the last recorded value.
        let noisy: Vec<(f64, f64)> = (0..400).map(|i| (f64::from(i), if i % 2 == 0 { 1.0 } else { -1.0 })).collect();
        assert!(moving_average(&noisy).iter().all(|(_, y)| y.abs() < 0.4));
    }
}
