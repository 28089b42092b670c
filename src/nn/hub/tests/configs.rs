//! Configs of every family, in the forms of transformers 4 and 5.

use super::super::config::set_dtype;
use super::super::{Config, Dtype};
use super::config;
use crate::architecture::{Activation, Decoder, Projector, Rope, RopeScaling, Tower, Vision, VisionFamily, Vit};

/// A small decoder as transformers 5.24 writes it, with more fields at the start.
fn written(model_type: &str, class: &str, more: &str) -> String {
    format!(
        r#"{{{more} "architectures": ["{class}"], "model_type": "{model_type}", "vocab_size": 40, "hidden_size": 16,
        "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
        "max_position_embeddings": 2048, "rms_norm_eps": 1e-06, "hidden_act": "silu", "initializer_range": 0.02,
        "attention_dropout": 0.0, "dtype": "float32", "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": null,
        "tie_word_embeddings": false, "transformers_version": "5.24.0", "use_cache": true}}"#
    )
}

fn rope(theta: f64, scaling: RopeScaling) -> Rope {
    Rope { theta, scaling, rounded: true, sections: Vec::new() }
}

/// The decoder of [`written`].
fn small() -> Decoder {
    Decoder {
        dim: 16,
        layers: 2,
        heads: 4,
        kv_heads: 2,
        head_width: 4,
        ff: 24,
        activation: Activation::Swiglu,
        norm_eps: 1e-6,
        norm_offset: false,
        output_norms: false,
        embedding_scale: None,
        score_factor: None,
        qkv_bias: false,
        output_bias: false,
        mlp_bias: false,
        head_norm: false,
        tied_head: false,
        rope: rope(10_000.0, RopeScaling::None),
        local: None,
        bidirectional_images: false,
        max_positions: 2048,
    }
}

fn decoder(text: &str) -> Decoder {
    config(text).unwrap().architecture.decoder
}

#[test]
fn decoders_differ_in_biases_norms_and_windows() {
    let new = r#""rope_parameters": {"rope_theta": 10000.0, "rope_type": "default"},"#;
    let llama = written("llama", "LlamaForCausalLM", &format!(r#"{new} "head_dim": 4, "pretraining_tp": 1,"#));
    let found = config(&llama).unwrap();
    assert_eq!((found.architecture.vision, found.architecture.vocab, found.pinpoints), (None, 40, vec![]));
    assert_eq!(found.architecture.decoder, small());

    let biased = written("llama", "LlamaForCausalLM", r#""attention_bias": true, "mlp_bias": true, "head_dim": 6,"#);
    let expected = Decoder { head_width: 6, qkv_bias: true, output_bias: true, mlp_bias: true, ..small() };
    assert_eq!(decoder(&biased), expected);

    let mistral = written("mistral", "MistralForCausalLM", r#""sliding_window": 64,"#);
    assert_eq!(decoder(&mistral), Decoder { max_positions: 64, ..small() });
    let mistral = written("mistral", "MistralForCausalLM", r#""sliding_window": null,"#);
    assert_eq!(decoder(&mistral), small());

    let unused = r#""use_sliding_window": false, "sliding_window": 64, "max_window_layers": 1, "use_mrope": false,"#;
    let qwen2 = written("qwen2", "Qwen2ForCausalLM", unused);
    assert_eq!(decoder(&qwen2), Decoder { qkv_bias: true, ..small() });

    let window = r#""attention_bias": true, "layer_types": ["full_attention", "sliding_attention"],
        "use_sliding_window": true, "sliding_window": 32,"#;
    let qwen3 = written("qwen3", "Qwen3ForCausalLM", window);
    let expected =
        Decoder { head_width: 128, qkv_bias: true, output_bias: true, head_norm: true, max_positions: 32, ..small() };
    assert_eq!(decoder(&qwen3), expected);
}

#[test]
fn a_window_above_all_layers_is_ignored() {
    let text = |first: usize| {
        let more = format!(r#""use_sliding_window": true, "sliding_window": 64, "max_window_layers": {first},"#);
        written("qwen2", "Qwen2ForCausalLM", &more)
    };
    assert_eq!(decoder(&text(2)).max_positions, 2048);
    assert_eq!(decoder(&text(1)).max_positions, 64);
}

#[test]
fn absent_fields_have_the_defaults_of_the_class() {
    let of = |model_type: &str| {
        let found = config(&format!(r#"{{"model_type": "{model_type}"}}"#)).unwrap().architecture;
        let Decoder { dim, layers, heads, kv_heads, head_width, ff, max_positions, .. } = found.decoder;
        (found.vocab, dim, layers, (heads, kv_heads, head_width), ff, max_positions)
    };
    assert_eq!(of("llama"), (32_000, 4096, 32, (32, 32, 128), 11_008, 2048));
    assert_eq!(of("mistral"), (32_000, 4096, 32, (32, 8, 128), 14_336, 4096));
    assert_eq!(of("qwen2"), (151_936, 4096, 32, (32, 32, 128), 22_016, 32_768));
    assert_eq!(of("qwen3"), (151_936, 4096, 32, (32, 32, 128), 22_016, 32_768));
    // Null differs from an absent field: one key head per query head.
    let many = config(r#"{"model_type": "mistral", "num_key_value_heads": null}"#).unwrap();
    assert_eq!(many.architecture.decoder.kv_heads, 32);
}

#[test]
fn rope_is_read_in_the_old_and_the_new_form() {
    let rope_of = |more: &str| decoder(&written("llama", "LlamaForCausalLM", more)).rope;
    assert_eq!(rope_of(r#""rope_theta": 5e5, "rope_scaling": null,"#), rope(5e5, RopeScaling::None));
    let linear = rope(1e4, RopeScaling::Linear { factor: 2.0 });
    assert_eq!(rope_of(r#""rope_scaling": {"type": "linear", "factor": 2.0},"#), linear);
    let new = r#""rope_parameters": {"rope_type": "linear", "factor": 2, "rope_theta": 10000},"#;
    assert_eq!(rope_of(new), linear);
    // Dynamic scaling changes nothing up to the longest sequence.
    let dynamic = r#""rope_scaling": {"rope_type": "dynamic", "type": "dynamic", "factor": 4.0},"#;
    assert_eq!(rope_of(dynamic), rope(1e4, RopeScaling::None));
    let llama3 = |original_positions| RopeScaling::Llama3 {
        factor: 8.0,
        low_frequency_factor: 1.0,
        high_frequency_factor: 4.0,
        original_positions,
    };
    let fields = r#""factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "rope_type": "llama3""#;
    let old =
        format!(r#""rope_theta": 500000.0, "rope_scaling": {{{fields}, "original_max_position_embeddings": 8192}},"#);
    assert_eq!(rope_of(&old), rope(5e5, llama3(8192)));
    assert_eq!(rope_of(&format!(r#""rope_parameters": {{{fields}, "rope_theta": 5e5}},"#)), rope(5e5, llama3(2048)));
}

#[test]
fn yarn_infers_its_attention_factor() {
    let yarn_of = |more: &str| {
        let fields = format!(r#""rope_type": "yarn", "original_max_position_embeddings": 512{more}"#);
        let text = written("qwen2", "Qwen2ForCausalLM", &format!(r#""rope_scaling": {{{fields}}},"#));
        decoder(&text).rope.scaling
    };
    let yarn = |factor, attention_factor| RopeScaling::Yarn {
        factor,
        beta_fast: 32.0,
        beta_slow: 1.0,
        original_positions: 512,
        attention_factor,
        truncate: true,
    };
    assert_eq!(yarn_of(r#", "factor": 8.0"#), yarn(8.0, 0.1 * 8f64.ln() + 1.0));
    assert_eq!(yarn_of(r#", "factor": 0.5"#), yarn(0.5, 1.0));
    // 2048 / 512.
    assert_eq!(yarn_of(r#", "factor": null, "beta_fast": 0"#), yarn(4.0, 0.1 * 4f64.ln() + 1.0));
    let scales = r#", "factor": 8.0, "mscale": 2.0, "mscale_all_dim": 3.0"#;
    assert_eq!(yarn_of(&format!(r#"{scales}, "attention_factor": 1.5"#)), yarn(8.0, 1.5));
    let both = (0.2 * 8f64.ln() + 1.0) / (0.1 * 3.0 * 8f64.ln() + 1.0);
    assert_eq!(yarn_of(scales), yarn(8.0, both));
    assert_eq!(yarn_of(r#", "factor": 8.0, "mscale": 2.0, "mscale_all_dim": 0"#), yarn(8.0, 0.1 * 8f64.ln() + 1.0));
    let given = RopeScaling::Yarn {
        factor: 8.0,
        beta_fast: 16.0,
        beta_slow: 2.0,
        original_positions: 512,
        attention_factor: 0.1 * 8f64.ln() + 1.0,
        truncate: false,
    };
    assert_eq!(yarn_of(r#", "factor": 8.0, "beta_fast": 16, "beta_slow": 2, "truncate": false"#), given);
}

/// `config.json` of llava-hf/llava-1.5-7b-hf, in the style of transformers 4.
const LLAVA_1_5: &str = r#"{
  "architectures": ["LlavaForConditionalGeneration"], "ignore_index": -100, "image_token_index": 32000,
  "model_type": "llava", "pad_token_id": 32001, "projector_hidden_act": "gelu",
  "text_config": {
    "_name_or_path": "lmsys/vicuna-7b-v1.5", "architectures": ["LlamaForCausalLM"], "max_position_embeddings": 4096,
    "model_type": "llama", "rms_norm_eps": 1e-05, "torch_dtype": "float16", "vocab_size": 32064
  },
  "tie_word_embeddings": false, "torch_dtype": "float16", "transformers_version": "4.36.0.dev0",
  "vision_config": {
    "hidden_size": 1024, "image_size": 336, "intermediate_size": 4096, "model_type": "clip_vision_model",
    "num_attention_heads": 16, "num_hidden_layers": 24, "patch_size": 14, "projection_dim": 768, "vocab_size": 32000
  },
  "vision_feature_layer": -2, "vision_feature_select_strategy": "default", "vocab_size": 32064
}"#;

#[test]
fn llava_1_5_is_read() {
    let found = config(LLAVA_1_5).unwrap();
    let vision = found.architecture.vision.unwrap();
    let tower = Vit {
        family: VisionFamily::Clip,
        image_size: 336,
        patch_size: 14,
        dim: 1024,
        layers: 24,
        heads: 16,
        ff: 4096,
        norm_eps: 1e-5,
        activation: Activation::QuickGelu,
        feature_layers: vec![23],
        skip_first: true,
        final_norm: false,
        qkv_bias: true,
        qk_norm: false,
        rms_norm: false,
        pooling: false,
    };
    let projector = Projector::Mlp { hidden: 4096, activation: Activation::Gelu, bias: true };
    let expected = Vision { image_token: 32_000, tower: Tower::Vit(tower), projector, newlines: false };
    assert_eq!(vision, expected);
    assert_eq!(vision.tile_tokens(vision.own_tile()), 576);
    assert_eq!(found.architecture.vocab, 32_064);
    assert_eq!(found.architecture.decoder.max_positions, 4096);
    assert!((found.architecture.decoder.norm_eps - 1e-5).abs() < 1e-12);
    // The defaults of LLaVA's class are the same.
    let short = config(r#"{"model_type": "llava", "text_config": {"vocab_size": 32064}}"#).unwrap();
    assert_eq!(short.architecture.vision.unwrap(), vision);
}

/// A small LLaVA or LLaVA-NeXT over SigLIP and Qwen2, as transformers 5.24 writes it, with more outer fields at the start.
fn over_siglip(model_type: &str, outer: &str, text_tie: bool) -> String {
    format!(
        r#"{{{outer} "model_type": "{model_type}", "image_seq_length": 576, "image_token_index": 39,
        "multimodal_projector_bias": false, "projector_hidden_act": "gelu",
        "text_config": {{"model_type": "qwen2", "vocab_size": 40, "hidden_size": 16, "intermediate_size": 24,
            "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
            "layer_types": ["full_attention", "full_attention"], "max_window_layers": 28, "sliding_window": null,
            "tie_word_embeddings": {text_tie}}},
        "vision_config": {{"model_type": "siglip_vision_model", "hidden_size": 8, "intermediate_size": 12,
            "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 9, "patch_size": 4, "num_channels": 3,
            "attention_dropout": 0.0, "hidden_act": "gelu_pytorch_tanh", "layer_norm_eps": 1e-06,
            "vision_use_head": true}}}}"#
    )
}

#[test]
fn siglip_default_strategy_drops_a_patch() {
    let default = config(&over_siglip("llava", "", false)).unwrap().architecture.vision.unwrap();
    let tower = Vit {
        family: VisionFamily::Siglip,
        image_size: 9,
        patch_size: 4,
        dim: 8,
        layers: 2,
        heads: 2,
        ff: 12,
        norm_eps: 1e-6,
        activation: Activation::GeluTanh,
        feature_layers: vec![1],
        skip_first: true,
        final_norm: false,
        qkv_bias: true,
        qk_norm: false,
        rms_norm: false,
        pooling: true,
    };
    let projector = Projector::Mlp { hidden: 16, activation: Activation::Gelu, bias: false };
    let expected = Vision { image_token: 39, tower: Tower::Vit(tower), projector, newlines: false };
    assert_eq!(default, expected);
    assert_eq!(default.tile_tokens(default.own_tile()), 3);
    let full = config(&over_siglip("llava", r#""vision_feature_select_strategy": "full","#, false)).unwrap();
    let full = full.architecture.vision.unwrap();
    assert_eq!(full.tile_tokens(full.own_tile()), 4);
}

#[test]
fn feature_layers_count_from_either_end() {
    let features = |layer: &str| {
        let text = over_siglip("llava", &format!(r#""vision_feature_layer": {layer},"#), false);
        config(&text).unwrap().architecture.vision.unwrap().tower.vit().unwrap().feature_layers.clone()
    };
    assert_eq!(features("-1"), [2]);
    assert_eq!(features("0"), [0]);
    assert_eq!(features("2"), [2]);
    assert_eq!(features("[-3, 1, -1]"), [0, 1, 2]);
}

#[test]
fn llava_next_has_pinpoints() {
    let full = r#""vision_feature_select_strategy": "full", "use_image_newline_parameter": true,"#;
    let pinpoints = format!(r#"{full} "image_grid_pinpoints": [[9, 18], [18, 9]],"#);
    let found = config(&over_siglip("llava_next", &pinpoints, false)).unwrap();
    assert!(found.architecture.vision.unwrap().newlines);
    assert_eq!(found.pinpoints, [(9, 18), (18, 9)]);
    let next = config(&LLAVA_1_5.replace("\"llava\"", "\"llava_next\"").replace("LlavaFor", "LlavaNextFor")).unwrap();
    assert_eq!(next.pinpoints, [(336, 672), (672, 336), (672, 672), (1008, 336), (336, 1008)]);
}

#[test]
fn the_head_is_tied_as_in_transformers() {
    let tied = |model_type: &str, outer: &str, text_tie: bool| {
        let pinpoints = r#""image_grid_pinpoints": [[9, 18]], "vision_feature_select_strategy": "full","#;
        let more = if model_type == "llava_next" { pinpoints } else { "" };
        let text = over_siglip(model_type, &format!("{outer} {more}"), text_tie);
        config(&text).unwrap().architecture.decoder.tied_head
    };
    let (yes, no) = (r#""tie_word_embeddings": true,"#, r#""tie_word_embeddings": false,"#);
    assert!(tied("llava", yes, false) && tied("llava", no, true) && tied("llava", "", true));
    assert!(tied("llava_next", yes, false) && !tied("llava_next", no, true) && !tied("llava_next", "", true));
    assert!(!tied("llava", "", false));
}

#[test]
fn set_dtype_changes_every_dtype_field() {
    let mut object = serde_json::from_str(LLAVA_1_5).unwrap();
    set_dtype(&mut object, Dtype::BF16);
    let text = serde_json::to_string(&object).unwrap();
    assert_eq!(text.matches(r#""torch_dtype":"bfloat16""#).count(), 2);
    assert!(!text.contains(r#""float16""#));
    assert!(Config::of(&object).is_ok());
}
