//! The decoder of Gemma 3, `gemma3_text`: what it has besides the fields of other decoders.

use serde_json::json;

use super::fields::Fields;
use super::layer_types::layer_types;
use super::rope;
use crate::architecture::{Activation, Decoder, LocalAttention};

/// What Gemma 3's decoder has besides the fields of other decoders.
pub(super) fn decoder(fields: &Fields, plain: Decoder) -> Decoder {
    let activations = [("gelu_pytorch_tanh", ()), ("gelu_new", ())];
    fields.choice("hidden_activation", "gelu_pytorch_tanh", &activations);
    fields.only("use_bidirectional_attention", &json!(false));
    Decoder {
        activation: Activation::Geglu,
        norm_offset: true,
        output_norms: true,
        head_norm: true,
        embedding_scale: Some((plain.dim as f64).sqrt()),
        score_factor: Some(1.0 / fields.positive("query_pre_attn_scalar", 256.0).sqrt()),
        local: local(fields, plain.layers, plain.max_positions),
        ..plain
    }
}

/// The layers with a window. Up to transformers 4.52, files have the distance between layers without one.
fn local(fields: &Fields, layers: usize, max_positions: usize) -> Option<LocalAttention> {
    let window = fields.size("sliding_window", 4096);
    let every = fields.size("sliding_window_pattern", 6);
    // A copy of `sliding_window_pattern`, which the class does not read.
    fields.skip("_sliding_window_pattern");
    let by_pattern = || (1..=layers).map(|number| !number.is_multiple_of(every)).collect();
    let layers = layer_types(fields, layers).unwrap_or_else(by_pattern);
    let rope = rope::read_local(fields, max_positions, 10_000.0);
    if !layers.contains(&true) {
        return None;
    }
    if fields.has("sliding_window") && fields.value("sliding_window").is_none() {
        fields.wrong("sliding_window", "is null, but `layer_types` has a `sliding_attention`");
    }
    Some(LocalAttention { window, rope, layers })
}
