//! Rotary position embeddings of `config.json`: `rope_parameters` of transformers 5, `rope_theta` and `rope_scaling` of
//! transformers 4. Follows `modeling_rope_utils.py` of transformers 5.24.

use serde_json::json;

use super::fields::Fields;
use crate::architecture::{Rope, RopeScaling};

/// What the four decoders of transformers start from.
const THETA: f64 = 10_000.0;

/// What the kinds of scaling take. transformers warns of one that stands beside another kind, and does not use it.
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

/// The positions of a decoder whose object this is. `max_positions` stands in for an original length left out.
pub(super) fn read(fields: &Fields, max_positions: usize) -> Rope {
    let outer_theta = theta(fields, THETA);
    fields.only("partial_rotary_factor", &json!(1.0));
    let (old, new) = (fields.inner("rope_scaling"), fields.inner("rope_parameters"));
    if old.is_some() && new.is_some() {
        fields.wrong("rope_scaling", "stands beside `rope_parameters`, which says the same in the newer form");
    }
    let (theta, scaling) = match new.or(old) {
        None => (outer_theta, RopeScaling::None),
        Some(inner) => {
            let theta = theta(&inner, outer_theta);
            inner.only("partial_rotary_factor", &json!(1.0));
            // The other fields of a kind that is not known have no meaning to us.
            let scaling = scaling(&inner, max_positions).inspect(|_| inner.finish_formula(&[], PARAMETERS));
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
        "linear" => RopeScaling::Linear { factor: inner.needed("factor") },
        // Stretches nothing up to `max_position_embeddings`, which is the longest sequence that we allow.
        "dynamic" => {
            inner.needed("factor");
            RopeScaling::None
        }
        "llama3" => {
            let before = inner.problems();
            let (low, high) = (inner.needed("low_freq_factor"), inner.needed("high_freq_factor"));
            if high <= low && inner.problems() == before {
                inner
                    .wrong("high_freq_factor", format!("must exceed `low_freq_factor` ({low}), which {high} does not"));
            }
            RopeScaling::Llama3 {
                factor: inner.needed("factor"),
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
    let factor = inner.positive_if_there("factor").unwrap_or(ratio);
    // A zero means "left out" here, as in Python's `or`.
    let number = |name: &'static str| match inner.value(name) {
        Some(value) if value.as_f64() == Some(0.0) => None,
        _ => inner.positive_if_there(name),
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
        attention_factor: inner.positive_if_there("attention_factor").unwrap_or(inferred),
        truncate: inner.flag("truncate", true),
    }
}
