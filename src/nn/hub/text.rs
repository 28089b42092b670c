//! A decoder's `config.json`, or the `text_config` in it: `llama`, `mistral`, `qwen2`, `qwen3`. Fields and defaults are
//! those of the configuration classes of transformers 5.24.

use serde_json::json;

use super::fields::Fields;
use super::{ignored_fields, restricted_fields, rope};
use crate::architecture::Decoder;
use crate::checkpoint::MAX_VOCAB;

/// A decoder of transformers, by its `model_type`.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Family {
    Llama,
    Mistral,
    Qwen2,
    Qwen3,
}

pub(super) const FAMILIES: [(&str, Family); 4] =
    [("llama", Family::Llama), ("mistral", Family::Mistral), ("qwen2", Family::Qwen2), ("qwen3", Family::Qwen3)];

/// Defaults of a family's class. The other defaults are the same for all four.
struct Defaults {
    ff: usize,
    vocab: usize,
    max_positions: usize,
    /// None: the number of query heads.
    kv_heads: Option<usize>,
    /// None: the width divided by the number of heads.
    head_width: Option<usize>,
}

impl Family {
    /// The class with a language head, in `architectures`.
    pub(super) fn class(self) -> &'static str {
        match self {
            Family::Llama => "LlamaForCausalLM",
            Family::Mistral => "MistralForCausalLM",
            Family::Qwen2 => "Qwen2ForCausalLM",
            Family::Qwen3 => "Qwen3ForCausalLM",
        }
    }

    fn defaults(self) -> Defaults {
        let (ff, vocab, max_positions, kv_heads, head_width) = match self {
            Family::Llama => (11_008, 32_000, 2048, None, None),
            Family::Mistral => (14_336, 32_000, 131_072, Some(8), None),
            Family::Qwen2 => (22_016, 151_936, 32_768, Some(32), None),
            Family::Qwen3 => (22_016, 151_936, 32_768, Some(32), Some(128)),
        };
        Defaults { ff, vocab, max_positions, kv_heads, head_width }
    }
}

/// Reads a decoder and the size of its vocabulary. The caller reads `model_type` and `architectures`.
pub(super) fn read(fields: &Fields, family: Family) -> (Decoder, usize) {
    let defaults = family.defaults();
    let before = fields.problems();
    let dim = fields.size("hidden_size", 4096);
    let layers = fields.size("num_hidden_layers", 32);
    let heads = fields.size("num_attention_heads", 32);
    // An absent field means the default of the class, null one per query head.
    let kv_heads = match (fields.has("num_key_value_heads"), defaults.kv_heads) {
        (false, Some(default)) => default,
        _ => fields.size("num_key_value_heads", heads),
    };
    let head_width = fields.optional_size("head_dim").or(defaults.head_width);
    let vocab = fields.optional_count("vocab_size", 1, MAX_VOCAB).unwrap_or(defaults.vocab);
    let positions = fields.size("max_position_embeddings", defaults.max_positions);
    let window = window(fields, family, layers, positions).unwrap_or(positions);
    fields.choice("hidden_act", "silu", &[("silu", ()), ("swish", ())]);
    let attention_bias = match family {
        Family::Llama | Family::Qwen3 => fields.flag("attention_bias", false),
        // Qwen2 has biases whatever the value of this field, which some files have.
        Family::Qwen2 => fields.flag("attention_bias", true),
        Family::Mistral => {
            fields.only("attention_bias", &json!(false));
            false
        }
    };
    let mlp_bias = if family == Family::Llama { fields.flag("mlp_bias", false) } else { false };
    fields.only("mlp_bias", &json!(mlp_bias));
    let decoder = Decoder {
        dim,
        layers,
        heads,
        kv_heads,
        head_width: head_width.unwrap_or(dim / heads),
        ff: fields.size("intermediate_size", defaults.ff),
        norm_eps: fields.positive("rms_norm_eps", 1e-6),
        qkv_bias: attention_bias || family == Family::Qwen2,
        output_bias: attention_bias && family != Family::Qwen2,
        mlp_bias,
        head_norm: family == Family::Qwen3,
        tied_head: fields.flag("tie_word_embeddings", false),
        rope: rope::read(fields, positions),
        // Attention within the window is full attention.
        max_positions: positions.min(window),
    };
    if fields.problems() == before {
        check(fields, &decoder, head_width.is_none());
    }
    restricted_fields::refuse_quantization(fields);
    fields.finish(
        &[ignored_fields::BASE, ignored_fields::GENERATION, ignored_fields::TRAINING, ignored_fields::DECODER],
        restricted_fields::DECODER,
    );
    (decoder, vocab)
}

/// Checks that sizes fit each other.
fn check(fields: &Fields, decoder: &Decoder, divided_width: bool) {
    let Decoder { dim, heads, kv_heads, head_width, .. } = decoder;
    if divided_width && !dim.is_multiple_of(*heads) {
        fields.wrong("num_attention_heads", format!("must divide `hidden_size` ({dim}), which {heads} does not"));
    } else if !head_width.is_multiple_of(2) {
        fields.wrong("head_dim", format!("must be even for rotary positions, not {head_width}"));
    }
    if !heads.is_multiple_of(*kv_heads) {
        let message = format!("must divide `num_attention_heads` ({heads}), which {kv_heads} does not");
        fields.wrong("num_key_value_heads", message);
    }
}

/// The sliding window, if a layer has one.
fn window(fields: &Fields, family: Family, layers: usize, positions: usize) -> Option<usize> {
    match family {
        // The class has no window. A window as long as the longest sequence changes nothing.
        Family::Llama => {
            if let Some(window) = fields.optional_size("sliding_window").filter(|window| *window < positions) {
                let supported = format!("a window below `max_position_embeddings` ({positions}) is not supported");
                fields.wrong("sliding_window", format!("is {window}: {supported}"));
            }
            if layer_types(fields, layers) == Some(true) {
                fields.wrong("layer_types", "has a `sliding_attention`, which `llama` does not support");
            }
            None
        }
        // Null means no window, an absent field the default of the class.
        Family::Mistral => {
            layer_types(fields, layers);
            if fields.has("sliding_window") { fields.optional_size("sliding_window") } else { Some(4096) }
        }
        Family::Qwen2 | Family::Qwen3 => {
            let used = fields.flag("use_sliding_window", false);
            let window = fields.size("sliding_window", 4096);
            // Layers below this one have no window.
            let first = fields.optional_count("max_window_layers", 0, 1 << 20).unwrap_or(28);
            let slides = layer_types(fields, layers).unwrap_or(used && first < layers);
            if slides && !used {
                fields.wrong("layer_types", "has a `sliding_attention`, but `use_sliding_window` is false");
            }
            slides.then_some(window)
        }
    }
}

/// Whether some layer has a window, if the file has a type for each layer.
fn layer_types(fields: &Fields, layers: usize) -> Option<bool> {
    let types = fields.value("layer_types")?;
    let known = ["full_attention", "sliding_attention"];
    let texts: Option<Vec<&str>> =
        types.as_array().and_then(|types| types.iter().map(|value| value.as_str()).collect());
    match texts {
        Some(texts) if texts.len() == layers && texts.iter().all(|text| known.contains(text)) => {
            Some(texts.contains(&"sliding_attention"))
        }
        _ => {
            let message = format!("must be `full_attention` or `sliding_attention` for each of the {layers} layers");
            fields.wrong("layer_types", message);
            Some(false)
        }
    }
}
