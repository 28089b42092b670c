//! A decoder's `config.json`, or the `text_config` in it: `gemma3_text`, `llama`, `mistral`, `qwen2`, `qwen3`. Fields and defaults are
//! those of the configuration classes of transformers 5.24.

use serde_json::json;

use super::fields::Fields;
use super::gemma3_decoder;
use super::layer_types::layer_types;
use super::rope::{self, Multimodal};
use super::{ignored_fields, restricted_fields};
use crate::architecture::{Activation, Decoder};
use crate::checkpoint::MAX_VOCAB;

/// A decoder of transformers, by its `model_type`.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Family {
    Gemma3,
    Llama,
    Mistral,
    Qwen2,
    Qwen3,
    /// The decoder of Qwen2-VL and Qwen2.5-VL: Qwen2 with multimodal rotary positions.
    Qwen2Vl,
    /// The decoder of Qwen3-VL: Qwen3 with interleaved multimodal rotary positions.
    Qwen3Vl,
}

/// The decoders that several models with images have.
pub(super) const FAMILIES: [(&str, Family); 4] =
    [("llama", Family::Llama), ("mistral", Family::Mistral), ("qwen2", Family::Qwen2), ("qwen3", Family::Qwen3)];
pub(super) const GEMMA3: (&str, Family) = ("gemma3_text", Family::Gemma3);

/// Defaults of a family's class. The other defaults are the same for all.
struct Defaults {
    dim: usize,
    layers: usize,
    heads: usize,
    norm_eps: f64,
    theta: f64,
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
            Family::Gemma3 => "Gemma3ForCausalLM",
            Family::Llama => "LlamaForCausalLM",
            Family::Mistral => "MistralForCausalLM",
            Family::Qwen2 => "Qwen2ForCausalLM",
            Family::Qwen3 => "Qwen3ForCausalLM",
            // Their files name the class of the whole model.
            Family::Qwen2Vl => "Qwen2VLForConditionalGeneration",
            Family::Qwen3Vl => "Qwen3VLForConditionalGeneration",
        }
    }

    fn defaults(self) -> Defaults {
        let (ff, vocab, max_positions, kv_heads, head_width) = match self {
            Family::Gemma3 => (9216, 262_208, 131_072, Some(4), Some(256)),
            Family::Llama => (11_008, 32_000, 2048, None, None),
            Family::Mistral => (14_336, 32_000, 131_072, Some(8), None),
            Family::Qwen2 => (22_016, 151_936, 32_768, Some(32), None),
            Family::Qwen3 => (22_016, 151_936, 32_768, Some(32), Some(128)),
            Family::Qwen2Vl => (29_568, 152_064, 32_768, Some(8), None),
            Family::Qwen3Vl => (22_016, 151_936, 128_000, Some(32), Some(128)),
        };
        let (dim, layers, heads, norm_eps, theta) = match self {
            Family::Gemma3 => (2304, 26, 8, 1e-6, 1e6),
            Family::Qwen2Vl => (8192, 80, 64, 1e-5, 1e6),
            Family::Qwen3Vl => (4096, 32, 32, 1e-6, 5e5),
            _ => (4096, 32, 32, 1e-6, 1e4),
        };
        Defaults { dim, layers, heads, norm_eps, theta, ff, vocab, max_positions, kv_heads, head_width }
    }
}

/// Reads a decoder and the size of its vocabulary. The caller reads `model_type` and `architectures`.
pub(super) fn read(fields: &Fields, family: Family) -> (Decoder, usize) {
    let defaults = family.defaults();
    let before = fields.problems();
    let dim = fields.size("hidden_size", defaults.dim);
    let layers = fields.size("num_hidden_layers", defaults.layers);
    let heads = fields.size("num_attention_heads", defaults.heads);
    // An absent field means the default of the class, null one per query head.
    let kv_heads = match (fields.has("num_key_value_heads"), defaults.kv_heads) {
        (false, Some(default)) => default,
        _ => fields.size("num_key_value_heads", heads),
    };
    let head_width = fields.optional_size("head_dim").or(defaults.head_width);
    let vocab = fields.optional_count("vocab_size", 1, MAX_VOCAB).unwrap_or(defaults.vocab);
    let positions = fields.size("max_position_embeddings", defaults.max_positions);
    let window = window(fields, family, layers, positions).unwrap_or(positions);
    let gemma = family == Family::Gemma3;
    if !gemma {
        fields.choice("hidden_act", "silu", &[("silu", ()), ("swish", ())]);
    }
    let attention_bias = match family {
        Family::Gemma3 | Family::Llama | Family::Qwen3 | Family::Qwen3Vl => fields.flag("attention_bias", false),
        // Qwen2 has biases whatever the value of this field, which some files have.
        Family::Qwen2 | Family::Qwen2Vl => fields.flag("attention_bias", true),
        Family::Mistral => {
            fields.only("attention_bias", &json!(false));
            false
        }
    };
    let multimodal = match family {
        Family::Qwen2Vl => Multimodal::Sections,
        Family::Qwen3Vl => Multimodal::Interleaved,
        _ => Multimodal::No,
    };
    let qwen2 = matches!(family, Family::Qwen2 | Family::Qwen2Vl);
    let mlp_bias = if family == Family::Llama { fields.flag("mlp_bias", false) } else { false };
    fields.only("mlp_bias", &json!(mlp_bias));
    let plain = Decoder {
        dim,
        layers,
        heads,
        kv_heads,
        head_width: head_width.unwrap_or(dim / heads),
        ff: fields.size("intermediate_size", defaults.ff),
        activation: Activation::Swiglu,
        norm_eps: fields.positive("rms_norm_eps", defaults.norm_eps),
        norm_offset: false,
        output_norms: false,
        embedding_scale: None,
        score_factor: None,
        qkv_bias: attention_bias || qwen2,
        output_bias: attention_bias && !qwen2,
        mlp_bias,
        head_norm: matches!(family, Family::Qwen3 | Family::Qwen3Vl),
        tied_head: fields.flag("tie_word_embeddings", gemma),
        rope: if gemma {
            rope::read_global(fields, positions, defaults.theta)
        } else {
            rope::read(fields, positions, defaults.theta, multimodal)
        },
        local: None,
        bidirectional_images: false,
        // Attention within the window is full attention.
        max_positions: positions.min(window),
    };
    let decoder = if gemma { gemma3_decoder::decoder(fields, plain) } else { plain };
    if let Some(width) = head_width.filter(|width| family == Family::Qwen2Vl && width * heads != dim) {
        let own = dim / heads;
        fields.wrong("head_dim", format!("must be `hidden_size` / `num_attention_heads` ({own}), not {width}"));
    }
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
    let (sections, half) = (&decoder.rope.sections, head_width / 2);
    if !sections.is_empty() && sections.iter().sum::<usize>() != half {
        let sum: usize = sections.iter().sum();
        let message = format!("has the sum {sum}, which must be half of the size of a head ({half})");
        fields.wrong("rope_scaling.mrope_section", message);
    }
    if !heads.is_multiple_of(*kv_heads) {
        let message = format!("must divide `num_attention_heads` ({heads}), which {kv_heads} does not");
        fields.wrong("num_key_value_heads", message);
    }
}

/// The sliding window, if a layer has one.
fn window(fields: &Fields, family: Family, layers: usize, positions: usize) -> Option<usize> {
    match family {
        // Layers with a window are a part of the architecture.
        Family::Gemma3 => None,
        // The classes have no window. A window as long as the longest sequence changes nothing.
        Family::Llama | Family::Qwen3Vl => {
            if let Some(window) = fields.optional_size("sliding_window").filter(|window| *window < positions) {
                let supported = format!("a window below `max_position_embeddings` ({positions}) is not supported");
                fields.wrong("sliding_window", format!("is {window}: {supported}"));
            }
            if layer_types(fields, layers).is_some_and(|types| types.contains(&true)) {
                let name = if family == Family::Llama { "llama" } else { "qwen3_vl" };
                fields.wrong("layer_types", format!("has a `sliding_attention`, which `{name}` does not support"));
            }
            None
        }
        // Null means no window, an absent field the default of the class.
        Family::Mistral => {
            layer_types(fields, layers);
            if fields.has("sliding_window") { fields.optional_size("sliding_window") } else { Some(4096) }
        }
        Family::Qwen2 | Family::Qwen3 | Family::Qwen2Vl => {
            let used = fields.flag("use_sliding_window", false);
            let window = fields.size("sliding_window", 4096);
            // Layers below this one have no window.
            let default = if family == Family::Qwen2Vl { 80 } else { 28 };
            let first = fields.optional_count("max_window_layers", 0, 1 << 20).unwrap_or(default);
            let types = layer_types(fields, layers);
            let slides = types.map_or(used && first < layers, |types| types.contains(&true));
            if slides && !used {
                fields.wrong("layer_types", "has a `sliding_attention`, but `use_sliding_window` is false");
            }
            slides.then_some(window)
        }
    }
}
