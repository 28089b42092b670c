//! LLaVA 1.5 and LLaVA-NeXT (Liu et al. 2023, 2024): `llava`, `llava_next`. Towers `clip_vision_model` and
//! `siglip_vision_model`. Fields and defaults are those of the configuration classes of transformers 5.24.

use serde_json::{Map, Value, json};

use super::inner_decoder;
use crate::architecture::{Activation, Architecture, Family, Projector, Tower, Vision, VisionFamily, Vit};
use crate::hub::fields::{Fields, Problems};
use crate::hub::names::{DECODER, HEAD, NamingScheme, PROJECTOR, Schemes, TOWER};
use crate::hub::vision_fields::{ACTIVATIONS, image_token, read_vit};
use crate::hub::{ignored_fields, restricted_fields, text};

const NEWLINE: &str = "image_newline";

/// Files of all versions have `language_model.model.layers`; models in memory since transformers 4.52, some files and all adapters
/// have `model.language_model.layers`. The tower is `vision_tower.vision_model` up to transformers 4, and `vision_tower` since
/// transformers 5.
pub(in crate::hub) const SCHEMES: Schemes = Schemes {
    family: "LLaVA",
    all: &[
        NamingScheme(&[
            (DECODER, "language_model.model."),
            (HEAD, "language_model.lm_head."),
            (TOWER, TOWER),
            (PROJECTOR, PROJECTOR),
            (NEWLINE, NEWLINE),
        ]),
        NamingScheme(&[
            (DECODER, "language_model.model."),
            (HEAD, "language_model.lm_head."),
            (TOWER, "vision_tower."),
            (PROJECTOR, PROJECTOR),
            (NEWLINE, NEWLINE),
        ]),
        NamingScheme(&[
            (DECODER, "model.language_model."),
            (HEAD, HEAD),
            (TOWER, "model.vision_tower.vision_model."),
            (PROJECTOR, "model.multi_modal_projector."),
            (NEWLINE, "model.image_newline"),
        ]),
        NamingScheme(&[
            (DECODER, "model.language_model."),
            (HEAD, HEAD),
            (TOWER, "model.vision_tower."),
            (PROJECTOR, "model.multi_modal_projector."),
            (NEWLINE, "model.image_newline"),
        ]),
    ],
};

/// The largest number of grids.
const MAX_PINPOINTS: usize = 1000;

/// A decoder in `text_config` with a vision tower in `vision_config`, and the grids of tiles of LLaVA-NeXT (`tiled`).
pub(in crate::hub) fn read<'a>(
    fields: &Fields<'a>,
    tiled: bool,
    problems: &'a Problems,
) -> (Architecture, Vec<(usize, usize)>) {
    fields.class(if tiled { "LlavaNextForConditionalGeneration" } else { "LlavaForConditionalGeneration" });
    let (mut decoder, vocab) = inner_decoder(fields, problems, "llama", &text::FAMILIES);
    let (vision, image_size) = vision(fields, decoder.dim, tiled, problems);
    // LLaVA ties the head if either place says so, LLaVA-NeXT only if the outer one does.
    decoder.tied_head = fields.flag("tie_word_embeddings", false) || (!tiled && decoder.tied_head);
    let pinpoints = if tiled { pinpoints(fields, image_size) } else { Vec::new() };
    restricted_fields::refuse_quantization(fields);
    fields.finish(
        &[ignored_fields::BASE, ignored_fields::GENERATION, ignored_fields::TRAINING, ignored_fields::COMPOSITE],
        restricted_fields::COMPOSITE,
    );
    (Architecture { family: Family::Llava, vision: Some(vision), decoder, vocab }, pinpoints)
}

/// `image_grid_pinpoints`: pairs of height and width, each a multiple of the tile size.
fn pinpoints(fields: &Fields, image_size: usize) -> Vec<(usize, usize)> {
    let name = "image_grid_pinpoints";
    let Some(value) = fields.value(name) else {
        return vec![(336, 672), (672, 336), (672, 672), (1008, 336), (336, 1008)];
    };
    let size = |value: &Value| {
        let size = value.as_u64().and_then(|size| usize::try_from(size).ok())?;
        (size > 0 && size.is_multiple_of(image_size) && size / image_size <= 64).then_some(size)
    };
    let pair = |value: &Value| match value.as_array()?.as_slice() {
        [height, width] => Some((size(height)?, size(width)?)),
        _ => None,
    };
    let list = value.as_array().filter(|list| (1..=MAX_PINPOINTS).contains(&list.len()));
    let pairs: Option<Vec<(usize, usize)>> = list.and_then(|list| list.iter().map(pair).collect());
    pairs.unwrap_or_else(|| {
        let (side, most) = (image_size, 64 * image_size);
        fields.wrong(name, format!("must be pairs of multiples of `vision_config.image_size` ({side}) up to {most}"));
        Vec::new()
    })
}

/// Reads the tower and the projector to a decoder of width `decoder`, and the size of a tile. `tiled`: LLaVA-NeXT.
fn vision<'a>(outer: &Fields<'a>, decoder: usize, tiled: bool, problems: &'a Problems) -> (Vision, usize) {
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

fn read_tower(outer: &Fields, tower: &Fields, decoder: usize, tiled: bool) -> (Vision, usize) {
    let towers = [("clip_vision_model", VisionFamily::Clip), ("siglip_vision_model", VisionFamily::Siglip)];
    let family = tower.choice("model_type", "clip_vision_model", &towers);
    let vit = read_vit(tower, family.unwrap_or(VisionFamily::Clip));
    let Vit { image_size, patch_size, layers, .. } = vit;
    let clip = vit.family == VisionFamily::Clip;
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
    let tower = Vit { feature_layers: feature_layers(outer, layers), skip_first: !full, final_norm: false, ..vit };
    let projector = Projector::Mlp {
        hidden: decoder,
        activation: outer.choice("projector_hidden_act", "gelu", &ACTIVATIONS).unwrap_or(Activation::Gelu),
        bias: outer.flag("multimodal_projector_bias", true),
    };
    let image_token = image_token(outer, 32_000);
    (Vision { image_token, tower: Tower::Vit(tower), projector, newlines: tiled }, image_size)
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
