//! Fields of `config.json` that several families with images have.

use serde_json::json;

use super::fields::Fields;
use super::{ignored_fields, restricted_fields};
use crate::architecture::{Activation, VisionFamily, Vit};

/// Activations by their names in transformers.
pub(super) const ACTIVATIONS: [(&str, Activation); 4] = [
    ("gelu", Activation::Gelu),
    ("quick_gelu", Activation::QuickGelu),
    ("gelu_pytorch_tanh", Activation::GeluTanh),
    ("gelu_new", Activation::GeluTanh),
];

/// `image_token_index`, which some files call `image_token_id`, or the default of the class.
pub(super) fn image_token(outer: &Fields, default: u32) -> u32 {
    let id = |name| outer.optional_count(name, 0, u32::MAX as usize);
    let (index, id) = (id("image_token_index"), id("image_token_id"));
    if let (Some(index), Some(id)) = (index, id)
        && index != id
    {
        outer.wrong("image_token_id", format!("is {id}, but `image_token_index` is {index}"));
    }
    index.or(id).map_or(default, |id| id as u32)
}

/// Checks that the sizes of a vision transformer fit each other.
pub(super) fn check_tower_sizes(tower: &Fields, [dim, heads]: [usize; 2], [image_size, patch_size]: [usize; 2]) {
    if !dim.is_multiple_of(heads) {
        tower.wrong("num_attention_heads", format!("must divide `hidden_size` ({dim}), which {heads} does not"));
    }
    if patch_size > image_size {
        tower.wrong("patch_size", format!("must not exceed `image_size` ({image_size}), which {patch_size} does"));
    }
}

/// A CLIP or SigLIP tower: `clip_vision_model` or `siglip_vision_model`. All features of the last block are taken, and normalized.
pub(super) fn read_vit(tower: &Fields, family: VisionFamily) -> Vit {
    let clip = family == VisionFamily::Clip;
    let before = tower.problems();
    let dim = tower.size("hidden_size", 768);
    let heads = tower.size("num_attention_heads", 12);
    let layers = tower.size("num_hidden_layers", 12);
    let image_size = tower.size("image_size", 224);
    let patch_size = tower.size("patch_size", if clip { 32 } else { 16 });
    if tower.problems() == before {
        check_tower_sizes(tower, [dim, heads], [image_size, patch_size]);
    }
    tower.only("num_channels", &json!(3));
    let activation = tower.choice("hidden_act", if clip { "quick_gelu" } else { "gelu_pytorch_tanh" }, &ACTIVATIONS);
    let vit = Vit {
        family,
        image_size,
        patch_size,
        dim,
        layers,
        heads,
        ff: tower.size("intermediate_size", 3072),
        norm_eps: tower.positive("layer_norm_eps", if clip { 1e-5 } else { 1e-6 }),
        activation: activation.unwrap_or(Activation::Gelu),
        feature_layers: vec![layers],
        skip_first: false,
        final_norm: true,
        qkv_bias: true,
        qk_norm: false,
        rms_norm: false,
        pooling: !clip && tower.flag("vision_use_head", true),
    };
    restricted_fields::refuse_quantization(tower);
    tower.finish(
        &[ignored_fields::BASE, ignored_fields::GENERATION, ignored_fields::TRAINING, ignored_fields::VISION],
        restricted_fields::TOWER,
    );
    vit
}
