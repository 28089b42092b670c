//! Rotary position embeddings of `config.json`: `rope_parameters` of transformers 5, `rope_theta` and `rope_scaling` of
//! transformers 4. Follows `modeling_rope_utils.py` of transformers 5.24.

use serde_json::{Value, json};

use super::fields::Fields;
use crate::architecture::{Rope, RopeScaling};

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

/// How the frequencies of a multimodal rotary embedding count time, height and width.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Multimodal {
    /// They all count the number of the token.
    No,
    /// In sections one after the other (Qwen2-VL).
    Sections,
    /// In turns, as often as the sections have frequencies (Qwen3-VL).
    Interleaved,
}

/// Reads the rotary embedding of a decoder. `max_positions` is the default of the original context length, `default_theta` that of the
/// base.
pub(super) fn read(fields: &Fields, max_positions: usize, default_theta: f64, multimodal: Multimodal) -> Rope {
    let outer_theta = theta(fields, default_theta);
    let (old, new) = old_and_new(fields);
    let (theta, scaling, sections) = match new.or(old) {
        None => (outer_theta, RopeScaling::None, default_sections(multimodal)),
        Some(inner) => {
            let theta = theta(&inner, outer_theta);
            inner.only("partial_rotary_factor", &json!(1.0));
            // If the kind is unknown, its other fields are not checked.
            let sections = sections(&inner, multimodal).unwrap_or_else(|| default_sections(multimodal));
            let scaling = scaling(&inner, max_positions, multimodal).inspect(|_| inner.finish_strict(&[], PARAMETERS));
            (theta, scaling.unwrap_or(RopeScaling::None), sections)
        }
    };
    Rope { theta, scaling, rounded: true, sections }
}

/// `rope_scaling` and `rope_parameters`, of which at most one may be given.
fn old_and_new<'a>(fields: &Fields<'a>) -> (Option<Fields<'a>>, Option<Fields<'a>>) {
    fields.only("partial_rotary_factor", &json!(1.0));
    let (old, new) = (fields.inner("rope_scaling"), fields.inner("rope_parameters"));
    if old.is_some() && new.is_some() {
        fields.wrong("rope_scaling", "must not be given together with `rope_parameters`, its newer form");
    }
    (old, new)
}

/// The types of layers in Gemma 3's `rope_parameters`.
const GLOBAL: &str = "full_attention";
const LOCAL: &str = "sliding_attention";

/// Reads the rotary embedding of Gemma 3's layers without a window: `rope_theta` and `rope_scaling` of transformers 4, or an entry of
/// `rope_parameters`.
pub(super) fn read_global(fields: &Fields, max_positions: usize, default_theta: f64) -> Rope {
    let outer = theta(fields, default_theta);
    let (old, new) = old_and_new(fields);
    if let Some(new) = &new {
        new.skip(GLOBAL);
        new.skip(LOCAL);
        new.finish_strict(&[], &[]);
    }
    of_layers(new.as_ref().map_or(old, |new| new.inner(GLOBAL)), outer, max_positions)
}

/// Reads the rotary embedding of Gemma 3's layers with a window, after [`read_global`].
pub(super) fn read_local(fields: &Fields, max_positions: usize, default_theta: f64) -> Rope {
    let outer = theta_of(fields, "rope_local_base_freq", default_theta);
    of_layers(fields.inner("rope_parameters").and_then(|new| new.inner(LOCAL)), outer, max_positions)
}

fn of_layers(inner: Option<Fields>, outer_theta: f64, max_positions: usize) -> Rope {
    let (theta, scaling) = match inner {
        None => (outer_theta, RopeScaling::None),
        Some(inner) => {
            let theta = theta(&inner, outer_theta);
            inner.only("partial_rotary_factor", &json!(1.0));
            if inner.has("type") && !inner.has("rope_type") {
                inner.wrong("type", "has no effect in transformers for this family: write `rope_type`");
            }
            let scaling =
                scaling(&inner, max_positions, Multimodal::No).inspect(|_| inner.finish_strict(&[], PARAMETERS));
            (theta, scaling.unwrap_or(RopeScaling::None))
        }
    };
    Rope { theta, scaling, rounded: true, sections: Vec::new() }
}

/// Those of the classes.
fn default_sections(multimodal: Multimodal) -> Vec<usize> {
    match multimodal {
        Multimodal::No => Vec::new(),
        Multimodal::Sections => vec![16, 24, 24],
        Multimodal::Interleaved => interleaved([24, 20, 20]),
    }
}

/// `mrope_section`: how many frequencies count time, height and width.
fn sections(inner: &Fields, multimodal: Multimodal) -> Option<Vec<usize>> {
    if multimodal == Multimodal::No {
        return None;
    }
    if multimodal == Multimodal::Interleaved {
        // The class does not read it.
        inner.only("mrope_interleaved", &json!(true));
    }
    let value = inner.value("mrope_section")?;
    let number = |value: &Value| value.as_u64().filter(|count| *count <= 1 << 16).map(|count| count as usize);
    let list: Option<Vec<usize>> = value.as_array().and_then(|list| list.iter().map(number).collect());
    let list = list.filter(|list| (1..=1 << 10).contains(&list.len()));
    if multimodal == Multimodal::Interleaved {
        let three = list.and_then(|list| <[usize; 3]>::try_from(list).ok());
        if three.is_none() {
            inner.wrong("mrope_section", format!("must be three whole numbers, not {value}"));
        }
        return three.map(interleaved);
    }
    if list.is_none() {
        inner.wrong("mrope_section", format!("must be a list of whole numbers, not {value}"));
    }
    list
}

/// The sections of one frequency or none that count in turns, as [`Rope::sections`] has them. Time counts what height and width do not:
/// frequency `3 i + 1` counts the height and `3 i + 2` the width if their sections have more than `i` frequencies.
fn interleaved(sections: [usize; 3]) -> Vec<usize> {
    let mut turns = Vec::new();
    for frequency in 0..sections.iter().sum() {
        let axis = frequency % 3;
        let counted = if frequency / 3 < sections[axis] { axis } else { 0 };
        while turns.len() % 3 != counted {
            turns.push(0);
        }
        turns.push(1);
    }
    turns
}

fn theta(fields: &Fields, default: f64) -> f64 {
    theta_of(fields, "rope_theta", default)
}

fn theta_of(fields: &Fields, name: &'static str, default: f64) -> f64 {
    let theta = fields.positive(name, default);
    if fields.is_null(name) {
        fields.wrong(name, "must be a number above 1, not null");
    }
    if theta <= 1.0 {
        fields.wrong(name, format!("must be a number above 1, not {theta}"));
    }
    theta
}

fn scaling(inner: &Fields, max_positions: usize, multimodal: Multimodal) -> Option<RopeScaling> {
    let older = inner.text("type").unwrap_or("default");
    let original = || inner.size("original_max_position_embeddings", max_positions);
    let mut kinds = ["default", "linear", "dynamic", "llama3", "yarn"].map(|kind| (kind, kind)).to_vec();
    if multimodal == Multimodal::Sections {
        kinds.push(("mrope", "default"));
    }
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
