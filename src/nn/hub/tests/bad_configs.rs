//! Unsupported and invalid configs: the error names the field, its value and what is supported.

use expect_test::expect;

use super::super::Config;
use super::config;

/// The errors of a decoder with these fields.
fn of_decoder(fields: &str) -> String {
    message(config(&format!("{{{fields}}}")))
}

/// The problems, one a line.
fn message(config: anyhow::Result<Config>) -> String {
    config.unwrap_err().to_string().replace("; `", "\n`") + "\n"
}

/// The errors of a LLaVA with these outer fields, and fields of the decoder and of the tower.
fn of_llava(model_type: &str, outer: &str, text: &str, tower: &str) -> String {
    let sizes = r#""hidden_size": 16, "num_attention_heads": 2, "num_hidden_layers": 2, "intermediate_size": 24"#;
    let text = format!(
        r#"{{"model_type": "{model_type}"{outer}, "text_config": {{"vocab_size": 32001, {sizes}{text}}},
        "vision_config": {{"image_size": 8, "patch_size": 4, {sizes}{tower}}}}}"#
    );
    message(config(&text))
}

#[test]
fn unsupported_model_types_are_refused() {
    let mut messages = String::new();
    messages += &of_decoder("");
    messages += &of_decoder(r#""model_type": "phi3""#);
    messages += &of_decoder(r#""model_type": 3"#);
    messages += &of_decoder(r#""model_type": "llama", "architectures": ["LlamaForSequenceClassification"]"#);
    messages += &of_llava("llava", "", r#", "model_type": "gemma""#, "");
    messages += &of_llava("llava", "", "", r#", "model_type": "siglip", "vision_config": {}"#);
    messages += &of_decoder(r#""model_type": "llava", "vision_config": 3, "text_config": {"vocab_size": 40000}"#);
    expect![[r#"
        `model_type` is missing
        `model_type` is `phi3`: must be one of `llama`, `mistral`, `qwen2`, `qwen3`, `gemma3_text`, `llava`, `llava_next`, `gemma3`, `idefics3`, `internvl`, `smolvlm`, `qwen2_vl`, `qwen2_5_vl`, `qwen3_vl`
        `model_type` must be a string, not 3
        `architectures` is ["LlamaForSequenceClassification"]: only ["LlamaForCausalLM"] is supported
        `text_config.model_type` is `gemma`: must be one of `llama`, `mistral`, `qwen2`, `qwen3`
        `vision_config.model_type` is `siglip`: must be one of `clip_vision_model`, `siglip_vision_model`
        `vision_config.vision_config` is not supported and may change the arithmetic: it is {}
        `vision_config` must be an object, not 3
    "#]]
    .assert_eq(&messages);
}

#[test]
fn bad_decoder_fields_are_refused() {
    let mut messages = String::new();
    messages += &of_decoder(r#""model_type": "llama", "hidden_act": "gelu""#);
    messages += &of_decoder(r#""model_type": "llama", "partial_rotary_factor": 0.5"#);
    messages += &of_decoder(r#""model_type": "llama", "quantization_config": {"bits": 4}"#);
    messages += &of_decoder(r#""model_type": "llama", "sliding_window": 1024"#);
    messages += &of_decoder(r#""model_type": "mistral", "attention_bias": true"#);
    messages += &of_decoder(r#""model_type": "qwen2", "mlp_bias": true, "use_mrope": true"#);
    messages += &of_decoder(r#""model_type": "qwen2", "num_hidden_layers": 2, "layer_types": ["full_attention"]"#);
    let slides = r#""model_type": "qwen3", "num_hidden_layers": 1, "layer_types": ["sliding_attention"]"#;
    messages += &of_decoder(slides);
    messages += &of_decoder(r#""model_type": "llama", "is_decoder": true, "pruned_heads": {"1": [0]}"#);
    messages += &of_decoder(r#""model_type": "llama", "residual_multiplier": 0.2"#);
    messages += &of_decoder(r#""model_type": "llama", "tie_word_embeddings": "yes", "rms_norm_eps": 0"#);
    expect![[r#"
        `hidden_act` is `gelu`: must be one of `silu`, `swish`
        `partial_rotary_factor` is 0.5: only 1.0 is supported
        `quantization_config` is not supported: only weights in F32, F16 or BF16 are
        `sliding_window` is 1024: a window below `max_position_embeddings` (2048) is not supported
        `attention_bias` is true: only false is supported
        `mlp_bias` is true: only false is supported
        `use_mrope` is true: only false is supported
        `layer_types` must be `full_attention` or `sliding_attention` for each of the 2 layers
        `layer_types` has a `sliding_attention`, but `use_sliding_window` is false
        `is_decoder` is true: only false is supported
        `pruned_heads` is {"1":[0]}: only {} is supported
        `residual_multiplier` is 0.2: only 1.0 is supported
        `rms_norm_eps` must be a number above 0, not 0
        `tie_word_embeddings` must be true or false, not "yes"
    "#]]
    .assert_eq(&messages);
}

#[test]
fn sizes_are_bounded_and_must_fit_together() {
    let mut messages = String::new();
    messages += &of_decoder(
        r#""model_type": "llama", "hidden_size": 1099511627776, "num_hidden_layers": 0, "vocab_size": -1,
        "intermediate_size": 1.5, "num_attention_heads": "8""#,
    );
    messages += &of_decoder(r#""model_type": "llama", "hidden_size": 30, "num_attention_heads": 4"#);
    messages += &of_decoder(r#""model_type": "llama", "head_dim": 5, "num_key_value_heads": 5"#);
    messages += &of_decoder(r#""model_type": "llama", "hidden_size": 1048576, "num_hidden_layers": 1000000"#);
    messages += &of_llava("llava", r#", "image_token_index": 32001"#, "", "");
    messages += &of_llava("llava", "", "", r#", "num_attention_heads": 3, "patch_size": 9"#);
    expect![[r#"
        `hidden_size` must be a whole number from 1 to 1048576, not 1099511627776
        `num_hidden_layers` must be a whole number from 1 to 1048576, not 0
        `num_attention_heads` must be a whole number from 1 to 1048576, not "8"
        `vocab_size` must be a whole number from 1 to 16777216, not -1
        `intermediate_size` must be a whole number from 1 to 1048576, not 1.5
        `num_attention_heads` must divide `hidden_size` (30), which 4 does not
        `head_dim` must be even for rotary positions, not 5
        `num_key_value_heads` must divide `num_attention_heads` (32), which 5 does not
        `model_type` has sizes of 4432674752036864000 parameters: at most 274877906944 are possible
        `model_type` has 1000000 layers: at most 10000 are possible
        `image_token_index` is 32001, outside the vocabulary of 32001 tokens
        `vision_config.num_attention_heads` must divide `hidden_size` (16), which 3 does not
        `vision_config.patch_size` must not exceed `image_size` (8), which 9 does
    "#]]
    .assert_eq(&messages);
}

#[test]
fn bad_rope_fields_are_refused() {
    let mut messages = String::new();
    let of_rope = |rope: &str| of_decoder(&format!(r#""model_type": "llama", {rope}"#));
    messages += &of_rope(r#""rope_scaling": {"type": "longrope", "factor": 2.0}"#);
    messages += &of_rope(r#""rope_parameters": {"rope_type": "linear"}"#);
    messages += &of_rope(r#""rope_parameters": {"rope_type": "llama3", "factor": 0, "high_freq_factor": 1.0}"#);
    messages += &of_rope(r#""rope_parameters": {"full_attention": {"rope_type": "default"}}"#);
    messages += &of_rope(r#""rope_parameters": {}, "rope_scaling": {"type": "linear", "factor": 2}"#);
    messages += &of_rope(r#""rope_parameters": {"rope_type": "yarn", "partial_rotary_factor": 0.25}"#);
    messages += &of_rope(r#""rope_theta": 1"#);
    messages += &of_rope(r#""rope_theta": null"#);
    expect![[r#"
        `rope_scaling.rope_type` is `longrope`: must be one of `default`, `linear`, `dynamic`, `llama3`, `yarn`
        `rope_parameters.factor` is missing
        `rope_parameters.low_freq_factor` is missing
        `rope_parameters.factor` must be a number above 0, not 0
        `rope_parameters.full_attention` is not supported and may change the arithmetic: it is {"rope_type":"default"}
        `rope_scaling` must not be given together with `rope_parameters`, its newer form
        `rope_parameters.partial_rotary_factor` is 0.25: only 1.0 is supported
        `rope_parameters.factor` is missing
        `rope_theta` must be a number above 1, not 1
        `rope_theta` must be a number above 1, not null
    "#]]
    .assert_eq(&messages);
}

#[test]
fn bad_vision_fields_are_refused() {
    let mut messages = String::new();
    messages += &of_llava("llava", "", "", r#", "hidden_act": "relu", "num_channels": 1"#);
    messages += &of_llava("llava", r#", "projector_hidden_act": "silu""#, "", "");
    messages += &of_llava("llava", r#", "vision_feature_layer": 3"#, "", "");
    messages += &of_llava("llava", r#", "vision_feature_layer": []"#, "", "");
    messages += &of_llava("llava", r#", "vision_feature_select_strategy": "cls""#, "", "");
    messages += &of_llava("llava", r#", "image_token_index": 7, "image_token_id": 8"#, "", "");
    messages += &of_llava("llava", r#", "mm_vision_tower": "openai/clip-vit-large-patch14""#, "", "");
    let pinpoints = r#", "image_grid_pinpoints": [[8, 16]]"#;
    let full = format!(r#"{pinpoints}, "vision_feature_select_strategy": "full""#);
    messages += &of_llava("llava_next", &full, "", "");
    messages += &of_llava("llava_next", pinpoints, "", r#", "model_type": "siglip_vision_model""#);
    messages += &of_llava("llava_next", r#", "image_grid_pinpoints": [[8, 12]]"#, "", "");
    expect![[r#"
        `vision_config.num_channels` is 1: only 3 is supported
        `vision_config.hidden_act` is `relu`: must be one of `gelu`, `quick_gelu`, `gelu_pytorch_tanh`, `gelu_new`
        `projector_hidden_act` is `silu`: must be one of `gelu`, `quick_gelu`, `gelu_pytorch_tanh`, `gelu_new`
        `vision_feature_layer` must be a whole number or a list of them, each from -3 to 2, not 3
        `vision_feature_layer` must be a whole number or a list of them, each from -3 to 2, not []
        `vision_feature_select_strategy` is `cls`: must be one of `default`, `full`
        `image_token_id` is 8, but `image_token_index` is 7
        `mm_vision_tower` is not supported and may change the arithmetic: it is "openai/clip-vit-large-patch14"
        `vision_feature_select_strategy` must be `default` for tiles of a tower with a class token
        `vision_feature_select_strategy` must be `full` for tiles of a tower with no class token
        `image_grid_pinpoints` must be pairs of multiples of `vision_config.image_size` (8) up to 512
    "#]]
    .assert_eq(&messages);
}
