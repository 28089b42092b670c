//! The color scale of heat maps and ternary plots.

use std::fmt::Write;

use crate::text_table;

/// Number of colors of a scale, classes `h0` to `h9`.
const STEPS: usize = 10;

/// The step of a value on the scale from `low` to `high`.
pub(super) fn step(value: f64, low: f64, high: f64) -> usize {
    if high > low {
        (((value - low) / (high - low) * STEPS as f64).max(0.0) as usize).min(STEPS - 1)
    } else {
        STEPS / 2
    }
}

/// The colors of the scale, with its ends.
pub(super) fn scale(low: f64, high: f64) -> String {
    let mut boxes = String::new();
    for step in 0..STEPS {
        _ = write!(boxes, "<rect class=\"h{step}\" x=\"{}\" width=\"18\" height=\"12\"/>", 18 * step);
    }
    format!(
        "<p class=\"scale\"><span>{}</span><svg viewBox=\"0 0 180 12\" width=\"180\" height=\"12\" aria-hidden=\"true\">{boxes}</svg><span>{}</span></p>",
        text_table::percent(low),
        text_table::percent(high)
    )
}
