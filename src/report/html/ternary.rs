//! Ternary plots: the scores of mixes of three sources, over the surface that is fitted to them.

use std::fmt::Write;

use super::color_scale::{scale, step};
use super::escape::{capital, escape};
use crate::mixture::MixtureFit;
use crate::sweeps::Ternary;
use crate::text_table::percent;

/// Number of triangles along a side of the surface.
const CELLS: usize = 24;
/// The corners of the triangle in the SVG: the first source at the top, then left and right.
const CORNERS: [(f64, f64); 3] = [(260.0, 44.0), (60.0, 390.0), (460.0, 390.0)];
const VIEW: &str = "0 0 520 440";

pub(super) fn render(plot: &Ternary, metric: &str) -> String {
    let measured = plot.points.iter().map(|(_, point)| point.mean);
    let mut triangles = Vec::new();
    if let Some(fit) = &plot.fit {
        triangles = surface(fit);
    }
    let values = || measured.clone().chain(triangles.iter().map(|(_, mean)| *mean));
    let (low, high) = (values().fold(f64::INFINITY, f64::min), values().fold(f64::NEG_INFINITY, f64::max));
    let name = format!("{metric} by {}: {}", plot.axis, plot.label);
    let mut text = format!(
        "<figure><figcaption><b>{}</b> {}</figcaption><svg class=\"ternary\" viewBox=\"{VIEW}\" role=\"img\" aria-label=\"{}\">",
        escape(&name),
        escape(&about(plot)),
        escape(&name)
    );
    for (corners, mean) in &triangles {
        let points: Vec<String> = corners.iter().map(|&(x, y)| format!("{x:.1},{y:.1}")).collect();
        _ = write!(text, "<polygon class=\"h{}\" points=\"{}\"/>", step(*mean, low, high), points.join(" "));
    }
    text.push_str(&grid());
    for (corner, part) in plot.parts.iter().enumerate().take(3) {
        let (x, y) = CORNERS[corner];
        let y = if corner == 0 { y - 30.0 } else { y + 40.0 };
        _ = write!(text, "<text class=\"part\" x=\"{x}\" y=\"{y}\" text-anchor=\"middle\">{}</text>", escape(part));
    }
    for (label, point) in &plot.points {
        let (x, y) = place(&point.shares);
        _ = write!(
            text,
            "<g class=\"mix\"><title>{}: {} (measured)</title><circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"5\"/>\
             <text x=\"{x:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{}</text></g>",
            escape(label),
            percent(point.mean),
            y - 9.0,
            percent(point.mean)
        );
    }
    if let Some(fit) = &plot.fit {
        let best = fit.best();
        let (x, y) = place(&best.shares);
        _ = write!(
            text,
            "<g class=\"best\"><title>best mix of the fitted surface: {}</title><path d=\"M{:.1} {:.1}h14m-7 -7v14\"/></g>",
            percent(best.mean),
            x - 7.0,
            y
        );
    }
    text + "</svg>" + &scale(low, high) + "</figure>"
}

/// What the plot shows, with the best mix of the surface.
fn about(plot: &Ternary) -> String {
    let count = plot.points.len();
    let Some(fit) = &plot.fit else {
        return format!("in percent; {count} measured mixes, which do not determine a surface");
    };
    let best = fit.best();
    let shares = plot.parts.iter().zip(&best.shares);
    let shares: Vec<String> = shares.map(|(part, share)| format!("{part} {:.0} %", 100.0 * share)).collect();
    let mut text = format!(
        "in percent; circles: {count} measured mixes; colors: {} surface, leave-one-out error {:.1} points; cross: its best mix, \
         {}: {} ± {:.1}",
        if fit.quadratic { "quadratic" } else { "linear" },
        100.0 * fit.leave_one_out.rmse,
        shares.join(", "),
        percent(best.mean),
        100.0 * best.standard_error
    );
    if fit.leave_one_out.r2.is_none_or(|r2| r2 <= 0.0) {
        text +=
            &format!(". {}", capital("the surface predicts no better than the mean of all mixes: do not rely on it"));
    }
    text
}

/// The place of a mix in the SVG.
fn place(shares: &[f64]) -> (f64, f64) {
    let sum = |of: fn(&(f64, f64)) -> f64| CORNERS.iter().zip(shares).map(|(corner, share)| of(corner) * share).sum();
    (sum(|corner| corner.0), sum(|corner| corner.1))
}

/// The triangles of the surface with the predicted score at their centers.
fn surface(fit: &MixtureFit) -> Vec<([(f64, f64); 3], f64)> {
    let mut triangles = Vec::new();
    let mut add = |corners: [[usize; 2]; 3]| {
        let shares = corners.map(|[a, b]| {
            let share = |part: usize| part as f64 / CELLS as f64;
            [share(a), share(b), share(CELLS - a - b)]
        });
        let center = |part: usize| shares.iter().map(|one| one[part]).sum::<f64>() / 3.0;
        triangles.push((shares.map(|one| place(&one)), fit.predict(&[center(0), center(1), center(2)]).mean));
    };
    for a in 0..CELLS {
        for b in 0..CELLS - a {
            add([[a, b], [a + 1, b], [a, b + 1]]);
            if a + b + 2 <= CELLS {
                add([[a + 1, b], [a, b + 1], [a + 1, b + 1]]);
            }
        }
    }
    triangles
}

/// Lines at every fourth of each share, with their percentages.
fn grid() -> String {
    let mut text = String::new();
    for part in 0..3 {
        let (next, last) = ((part + 1) % 3, (part + 2) % 3);
        for quarter in 0..4 {
            let share = f64::from(quarter) / 4.0;
            let end = |other: usize| {
                let mut shares = [0.0; 3];
                (shares[part], shares[other]) = (share, 1.0 - share);
                place(&shares)
            };
            let ((x0, y0), (x1, y1)) = (end(next), end(last));
            let class = if quarter == 0 { "side" } else { "grid" };
            _ = write!(text, "<path class=\"{class}\" d=\"M{x0:.1} {y0:.1}L{x1:.1} {y1:.1}\"/>");
            if quarter > 0 {
                let (dx, dy, anchor) = [(-8.0, 4.0, "end"), (0.0, 18.0, "middle"), (8.0, 4.0, "start")][part];
                _ = write!(
                    text,
                    "<text class=\"tick\" x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"{anchor}\">{:.0}</text>",
                    x0 + dx,
                    y0 + dy,
                    100.0 * share
                );
            }
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mixture::{self, MixturePoint};
    use crate::tests::support::MIXES;

    #[test]
    fn the_surface_covers_the_triangle() {
        let point = |shares: [f64; 3]| MixturePoint { shares: shares.to_vec(), mean: shares[0], standard_error: 0.01 };
        let fit = mixture::fit(&MIXES.map(point)).unwrap();
        let triangles = surface(&fit);
        assert_eq!(triangles.len(), CELLS * CELLS);
        // The score is the share of the first source, so each triangle has the color of its height.
        for (corners, mean) in &triangles {
            let y = corners.iter().map(|corner| corner.1).sum::<f64>() / 3.0;
            let share = (CORNERS[1].1 - y) / (CORNERS[1].1 - CORNERS[0].1);
            assert!((mean - share).abs() < 1e-3, "{mean} {share}");
        }
    }

    #[test]
    fn sources_stand_at_the_corners() {
        assert_eq!(place(&[1.0, 0.0, 0.0]), CORNERS[0]);
        assert_eq!(place(&[0.0, 1.0, 0.0]), CORNERS[1]);
        assert!((place(&[0.0, 0.5, 0.5]).0 - CORNERS[0].0).abs() < 1e-9);
    }
}
