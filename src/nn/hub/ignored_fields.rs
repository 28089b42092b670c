//! Fields of `config.json` that change nothing at inference, whatever their value: fields that transformers 4 and 5 write, and
//! fields of published checkpoints that the classes of these models do not read.

/// The origin of the file, fields of the base class of all configurations, and fields of other programs.
pub(super) const BASE: &[&str] = &[
    "_attn_implementation",
    "_attn_implementation_autoset",
    "_attn_implementation_internal",
    "_comment",
    "_commit_hash",
    "_diffusers_version",
    "_experts_implementation_internal",
    "_flash_attn_2_enabled",
    "_name_or_path",
    "_output_attentions",
    "architectures",
    "attn_implementation",
    "auto_map",
    "base_model",
    "bos_token_id",
    "cache_implementation",
    "chunk_size_feed_forward",
    "cls_token_id",
    "comment",
    "decoder_start_token_id",
    "dtype",
    "eos_token_id",
    "experts_implementation",
    "finetuning_task",
    "flash_attn",
    "forced_decoder_ids",
    "gradient_checkpointing",
    "id2label",
    "is_composition",
    "label2id",
    "language",
    "license",
    "mask_token_id",
    "max_seq_len",
    "max_seq_length",
    "max_sequence_length",
    "model_max_length",
    "model_name",
    "name_or_path",
    "neuron",
    "num_labels",
    "onnx",
    "output_attentions",
    "output_hidden_states",
    "pad_token_id",
    "pipeline_tag",
    "prefix",
    "problem_type",
    "return_dict",
    "sep_token_id",
    "seq_length",
    "task_specific_params",
    "tf_legacy_loss",
    "tokenizer_class",
    "tokenizer_model_max_length",
    "tokenizer_padding_side",
    "torch_dtype",
    "torchscript",
    "transformers.js_config",
    "transformers_version",
    "unk_token_id",
    "unsloth_fixed",
    "unsloth_version",
    "use_bfloat16",
    "use_cache",
    "use_flash_attention",
    "use_flash_attention_2",
    "use_flash_attn",
    "use_flash_attn_2",
    "use_return_dict",
];

/// Generation settings, which transformers 4 kept in `config.json` and transformers 5 discards.
pub(super) const GENERATION: &[&str] = &[
    "assistant_confidence_threshold",
    "assistant_lookbehind",
    "bad_words_ids",
    "begin_suppress_tokens",
    "diversity_penalty",
    "do_sample",
    "early_stopping",
    "encoder_no_repeat_ngram_size",
    "encoder_repetition_penalty",
    "epsilon_cutoff",
    "eta_cutoff",
    "exponential_decay_length_penalty",
    "forced_bos_token_id",
    "forced_eos_token_id",
    "length_penalty",
    "max_length",
    "min_length",
    "no_repeat_ngram_size",
    "num_assistant_tokens",
    "num_assistant_tokens_schedule",
    "num_beam_groups",
    "num_beams",
    "num_return_sequences",
    "output_scores",
    "remove_invalid_values",
    "repetition_penalty",
    "return_dict_in_generate",
    "suppress_tokens",
    "target_lookbehind",
    "temperature",
    "top_k",
    "top_p",
    "typical_p",
];

/// Dropout (off at inference, and not used in training here), initialization, and `pretraining_tp`.
pub(super) const TRAINING: &[&str] = &[
    "attention_dropout",
    "attention_probs_dropout_prob",
    "classifier_dropout",
    "dropout",
    "embd_pdrop",
    "embed_dropout",
    "ffn_dropout",
    "freeze_backbone",
    "hidden_dropout",
    "hidden_dropout_prob",
    "init_std",
    "initializer_factor",
    "initializer_range",
    "initializer_std",
    "label_smoothing",
    "lora_dropout",
    "neftune_noise_alpha",
    "pretraining_tp",
    "resid_pdrop",
    "residual_dropout",
    "use_unsloth_gradient_checkpointing",
    "z_loss_weight",
];

/// Of a decoder: window limits, expert settings, and settings of the resampler of Idefics2. `restricted_fields` refuses layers with
/// windows or experts, and the resampler.
pub(super) const DECODER: &[&str] = &[
    "decoder_sparse_step",
    "max_window_layers",
    "mlp_only_layers",
    "moe_intermediate_size",
    "norm_topk_prob",
    "num_experts_per_tok",
    "num_experts_per_token",
    "output_router_logits",
    "perceiver_config",
    "pixel_shuffle_factor",
    "router_aux_loss_coef",
    "router_jitter_noise",
    "scoring_func",
    "shared_expert_intermediate_size",
];

/// Of a vision tower: sizes of the text tower with which it was trained.
pub(super) const VISION: &[&str] = &["projection_dim", "tie_word_embeddings", "vocab_size"];

/// Of LLaVA's outer object: for the processor, for the loss, or a copy of a field of `text_config`.
pub(super) const COMPOSITE: &[&str] =
    &["ignore_index", "image_seq_length", "video_token_id", "video_token_index", "vocab_size"];

/// Fields of a Qwen2 decoder.
pub(super) const QWEN2_TEXT: &[&str] = &[
    "attention_bias",
    "head_dim",
    "hidden_act",
    "hidden_size",
    "intermediate_size",
    "layer_types",
    "max_position_embeddings",
    "num_attention_heads",
    "num_hidden_layers",
    "num_key_value_heads",
    "rms_norm_eps",
    "rope_parameters",
    "rope_scaling",
    "rope_theta",
    "sliding_window",
    "use_sliding_window",
    "vocab_size",
];

/// Of the tower of Idefics3: sizes of images before they are cut, which the image processor has.
pub(super) const IDEFICS3_VISION: &[&str] = &["max_image_size", "size", "use_base_siglip"];

/// Of the outer object of Idefics3: what training and other code reads.
pub(super) const IDEFICS3: &[&str] =
    &["_pad_token_id", "freeze_config", "image_seq_len", "perceiver_config", "use_reentrant_checkpointing"];

/// Of the tower of InternVL: initial values, dropout, and fields of the code that it was published with.
pub(super) const INTERN_VIT: &[&str] = &["drop_path_rate", "layer_scale_init_value", "projection_dropout"];
