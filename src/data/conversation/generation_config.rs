//! Reads `generation_config.json`. How tokens are sampled and how many is set by the keys of a stage. Every other field
//! that changes answers is either applied or refused by name, following `GenerationConfig` of transformers 5.

use std::path::Path;

use anyhow::{Result, bail};
use serde_json::{Map, Value};

use super::hub_files::{GENERATION_CONFIG, object};

/// The decoding settings of a folder that have no key in a stage.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct GenerationConfig {
    /// Divides the positive logits of tokens that the sequence already contains, and multiplies the negative ones
    /// (Keskar et al. 2019); 1 has no effect.
    pub(super) repetition_penalty: f64,
    /// Unknown fields with their values.
    pub(super) unknown: Vec<String>,
}

/// Fields that do not change answers here. They have a key in a stage, or they configure where the model runs, what is
/// returned, performance, or the ranking of beams (there is only one beam).
const IGNORED_FIELDS: &[&str] = &[
    "_from_model_config",
    "assistant_confidence_threshold",
    "assistant_early_exit",
    "assistant_lookbehind",
    "bos_token_id",
    "cache_config",
    "cache_implementation",
    "chat_format",
    "compile_config",
    "continuous_batching_config",
    "decoder_start_token_id",
    "disable_compile",
    "diversity_penalty",
    "do_sample",
    "early_stopping",
    "eos_token_id",
    "epsilon_cutoff",
    "eta_cutoff",
    "is_assistant",
    "length_penalty",
    "low_memory",
    "max_length",
    "max_matching_ngram_size",
    "max_new_tokens",
    "max_window_size",
    "min_p",
    "num_assistant_tokens",
    "num_assistant_tokens_schedule",
    "num_beam_groups",
    "num_return_sequences",
    "output_attentions",
    "output_hidden_states",
    "output_logits",
    "output_scores",
    "pad_token_id",
    "prefill_chunk_size",
    "prompt_lookup_num_tokens",
    "remove_invalid_values",
    "renormalize_logits",
    "return_dict_in_generate",
    "return_legacy_cache",
    "target_lookbehind",
    "temperature",
    "top_h",
    "top_k",
    "top_p",
    "transformers_version",
    "trust_remote_code",
    "typical_p",
    "use_cache",
    "use_model_defaults",
];

/// Fields that change answers, including greedy ones, with the values (as JSON) that have no effect.
const NEUTRAL_VALUES: &[(&str, &[&str])] = &[
    ("bad_words_ids", &["[]"]),
    ("begin_suppress_tokens", &["[]"]),
    ("constraints", &["[]"]),
    ("dola_layers", &[]),
    ("encoder_no_repeat_ngram_size", &["0"]),
    ("encoder_repetition_penalty", &["1.0"]),
    ("exponential_decay_length_penalty", &[]),
    ("force_words_ids", &["[]"]),
    ("forced_bos_token_id", &[]),
    ("forced_decoder_ids", &["[]"]),
    ("forced_eos_token_id", &[]),
    ("guidance_scale", &["1.0"]),
    ("max_time", &[]),
    ("min_length", &["0"]),
    ("min_new_tokens", &["0"]),
    ("no_repeat_ngram_size", &["0"]),
    ("num_beams", &["1"]),
    ("penalty_alpha", &["0.0"]),
    ("sequence_bias", &["{}", "[]"]),
    ("stop_strings", &["[]"]),
    ("suppress_tokens", &["[]"]),
    ("token_healing", &["false"]),
    ("watermarking_config", &[]),
];

/// Reads the folder's file, if it exists.
///
/// # Errors
///
/// Every unsupported field that changes answers, with its value.
pub(super) fn read(folder: &Path) -> Result<GenerationConfig> {
    let fields = object(folder, GENERATION_CONFIG)?.unwrap_or_default();
    let place = folder.join(GENERATION_CONFIG);
    let (generation, wrong) = apply(&fields);
    if !wrong.is_empty() {
        bail!("`{}`: {}", place.display(), wrong.join("; "));
    }
    Ok(generation)
}

fn apply(fields: &Map<String, Value>) -> (GenerationConfig, Vec<String>) {
    let mut generation = GenerationConfig { repetition_penalty: 1.0, unknown: Vec::new() };
    let mut wrong = Vec::new();
    for (name, value) in fields.iter().filter(|(_, value)| !value.is_null()) {
        if name == "repetition_penalty" {
            match value.as_f64().filter(|penalty| penalty.is_finite() && *penalty > 0.0) {
                Some(penalty) => generation.repetition_penalty = penalty,
                None => wrong.push(format!("`{name}` must be a number above 0, not {value}")),
            }
        } else if let Some((_, neutral)) = NEUTRAL_VALUES.iter().find(|(known, _)| known == name) {
            if !neutral.iter().any(|text| equals_json(value, text)) {
                wrong.push(format!("`{name}` changes the answers and is not supported: it is {}", abbreviated(value)));
            }
        } else if !IGNORED_FIELDS.contains(&name.as_str()) {
            generation.unknown.push(format!("`{name}` ({})", abbreviated(value)));
        }
    }
    (generation, wrong)
}

fn equals_json(value: &Value, text: &str) -> bool {
    serde_json::from_str::<Value>(text)
        .is_ok_and(|wanted| *value == wanted || (value.is_number() && value.as_f64() == wanted.as_f64()))
}

fn abbreviated(value: &Value) -> String {
    let text = value.to_string();
    match text.char_indices().nth(60) {
        Some((at, _)) => format!("{}...", &text[..at]),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn applied(text: &str) -> (GenerationConfig, Vec<String>) {
        apply(&serde_json::from_str(text).unwrap())
    }

    #[test]
    fn published_configs_are_supported() {
        // Qwen2.5-7B-Instruct, Qwen3-8B, Llama-3.2-1B-Instruct, vicuna-7b-v1.5, SmolLM2, llava-1.5-7b-hf, Qwen-7B-Chat.
        for (text, penalty) in [
            (
                r#"{"bos_token_id": 151643, "pad_token_id": 151643, "do_sample": true, "eos_token_id": [151645, 151643],
                "repetition_penalty": 1.05, "temperature": 0.7, "top_p": 0.8, "top_k": 20,
                "transformers_version": "4.37.0"}"#,
                1.05,
            ),
            (
                r#"{"bos_token_id": 151643, "do_sample": true, "eos_token_id": [151645, 151643], "pad_token_id": 151643,
                "temperature": 0.6, "top_k": 20, "top_p": 0.95, "transformers_version": "4.51.0"}"#,
                1.0,
            ),
            (r#"{"temperature": 0.6, "top_p": 0.9, "do_sample": true, "eos_token_id": [128001, 128008, 128009]}"#, 1.0),
            (r#"{"_from_model_config": true, "max_length": 4096, "temperature": 0.9, "top_p": 0.6}"#, 1.0),
            (r#"{"_from_model_config": true, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 2}"#, 1.0),
            (r#"{"num_beams": 1, "length_penalty": 1.0, "min_new_tokens": null, "no_repeat_ngram_size": 0}"#, 1.0),
            (r#"{"chat_format": "chatml", "max_window_size": 24000, "max_new_tokens": 512, "top_k": 0}"#, 1.0),
        ] {
            let expected = GenerationConfig { repetition_penalty: penalty, unknown: Vec::new() };
            assert_eq!(applied(text), (expected, Vec::new()), "{text}");
        }
        assert_eq!(applied(r#"{"a_note": "x"}"#).0.unknown, ["`a_note` (\"x\")"]);
    }

    #[test]
    fn unsupported_fields_are_refused_by_name() {
        let refused =
            |name: &str, value: &str| format!("`{name}` changes the answers and is not supported: it is {value}");
        for (name, value) in [
            ("no_repeat_ngram_size", "3"),
            ("suppress_tokens", "[1,2]"),
            ("begin_suppress_tokens", "[220]"),
            ("forced_bos_token_id", "5"),
            ("forced_eos_token_id", "2"),
            ("min_new_tokens", "4"),
            ("min_length", "1"),
            ("bad_words_ids", "[[3]]"),
            ("num_beams", "4"),
            ("stop_strings", "[\"\\n\"]"),
            ("guidance_scale", "1.5"),
            ("penalty_alpha", "0.6"),
            ("exponential_decay_length_penalty", "[10,1.1]"),
            ("encoder_repetition_penalty", "1.2"),
            ("sequence_bias", "[[[3],-1.0]]"),
            ("watermarking_config", "{}"),
            ("token_healing", "true"),
        ] {
            assert_eq!(applied(&format!(r#"{{"{name}": {value}}}"#)).1, [refused(name, value)]);
        }
        let penalty = applied(r#"{"repetition_penalty": 0}"#).1;
        assert_eq!(penalty, ["`repetition_penalty` must be a number above 0, not 0"]);
    }
}
