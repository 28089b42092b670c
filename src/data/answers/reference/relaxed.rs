//! Relaxed accuracy of ChartQA as in pix2struct (`relaxed_correctness`, 2023).

use super::python::float;

/// A percent sign divides by 100. A gold answer of 0 is compared as text, because 0 is false in Python.
pub(super) fn correct(gold: &str, answer: &str) -> bool {
    match (number(gold), number(answer)) {
        (Some(gold), Some(answer)) if gold != 0.0 => (answer - gold).abs() / gold.abs() <= 0.05,
        _ => answer.to_lowercase() == gold.to_lowercase(),
    }
}

pub(super) fn number(text: &str) -> Option<f64> {
    if text.ends_with('%') { float(text.trim_end_matches('%')).map(|value| value / 100.0) } else { float(text) }
}
