//! Reads the `vision_config` of LLaVA's `config.json` and the outer fields about images: towers `clip_vision_model` and
//! `siglip_vision_model`. Fields and defaults are those of the configuration classes of transformers 5.24.

use serde_json::{Map, Value, json};

use super::fields::{Fields, Problems};
use super::{ignored_fields, restricted_fields};
use crate::architecture::{Activation, Projector, Vision, VisionFamily};

/// Activations by their names in transformers.
const ACTIVATIONS: [(&str, Activation); 4] = [
    ("gelu", Activation::Gelu),
    ("quick_gelu", Activation::QuickGelu),
    ("gelu_pytorch_tanh", Activation::GeluTanh),
    ("gelu_new", Activation::GeluTanh),
];

/// Reads the tower and the projector to a decoder of width `decoder`. `tiled`: LLaVA-NeXT.
pub(super) fn read<'a>(outer: &Fields<'a>, decoder: usize, tiled: bool, problems: &'a Problems) -> Vision {
    if let Some(tower) = outer.inner("vision_config") {
        return read_tower(outer, &tower, decoder, tiled);
    }
    let config = default_config();
    read_tower(outer, &Fields::new(&config, "vision_config.".to_string(), problems), decoder, tiled)
}

/// The defaults of LLaVA's class without a `vision_config`.
fn default_config() -> Map<String, Value> {
    let sizes = [
        ("intermediate_size", 4096),
        ("hidden_size", 1024),
        ("patch_size", 14),
        ("image_size", 336),
        ("num_hidden_layers", 24),
        ("num_attention_heads", 16),
    ];
    sizes.into_iter().map(|(name, size)| (name.to_string(), json!(size))).collect()
}

fn read_tower(outer: &Fields, tower: &Fields, decoder: usize, tiled: bool) -> Vision {
    let towers = [("clip_vision_model", VisionFamily::Clip), ("siglip_vision_model", VisionFamily::Siglip)];
    let family = tower.choice("model_type", "clip_vision_model", &towers);
    let clip = family != Some(VisionFamily::Siglip);
    let before = tower.problems();
    let dim = tower.size("hidden_size", 768);
    let heads = tower.size("num_attention_heads", 12);
    let layers = tower.size("num_hidden_layers", 12);
    let image_size = tower.size("image_size", 224);
    let patch_size = tower.size("patch_size", if clip { 32 } else { 16 });
    if tower.problems() == before {
        if !dim.is_multiple_of(heads) {
            tower.wrong("num_attention_heads", format!("must divide `hidden_size` ({dim}), which {heads} does not"));
        }
        if patch_size > image_size {
            tower.wrong("patch_size", format!("must not exceed `image_size` ({image_size}), which {patch_size} does"));
        }
    }
    tower.only("num_channels", &json!(3));
    let activation = tower.choice("hidden_act", if clip { "quick_gelu" } else { "gelu_pytorch_tanh" }, &ACTIVATIONS);
    let pooling = !clip && tower.flag("vision_use_head", true);
    let norm_eps = tower.positive("layer_norm_eps", if clip { 1e-5 } else { 1e-6 });
    let ff = tower.size("intermediate_size", 3072);
    restricted_fields::refuse_quantization(tower);
    tower.finish(
        &[ignored_fields::BASE, ignored_fields::GENERATION, ignored_fields::TRAINING, ignored_fields::VISION],
        restricted_fields::TOWER,
    );

    let strategies = [("default", false), ("full", true)];
    let full = outer.choice("vision_feature_select_strategy", "default", &strategies).unwrap_or(false);
    // LLaVA-NeXT arranges the patches of a tile in a square, so their number must be exact.
    if tiled && full == clip {
        let (token, strategy) = if clip { ("a class token", "default") } else { ("no class token", "full") };
        let message = format!("must be `{strategy}` for tiles of a tower with {token}");
        outer.wrong("vision_feature_select_strategy", message);
    }
    if !clip && !full && image_size / patch_size == 1 {
        outer.wrong("vision_feature_select_strategy", "drops the first patch, which is the only one");
    }
    Vision {
        family: family.unwrap_or(VisionFamily::Clip),
        image_token: image_token(outer),
        image_size,
        patch_size,
        dim,
        layers,
        heads,
        ff,
        norm_eps,
        activation: activation.unwrap_or(Activation::Gelu),
        feature_layers: feature_layers(outer, layers),
        skip_first: !full,
        pooling,
        projector: Projector {
            hidden: decoder,
            activation: outer.choice("projector_hidden_act", "gelu", &ACTIVATIONS).unwrap_or(Activation::Gelu),
            bias: outer.flag("multimodal_projector_bias", true),
        },
        tiled,
    }
}

/// `image_token_index`, which some files call `image_token_id`.
fn image_token(outer: &Fields) -> u32 {
    let id = |name| outer.optional_count(name, 0, u32::MAX as usize);
    let (index, id) = (id("image_token_index"), id("image_token_id"));
    if let (Some(index), Some(id)) = (index, id)
        && index != id
    {
        outer.wrong("image_token_id", format!("is {id}, but `image_token_index` is {index}"));
    }
    index.or(id).unwrap_or(32_000) as u32
}

/// `vision_feature_layer` as numbers of blocks. It is an index of the tower's hidden states: the first one is before all
/// blocks (after CLIP's `pre_layrnorm`), and none is after `post_layernorm`. A negative index counts from the end.
fn feature_layers(outer: &Fields, layers: usize) -> Vec<usize> {
    let name = "vision_feature_layer";
    let Some(value) = outer.value(name) else { return vec![layers - 1] };
    let whole = |value: &Value| value.as_i64().map(|index| vec![index]);
    let list = |value: &Value| value.as_array().and_then(|list| list.iter().map(Value::as_i64).collect());
    let states = layers as i64 + 1;
    let indices: Option<Vec<i64>> = whole(value).or_else(|| list(value)).filter(|indices| !indices.is_empty());
    match indices {
        Some(indices)
            if indices.len() <= layers + 1 && indices.iter().all(|index| (-states..states).contains(index)) =>
        {
            indices.iter().map(|index| index.rem_euclid(states) as usize).collect()
        }
        _ => {
            let message = format!("must be a whole number or a list of them, each from -{states} to {layers}");
            outer.wrong(name, format!("{message}, not {value}"));
            vec![layers]
        }
    }
}
