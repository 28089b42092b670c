//! Rotary position embeddings of `config.json`: `rope_parameters` of transformers 5, `rope_theta` and `rope_scaling` of
//! transformers 4. Follows `modeling_rope_utils.py` of transformers 5.24.

use serde_json::json;

use super::fields::Fields;
use crate::architecture::{Rope, RopeScaling};

/// The default of the four decoders of transformers.
const THETA: f64 = 10_000.0;

/// The parameters of all kinds of scaling. transformers warns about a parameter of another kind and ignores it.
const PARAMETERS: &[&str] = &[
    "attention_factor",
    "beta_fast",
    "beta_slow",
    "factor",
    "high_freq_factor",
    "long_factor",
    "low_freq_factor",
    "mscale",
    "mscale_all_dim",
    "original_max_position_embeddings",
    "short_factor",
    "truncate",
];

/// Reads the rotary embedding of a decoder. `max_positions` is the default of the original context length.
pub(super) fn read(fields: &Fields, max_positions: usize) -> Rope {
    let outer_theta = theta(fields, THETA);
    fields.only("partial_rotary_factor", &json!(1.0));
    let (old, new) = (fields.inner("rope_scaling"), fields.inner("rope_parameters"));
    if old.is_some() && new.is_some() {
        fields.wrong("rope_scaling", "must not be given together with `rope_parameters`, its newer form");
    }
    let (theta, scaling) = match new.or(old) {
        None => (outer_theta, RopeScaling::None),
        Some(inner) => {
            let theta = theta(&inner, outer_theta);
            inner.only("partial_rotary_factor", &json!(1.0));
            // If the kind is unknown, its other fields are not checked.
            let scaling = scaling(&inner, max_positions).inspect(|_| inner.finish_strict(&[], PARAMETERS));
            (theta, scaling.unwrap_or(RopeScaling::None))
        }
    };
    Rope { theta, scaling, rounded: true }
}

fn theta(fields: &Fields, default: f64) -> f64 {
    let theta = fields.positive("rope_theta", default);
    if theta <= 1.0 {
        fields.wrong("rope_theta", format!("must be a number above 1, not {theta}"));
    }
    theta
}

fn scaling(inner: &Fields, max_positions: usize) -> Option<RopeScaling> {
    let older = inner.text("type").unwrap_or("default");
    let original = || inner.size("original_max_position_embeddings", max_positions);
    let kinds = ["default", "linear", "dynamic", "llama3", "yarn"].map(|kind| (kind, kind));
    Some(match inner.choice("rope_type", older, &kinds)? {
        "linear" => RopeScaling::Linear { factor: inner.required("factor") },
        // It changes nothing up to `max_position_embeddings`, the longest sequence that is allowed.
        "dynamic" => {
            inner.required("factor");
            RopeScaling::None
        }
        "llama3" => {
            let before = inner.problems();
            let (low, high) = (inner.required("low_freq_factor"), inner.required("high_freq_factor"));
            if high <= low && inner.problems() == before {
                inner
                    .wrong("high_freq_factor", format!("must exceed `low_freq_factor` ({low}), which {high} does not"));
            }
            RopeScaling::Llama3 {
                factor: inner.required("factor"),
                low_frequency_factor: low,
                high_frequency_factor: high,
                original_positions: original(),
            }
        }
        "yarn" => yarn(inner, original(), max_positions),
        _ => RopeScaling::None,
    })
}

/// `_compute_yarn_parameters`.
fn yarn(inner: &Fields, original_positions: usize, max_positions: usize) -> RopeScaling {
    if !inner.has("factor") {
        inner.wrong("factor", "is missing");
    }
    let ratio = max_positions as f64 / original_positions as f64;
    let factor = inner.optional_positive("factor").unwrap_or(ratio);
    // Zero means absent, as in Python's `or`.
    let number = |name: &'static str| match inner.value(name) {
        Some(value) if value.as_f64() == Some(0.0) => None,
        _ => inner.optional_positive(name),
    };
    let scale = |weight: f64| if factor <= 1.0 { 1.0 } else { 0.1 * weight * factor.ln() + 1.0 };
    let inferred = match (number("mscale"), number("mscale_all_dim")) {
        (Some(numerator), Some(denominator)) => scale(numerator) / scale(denominator),
        _ => scale(1.0),
    };
    RopeScaling::Yarn {
        factor,
        beta_fast: number("beta_fast").unwrap_or(32.0),
        beta_slow: number("beta_slow").unwrap_or(1.0),
        original_positions,
        attention_factor: inner.optional_positive("attention_factor").unwrap_or(inferred),
        truncate: inner.flag("truncate", true),
    }
}
