//! Fields of published `config.json` files of the supported families and their derivatives: accepted, refused or unknown.

use std::path::Path;

use serde_json::{Map, Value};

use super::super::{Config, restricted_fields};
use crate::parameters::Parameter;
use ablate_core::base::files;

/// Published configs, which have no unknown field.
const PUBLISHED: &[(&str, &str)] = &[
    (
        "HuggingFaceTB/SmolLM2-1.7B-Instruct",
        r#"{"architectures": ["LlamaForCausalLM"], "attention_bias": false, "attention_dropout": 0.0, "bos_token_id": 1,
        "eos_token_id": 2, "hidden_act": "silu", "hidden_size": 2048, "initializer_range": 0.02,
        "intermediate_size": 8192, "max_position_embeddings": 8192, "mlp_bias": false, "model_type": "llama",
        "num_attention_heads": 32, "num_hidden_layers": 24, "num_key_value_heads": 32, "pad_token_id": 2,
        "pretraining_tp": 1, "rms_norm_eps": 1e-05, "rope_scaling": null, "rope_theta": 130000,
        "tie_word_embeddings": true, "torch_dtype": "bfloat16", "transformers.js_config": {"dtype": "q4",
        "kv_cache_dtype": {"q4f16": "float16", "fp16": "float16"}}, "transformers_version": "4.42.3",
        "use_cache": true, "vocab_size": 49152}"#,
    ),
    (
        "HuggingFaceTB/SmolLM2-135M",
        r#"{"_name_or_path": "x", "architectures": ["LlamaForCausalLM"], "attention_bias": false, "head_dim": 64,
        "bos_token_id": 0, "eos_token_id": 0, "unk_token_id": 0, "hidden_act": "silu", "hidden_size": 576,
        "initializer_range": 0.041666666666666664, "intermediate_size": 1536, "is_llama_config": true,
        "max_position_embeddings": 8192, "mlp_bias": false, "model_type": "llama", "num_attention_heads": 9,
        "num_hidden_layers": 30, "num_key_value_heads": 3, "pretraining_tp": 1, "rms_norm_eps": 1e-05,
        "rope_interleaved": false, "rope_scaling": null, "rope_theta": 100000, "tie_word_embeddings": true,
        "torch_dtype": "bfloat16", "transformers_version": "4.45.1", "use_cache": true, "vocab_size": 49152}"#,
    ),
    (
        "TinyLlama/TinyLlama-1.1B-Chat-v1.0",
        r#"{"architectures": ["LlamaForCausalLM"], "attention_bias": false, "bos_token_id": 1, "eos_token_id": 2,
        "hidden_act": "silu", "hidden_size": 2048, "initializer_range": 0.02, "intermediate_size": 5632,
        "max_position_embeddings": 2048, "model_type": "llama", "num_attention_heads": 32, "num_hidden_layers": 22,
        "num_key_value_heads": 4, "pretraining_tp": 1, "rms_norm_eps": 1e-05, "rope_scaling": null,
        "rope_theta": 10000.0, "tie_word_embeddings": false, "torch_dtype": "bfloat16",
        "transformers_version": "4.35.0", "use_cache": true, "vocab_size": 32000}"#,
    ),
    (
        "lmsys/vicuna-7b-v1.5-16k",
        r#"{"_name_or_path": "vicuna-7b-v1.5-16k", "architectures": ["LlamaForCausalLM"], "bos_token_id": 1,
        "eos_token_id": 2, "hidden_act": "silu", "hidden_size": 4096, "initializer_range": 0.02,
        "intermediate_size": 11008, "max_position_embeddings": 4096, "max_sequence_length": 16384,
        "model_type": "llama", "num_attention_heads": 32, "num_hidden_layers": 32, "num_key_value_heads": 32,
        "pad_token_id": 0, "pretraining_tp": 1, "rms_norm_eps": 1e-05,
        "rope_scaling": {"factor": 4.0, "type": "linear"}, "tie_word_embeddings": false, "torch_dtype": "float16",
        "transformers_version": "4.31.0", "use_cache": true, "vocab_size": 32000}"#,
    ),
    (
        "codellama/CodeLlama-7b-hf",
        r#"{"_name_or_path": "codellama/CodeLlama-7b-hf", "architectures": ["LlamaForCausalLM"], "bos_token_id": 1,
        "eos_token_id": 2, "hidden_act": "silu", "hidden_size": 4096, "initializer_range": 0.02,
        "intermediate_size": 11008, "max_position_embeddings": 16384, "model_type": "llama",
        "num_attention_heads": 32, "num_hidden_layers": 32, "num_key_value_heads": 32, "pretraining_tp": 1,
        "rms_norm_eps": 1e-05, "rope_scaling": null, "rope_theta": 1000000, "tie_word_embeddings": false,
        "torch_dtype": "bfloat16", "transformers_version": "4.33.0.dev0", "use_cache": true, "vocab_size": 32016}"#,
    ),
    (
        "unsloth/Llama-3.2-1B-Instruct",
        r#"{"_name_or_path": "meta-llama/Llama-3.2-1B-Instruct", "architectures": ["LlamaForCausalLM"],
        "attention_bias": false, "attention_dropout": 0.0, "bos_token_id": 128000, "eos_token_id": 128009,
        "head_dim": 64, "hidden_act": "silu", "hidden_size": 2048, "initializer_range": 0.02,
        "intermediate_size": 8192, "max_position_embeddings": 131072, "mlp_bias": false, "model_type": "llama",
        "num_attention_heads": 32, "num_hidden_layers": 16, "num_key_value_heads": 8, "pad_token_id": 128004,
        "pretraining_tp": 1, "rms_norm_eps": 1e-05, "rope_scaling": {"factor": 32.0, "high_freq_factor": 4.0,
        "low_freq_factor": 1.0, "original_max_position_embeddings": 8192, "rope_type": "llama3"},
        "rope_theta": 500000.0, "tie_word_embeddings": true, "torch_dtype": "bfloat16",
        "transformers_version": "4.48.3", "unsloth_fixed": true, "unsloth_version": "2025.3.3", "use_cache": true,
        "vocab_size": 128256}"#,
    ),
    (
        "tiiuae/Falcon3-1B-Instruct",
        r#"{"activation": "swiglu", "architectures": ["LlamaForCausalLM"], "attention_bias": false,
        "attention_dropout": 0.0, "eos_token_id": 11, "head_dim": 256, "hidden_act": "silu", "hidden_size": 2048,
        "initializer_range": 0.02, "intermediate_size": 8192, "max_position_embeddings": 8192, "mlp_bias": false,
        "model_type": "llama", "num_attention_heads": 8, "num_hidden_layers": 18, "num_key_value_heads": 4,
        "pretraining_tp": 1, "rms_norm_eps": 1e-06, "rope_scaling": null, "rope_theta": 1000042,
        "tie_word_embeddings": false, "torch_dtype": "bfloat16", "transformers_version": "4.46.1",
        "use_cache": true, "vocab_size": 131072}"#,
    ),
    (
        "NousResearch/Hermes-2-Pro-Mistral-7B",
        r#"{"_name_or_path": "mistralai/Mistral-7B-v0.1", "architectures": ["MistralForCausalLM"], "bos_token_id": 1,
        "eos_token_id": 32000, "hidden_act": "silu", "hidden_size": 4096, "initializer_range": 0.02,
        "intermediate_size": 14336, "max_position_embeddings": 32768, "model_type": "mistral",
        "num_attention_heads": 32, "num_hidden_layers": 32, "num_key_value_heads": 8, "rms_norm_eps": 1e-05,
        "rope_theta": 10000.0, "sliding_window": 4096, "tie_word_embeddings": false, "torch_dtype": "bfloat16",
        "transformers_version": "4.38.0.dev0", "use_cache": false, "vocab_size": 32032}"#,
    ),
    (
        "Qwen/Qwen2.5-7B",
        r#"{"architectures": ["Qwen2ForCausalLM"], "attention_dropout": 0.0, "bos_token_id": 151643,
        "eos_token_id": 151643, "hidden_act": "silu", "hidden_size": 3584, "initializer_range": 0.02,
        "intermediate_size": 18944, "max_position_embeddings": 131072, "max_window_layers": 28,
        "model_type": "qwen2", "num_attention_heads": 28, "num_hidden_layers": 28, "num_key_value_heads": 4,
        "rms_norm_eps": 1e-06, "rope_theta": 1000000.0, "sliding_window": 131072, "tie_word_embeddings": false,
        "torch_dtype": "bfloat16", "transformers_version": "4.40.1", "use_cache": true, "use_mrope": false,
        "use_sliding_window": false, "vocab_size": 152064}"#,
    ),
    (
        "Qwen/Qwen3-4B-Instruct-2507",
        r#"{"architectures": ["Qwen3ForCausalLM"], "attention_bias": false, "attention_dropout": 0.0,
        "bos_token_id": 151643, "eos_token_id": 151645, "head_dim": 128, "hidden_act": "silu", "hidden_size": 2560,
        "initializer_range": 0.02, "intermediate_size": 9728, "max_position_embeddings": 262144,
        "max_window_layers": 36, "model_type": "qwen3", "num_attention_heads": 32, "num_hidden_layers": 36,
        "num_key_value_heads": 8, "rms_norm_eps": 1e-06, "rope_scaling": null, "rope_theta": 5000000,
        "sliding_window": null, "tie_word_embeddings": true, "torch_dtype": "bfloat16",
        "transformers_version": "4.51.0", "use_cache": true, "use_sliding_window": false, "vocab_size": 151936}"#,
    ),
    (
        "llava-hf/llava-v1.6-mistral-7b-hf",
        r#"{"architectures": ["LlavaNextForConditionalGeneration"], "ignore_index": -100, "image_grid_pinpoints":
        [[336, 672], [672, 336], [672, 672], [1008, 336], [336, 1008]], "image_seq_length": 576,
        "image_token_index": 32000, "model_type": "llava_next", "multimodal_projector_bias": true,
        "projector_hidden_act": "gelu", "text_config": {"_name_or_path": "mistralai/Mistral-7B-Instruct-v0.2",
        "architectures": ["MistralForCausalLM"], "intermediate_size": 14336, "max_position_embeddings": 32768,
        "model_type": "mistral", "num_key_value_heads": 8, "rms_norm_eps": 1e-05, "rope_theta": 1000000.0,
        "sliding_window": null, "torch_dtype": "bfloat16", "vocab_size": 32064}, "tie_word_embeddings": false,
        "torch_dtype": "float16", "transformers_version": "4.39.0.dev0", "use_image_newline_parameter": true,
        "vision_config": {"hidden_size": 1024, "image_size": 336, "intermediate_size": 4096,
        "model_type": "clip_vision_model", "num_attention_heads": 16, "num_hidden_layers": 24, "patch_size": 14,
        "projection_dim": 768, "vocab_size": 32000}, "vision_feature_layer": -2,
        "vision_feature_select_strategy": "default", "vocab_size": 32064}"#,
    ),
];

#[test]
fn published_configs_have_no_unknown_field() {
    for (name, text) in PUBLISHED {
        match super::config(text) {
            Ok(config) => assert!(config.unknown.is_empty(), "{name}: {:?}", config.unknown),
            Err(error) => panic!("{name}: {error:#}"),
        }
    }
}

/// The treatment of a field with a value.
#[derive(Debug, PartialEq)]
enum Verdict {
    Accepted,
    Unknown,
    Refused,
}

fn verdict(place: &str, field: &str, value: &str) -> Verdict {
    let text = match place {
        "llava" | "text" => r#"{"model_type": "llava", "text_config": {"vocab_size": 32064}}"#.to_string(),
        "tower" => r#"{"model_type": "llava", "text_config": {"vocab_size": 32064}, "vision_config": {}}"#.to_string(),
        family => format!(r#"{{"model_type": "{family}"}}"#),
    };
    let mut object: Map<String, Value> = serde_json::from_str(&text).unwrap();
    let inner = match place {
        "text" => object["text_config"].as_object_mut().unwrap(),
        "tower" => object["vision_config"].as_object_mut().unwrap(),
        _ => &mut object,
    };
    inner.insert(field.to_string(), serde_json::from_str(value).unwrap());
    match Config::of(&object) {
        Ok(config) if config.unknown.is_empty() => Verdict::Accepted,
        Ok(_) => Verdict::Unknown,
        Err(_) => Verdict::Refused,
    }
}

/// Family or part, field, accepted values, refused values, values reported as unknown.
const FIELDS: &str = r#"
llama   is_llama_config                  true            | false            |
llama   rope_interleaved                 false           | true             |
llama   transformers.js_config           {"dtype":"q4"}  |                  |
llama   unk_token_id                     0 null          |                  |
llama   unsloth_fixed                    true            |                  |
llama   auto_map                         {"A":"m.B"}     |                  |
llama   model_max_length                 4096            |                  |
llama   use_sliding_window               false null      | true             |
llama   sliding_window                   null 2048 4096  | 1024 0           |
llama   layer_types                      null            | ["full_attention"] |
llama   max_window_layers                28              |                  |
llama   num_experts                      0 null          | 8                |
llama   num_local_experts                0               | 8                |
llama   num_experts_per_tok              0 2             |                  |
llama   rope_type                        "default"       | "linear" "yarn"  |
llama   rope_scaling                     null {"rope_type":"default"} {} | {"type":"longrope"} {"type":"default","alpha":2} | {"type":"default","factor":1.0}
llama   rope_parameters                  {"rope_type":"default","rope_theta":10000.0} | {"rope_type":"default","partial_rotary_factor":0.5} |
llama   partial_rotary_factor            1.0 1 null      | 0.5              |
llama   rotary_pct                       1.0             | 0.25             |
llama   _comment                         "free"          |                  |
llama   comment                          "free"          |                  |
llama   my_field                         null            |                  | 1 "x" false
llama   hidden_act                       "silu" "swish"  | "gelu" "relu"    |
llama   activation                       "swiglu"        | "geglu"          |
llama   hidden_activation                "silu"          | "gelu"           |
llama   residual_multiplier              1.0 1           | 0.22             |
llama   embedding_multiplier             1.0             | 12.0             |
llama   logits_scaling                   1.0             | 8.0              |
llama   logit_scale                      1.0             | 0.0625           |
llama   attention_multiplier             null            | 0.0078125        |
llama   scale_emb                        1               | 12               |
llama   scale_depth                      null            | 1.4              |
llama   dim_model_base                   null            | 256              |
llama   attn_logit_softcapping           null            | 50.0             |
llama   final_logit_softcapping          null            | 30.0             |
llama   query_pre_attn_scalar            null            | 256              |
llama   qk_layernorm                     false           | true             |
llama   use_qk_norm                      false           | true             |
llama   parallel_attn                    false           | true             |
llama   use_parallel_residual            false           | true             |
llama   alibi                            false           | true             |
llama   bias                             false           | true             |
llama   no_rope_layers                   []              | [1,1,0]          |
llama   is_decoder                       false           | true             |
llama   is_encoder_decoder               false           | true             |
llama   add_cross_attention              false           | true             |
llama   pruned_heads                     {}              | {"1":[0]}        |
llama   quantization_config              null            | {"bits":4}       |
llama   quantization                     null            | {"group_size":64,"bits":4} |
llama   vision_config                    null            | {}               |
llama   architectures                    null ["LlamaForCausalLM"] | ["LlamaModel"] ["MistralForCausalLM"] |
llama   pretraining_tp                   1 2             |                  |
llama   attention_dropout                0.0 0.1         |                  |
llama   torch_dtype                      "float16"       |                  |
llama   max_sequence_length              2048            |                  |
llama   use_flash_attn                   true false      |                  |
llama   repetition_penalty               1.0             |                  |
mistral sliding_window                   null 4096 8     | 0 "x"            |
mistral attention_bias                   false           | true             |
mistral mlp_bias                         false           | true             |
mistral use_sliding_window               false           | true             |
mistral num_local_experts                0               | 8                |
mistral layer_types                      null            | ["full_attention"] |
qwen2   use_sliding_window               false true      | 3                |
qwen2   use_mrope                        false           | true             |
qwen2   max_window_layers                21 70           |                  |
qwen2   num_experts                      0               | 60               |
qwen2   decoder_sparse_step              1               |                  |
qwen2   mlp_only_layers                  []              |                  |
qwen2   use_qk_norm                      false           | true             |
qwen2   rope_scaling                     null {"rope_type":"yarn","factor":4.0,"original_max_position_embeddings":32768} | {"type":"mrope","mrope_section":[16,24,24]} |
qwen3   attention_bias                   false true      |                  |
qwen3   sliding_window                   null 4096       |                  |
qwen3   norm_topk_prob                   true            |                  |
qwen3   num_experts                      0               | 128              |
llava   tie_word_embeddings              false           | 3                |
llava   image_seq_length                 576             |                  |
llava   mm_vision_tower                  null            | "openai/clip"    |
llava   mm_use_im_start_end              false           | true             |
llava   use_image_newline_parameter      true            | false            |
llava   multimodal_projector_bias        true false      |                  |
llava   unsloth_fixed                    true            |                  |
llava   video_token_index                32001           |                  |
llava   spatial_merge_size               1               | 2                |
llava   my_field                         null            |                  | 1
text    unsloth_fixed                    true            |                  |
text    num_experts                      0               | 4                |
text    my_field                         null            |                  | "x"
tower   projection_dim                   768             |                  |
tower   use_rope                         false           | true             |
tower   num_channels                     3               | 1                |
tower   my_field                         null            |                  | [1]
"#;

#[test]
fn fields_are_accepted_refused_or_unknown() {
    let mut rows = 0;
    for line in FIELDS.lines().filter(|line| !line.is_empty()) {
        let columns: Vec<&str> = line.split('|').collect();
        let [first, refused, warned] = columns[..] else { panic!("{line}") };
        let mut words = first.split_whitespace();
        let (place, field) = (words.next().unwrap(), words.next().unwrap());
        let refused = refused.split_whitespace().map(|value| (value, Verdict::Refused));
        let warned = warned.split_whitespace().map(|value| (value, Verdict::Unknown));
        for (value, expected) in words.map(|value| (value, Verdict::Accepted)).chain(refused).chain(warned) {
            assert_eq!(verdict(place, field, value), expected, "{place}: `{field}` is {value}");
            rows += 1;
        }
    }
    assert!(rows > 150, "{rows}");
}

#[test]
fn restricted_fields_accept_only_their_values() {
    let other = r#""something else""#;
    for (place, table) in [
        ("llama", restricted_fields::DECODER),
        ("tower", restricted_fields::TOWER),
        ("llava", restricted_fields::COMPOSITE),
    ] {
        for (field, values) in table {
            // These are read in these places.
            if ["text_config", "vision_config", "use_sliding_window"].contains(field) {
                continue;
            }
            for value in *values {
                assert_eq!(verdict(place, field, value), Verdict::Accepted, "{place}: `{field}` is {value}");
            }
            assert_eq!(verdict(place, field, other), Verdict::Refused, "{place}: `{field}`");
        }
    }
}

#[test]
fn published_models_have_their_number_of_parameters() {
    let published = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/golden/published"));
    // Model, parameters as published, image tokens of a tile.
    let cases = [
        ("smolvlm-256m-instruct", 256_484_928, 64),
        ("smolvlm2-500m-video-instruct", 507_482_304, 64),
        ("smolvlm-instruct", 2_246_272_880, 81),
        ("idefics3-8b-llama3", 8_462_086_384, 169),
        // Its file has a head of its own.
        ("internvl3-1b-hf", 938_193_024 - 151_674 * 896, 256),
        ("qwen2-vl-2b-instruct", 2_208_985_600, 256),
        ("qwen2-vl-7b-instruct", 8_291_375_616, 256),
        ("qwen2.5-vl-3b-instruct", 3_754_622_976, 256),
        ("qwen2.5-vl-7b-instruct", 8_292_166_656, 256),
        ("gemma-3-4b-it", 4_300_079_472, 256),
        ("gemma-3-27b-it", 27_432_406_640, 256),
        // Without images.
        ("gemma-3-1b-it", 999_885_952, 0),
        // As transformers 4.54 saves it: the fields of the decoder twice.
        ("qwen2.5-vl-7b-instruct/config-resaved", 8_292_166_656, 256),
        ("qwen3-vl-2b-instruct", 2_127_532_032, 256),
        ("qwen3-vl-4b-instruct", 4_437_815_808, 256),
        ("qwen3-vl-8b-instruct", 8_767_123_696, 256),
    ];
    for (model, parameters, tile_tokens) in cases {
        let path = if model.contains('/') { format!("{model}.json") } else { format!("{model}/config.json") };
        let config: Map<String, Value> = files::read_json(&published.join(path)).unwrap();
        let Config { architecture, unknown, .. } =
            Config::of(&config).unwrap_or_else(|error| panic!("{model}: {error}"));
        assert_eq!(unknown, [""; 0], "{model}");
        let count: usize = crate::parameters::parameters(&architecture).iter().map(Parameter::len).sum();
        let tokens = architecture.vision.map_or(0, |vision| vision.tile_tokens(vision.own_tile()));
        assert_eq!((count, tokens), (parameters, tile_tokens), "{model}");
    }
}
