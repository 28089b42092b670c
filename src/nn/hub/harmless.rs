//! Fields of `config.json` that transformers writes and that have no say in what a model computes at inference, or only
//! at one value. Lists for the configuration classes of transformers 4 and 5.

use serde_json::json;

use super::fields::Fields;

/// Where the file comes from, and what the base class of all configurations writes.
pub(super) const BASE: &[&str] = &[
    "_attn_implementation",
    "_attn_implementation_autoset",
    "_attn_implementation_internal",
    "_commit_hash",
    "_experts_implementation_internal",
    "_flash_attn_2_enabled",
    "_name_or_path",
    "_output_attentions",
    "architectures",
    "attn_implementation",
    "bos_token_id",
    "chunk_size_feed_forward",
    "decoder_start_token_id",
    "dtype",
    "eos_token_id",
    "experts_implementation",
    "finetuning_task",
    "id2label",
    "label2id",
    "name_or_path",
    "num_labels",
    "output_attentions",
    "output_hidden_states",
    "pad_token_id",
    "prefix",
    "problem_type",
    "return_dict",
    "sep_token_id",
    "task_specific_params",
    "tf_legacy_loss",
    "tokenizer_class",
    "torch_dtype",
    "torchscript",
    "transformers_version",
    "use_bfloat16",
    "use_cache",
];

/// Settings of generation, which transformers 4 kept in `config.json` and transformers 5 throws away on reading.
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

/// Dropout, which is off at inference and which we do not train with; fresh weights; how matrices were once sliced.
pub(super) const TRAINING: &[&str] = &[
    "attention_dropout",
    "dropout",
    "embd_pdrop",
    "hidden_dropout",
    "initializer_factor",
    "initializer_range",
    "pretraining_tp",
    "resid_pdrop",
];

/// Of a vision tower: sizes of the text tower that it was trained beside.
pub(super) const VISION: &[&str] = &["projection_dim", "tie_word_embeddings", "vocab_size"];

/// Of LLaVA's outer object: for the processor, for the loss, or a copy of a field of `text_config`.
pub(super) const COMPOSITE: &[&str] = &["ignore_index", "image_seq_length", "vocab_size"];

/// Fields of the base class with a say, at the only value that is supported.
pub(super) fn refuse_the_rest_of_the_base(fields: &Fields) {
    for name in ["add_cross_attention", "is_decoder", "is_encoder_decoder", "tie_encoder_decoder"] {
        fields.only(name, &json!(false));
    }
    fields.only("pruned_heads", &json!({}));
    if fields.value("cross_attention_hidden_size").is_some() {
        fields.wrong("cross_attention_hidden_size", "is not supported");
    }
    if fields.value("quantization_config").is_some() {
        fields.wrong("quantization_config", "is not supported: only weights in F32, F16 or BF16 are");
    }
}
