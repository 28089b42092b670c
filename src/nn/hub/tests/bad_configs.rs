//! Configs that are not supported or wrong: each is told with its field, its value and what is supported.

use expect_test::expect;

use super::super::Config;
use super::config;

/// What is told of a decoder with these fields.
fn of_decoder(fields: &str) -> String {
    told(config(&format!("{{{fields}}}")))
}

/// The problems, one a line.
fn told(config: anyhow::Result<Config>) -> String {
    config.unwrap_err().to_string().replace("; `", "\n`") + "\n"
}

/// What is told of a LLaVA with these fields outside, in the decoder and in the tower.
fn of_llava(model_type: &str, outer: &str, text: &str, tower: &str) -> String {
    let sizes = r#""hidden_size": 16, "num_attention_heads": 2, "num_hidden_layers": 2, "intermediate_size": 24"#;
    let text = format!(
        r#"{{"model_type": "{model_type}"{outer}, "text_config": {{"vocab_size": 32001, {sizes}{text}}},
        "vision_config": {{"image_size": 8, "patch_size": 4, {sizes}{tower}}}}}"#
    );
    told(config(&text))
}

#[test]
fn a_kind_of_model_that_is_not_supported() {
    let mut told = String::new();
    told += &of_decoder("");
    told += &of_decoder(r#""model_type": "phi3""#);
    told += &of_decoder(r#""model_type": 3"#);
    told += &of_decoder(r#""model_type": "llama", "architectures": ["LlamaForSequenceClassification"]"#);
    told += &of_llava("llava", "", r#", "model_type": "gemma""#, "");
    told += &of_llava("llava", "", "", r#", "model_type": "siglip", "vision_config": {}"#);
    told += &of_decoder(r#""model_type": "llava", "vision_config": 3, "text_config": {"vocab_size": 40000}"#);
    expect![[r#"
        `model_type` is missing
        `model_type` is `phi3`: supported is `llama`, `mistral`, `qwen2`, `qwen3`, `llava`, `llava_next`
        `model_type` must be a text, not 3
        `architectures` is ["LlamaForSequenceClassification"]: supported is ["LlamaForCausalLM"] only
        `text_config.model_type` is `gemma`: supported is `llama`, `mistral`, `qwen2`, `qwen3`
        `vision_config.model_type` is `siglip`: supported is `clip_vision_model`, `siglip_vision_model`
        `vision_config.vision_config` is not supported and may change the arithmetic: it is {}
        `vision_config` must be an object, not 3
    "#]]
    .assert_eq(&told);
}

#[test]
fn fields_of_a_decoder() {
    let mut told = String::new();
    told += &of_decoder(r#""model_type": "llama", "hidden_act": "gelu""#);
    told += &of_decoder(r#""model_type": "llama", "partial_rotary_factor": 0.5"#);
    told += &of_decoder(r#""model_type": "llama", "quantization_config": {"bits": 4}"#);
    told += &of_decoder(r#""model_type": "llama", "sliding_window": 1024"#);
    told += &of_decoder(r#""model_type": "mistral", "attention_bias": true"#);
    told += &of_decoder(r#""model_type": "qwen2", "mlp_bias": true, "use_mrope": true"#);
    told += &of_decoder(r#""model_type": "qwen2", "num_hidden_layers": 2, "layer_types": ["full_attention"]"#);
    let slides = r#""model_type": "qwen3", "num_hidden_layers": 1, "layer_types": ["sliding_attention"]"#;
    told += &of_decoder(slides);
    told += &of_decoder(r#""model_type": "llama", "is_decoder": true, "pruned_heads": {"1": [0]}"#);
    told += &of_decoder(r#""model_type": "llama", "residual_multiplier": 0.2"#);
    told += &of_decoder(r#""model_type": "llama", "tie_word_embeddings": "yes", "rms_norm_eps": 0"#);
    expect![[r#"
        `hidden_act` is `gelu`: supported is `silu`, `swish`
        `partial_rotary_factor` is 0.5: supported is 1.0 only
        `quantization_config` is not supported: only weights in F32, F16 or BF16 are
        `sliding_window` is 1024: supported is none below `max_position_embeddings` (2048)
        `attention_bias` is true: supported is false only
        `mlp_bias` is true: supported is false only
        `use_mrope` is true: supported is false only
        `layer_types` must be `full_attention` or `sliding_attention` for each of the 2 layers
        `layer_types` has a `sliding_attention`, but `use_sliding_window` is false
        `is_decoder` is true: supported is false only
        `pruned_heads` is {"1":[0]}: supported is {} only
        `residual_multiplier` is 0.2: supported is 1.0 only
        `rms_norm_eps` must be a number above 0, not 0
        `tie_word_embeddings` must be true or false, not "yes"
    "#]]
    .assert_eq(&told);
}

#[test]
fn sizes_are_bounded_and_must_fit_together() {
    let mut told = String::new();
    told += &of_decoder(
        r#""model_type": "llama", "hidden_size": 1099511627776, "num_hidden_layers": 0, "vocab_size": -1,
        "intermediate_size": 1.5, "num_attention_heads": "8""#,
    );
    told += &of_decoder(r#""model_type": "llama", "hidden_size": 30, "num_attention_heads": 4"#);
    told += &of_decoder(r#""model_type": "llama", "head_dim": 5, "num_key_value_heads": 5"#);
    told += &of_decoder(r#""model_type": "llama", "hidden_size": 1048576, "num_hidden_layers": 1000000"#);
    told += &of_llava("llava", r#", "image_token_index": 32001"#, "", "");
    told += &of_llava("llava", "", "", r#", "num_attention_heads": 3, "patch_size": 9"#);
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
    .assert_eq(&told);
}

#[test]
fn rotary_positions() {
    let mut told = String::new();
    let of_rope = |rope: &str| of_decoder(&format!(r#""model_type": "llama", {rope}"#));
    told += &of_rope(r#""rope_scaling": {"type": "longrope", "factor": 2.0}"#);
    told += &of_rope(r#""rope_parameters": {"rope_type": "linear"}"#);
    told += &of_rope(r#""rope_parameters": {"rope_type": "llama3", "factor": 0, "high_freq_factor": 1.0}"#);
    told += &of_rope(r#""rope_parameters": {"full_attention": {"rope_type": "default"}}"#);
    told += &of_rope(r#""rope_parameters": {}, "rope_scaling": {"type": "linear", "factor": 2}"#);
    told += &of_rope(r#""rope_parameters": {"rope_type": "yarn", "partial_rotary_factor": 0.25}"#);
    told += &of_rope(r#""rope_theta": 1"#);
    expect![[r#"
        `rope_scaling.rope_type` is `longrope`: supported is `default`, `linear`, `dynamic`, `llama3`, `yarn`
        `rope_parameters.factor` is missing
        `rope_parameters.low_freq_factor` is missing
        `rope_parameters.factor` must be a number above 0, not 0
        `rope_parameters.full_attention` is not supported and may change the arithmetic: it is {"rope_type":"default"}
        `rope_scaling` stands beside `rope_parameters`, which says the same in the newer form
        `rope_parameters.partial_rotary_factor` is 0.25: supported is 1.0 only
        `rope_parameters.factor` is missing
        `rope_theta` must be a number above 1, not 1
    "#]]
    .assert_eq(&told);
}

#[test]
fn towers_and_projectors() {
    let mut told = String::new();
    told += &of_llava("llava", "", "", r#", "hidden_act": "relu", "num_channels": 1"#);
    told += &of_llava("llava", r#", "projector_hidden_act": "silu""#, "", "");
    told += &of_llava("llava", r#", "vision_feature_layer": 3"#, "", "");
    told += &of_llava("llava", r#", "vision_feature_layer": []"#, "", "");
    told += &of_llava("llava", r#", "vision_feature_select_strategy": "cls""#, "", "");
    told += &of_llava("llava", r#", "image_token_index": 7, "image_token_id": 8"#, "", "");
    told += &of_llava("llava", r#", "mm_vision_tower": "openai/clip-vit-large-patch14""#, "", "");
    let pinpoints = r#", "image_grid_pinpoints": [[8, 16]]"#;
    let full = format!(r#"{pinpoints}, "vision_feature_select_strategy": "full""#);
    told += &of_llava("llava_next", &full, "", "");
    told += &of_llava("llava_next", pinpoints, "", r#", "model_type": "siglip_vision_model""#);
    told += &of_llava("llava_next", r#", "image_grid_pinpoints": [[8, 12]]"#, "", "");
    expect![[r#"
        `vision_config.num_channels` is 1: supported is 3 only
        `vision_config.hidden_act` is `relu`: supported is `gelu`, `quick_gelu`, `gelu_pytorch_tanh`, `gelu_new`
        `projector_hidden_act` is `silu`: supported is `gelu`, `quick_gelu`, `gelu_pytorch_tanh`, `gelu_new`
        `vision_feature_layer` must be a whole number or a list of them, each from -3 to 2, not 3
        `vision_feature_layer` must be a whole number or a list of them, each from -3 to 2, not []
        `vision_feature_select_strategy` is `cls`: supported is `default`, `full`
        `image_token_id` is 8, but `image_token_index` is 7
        `mm_vision_tower` is not supported and may change the arithmetic: it is "openai/clip-vit-large-patch14"
        `vision_feature_select_strategy` must be `default` for tiles of a tower with a class token
        `vision_feature_select_strategy` must be `full` for tiles of a tower with no class token
        `image_grid_pinpoints` must be pairs of multiples of `vision_config.image_size` (8) up to 512
    "#]]
    .assert_eq(&told);
}
