//! InternVL 3 (Zhu et al. 2025) as transformers has it: `internvl`. An `InternViT` tower, pixel shuffle, a norm and two linear
//! layers. Fields and defaults are those of the configuration classes of transformers 5.24.

use serde_json::{Map, Value, json};

use super::inner_decoder;
use crate::architecture::{Activation, Architecture, Family, Projector, Tower, Vision, VisionFamily, Vit};
use crate::hub::fields::{Fields, Problems};
use crate::hub::names::{DECODER, HEAD, NamingScheme, PROJECTOR, Schemes};
use crate::hub::vision_fields::{ACTIVATIONS, check_tower_sizes, image_token};
use crate::hub::{ignored_fields, restricted_fields, text};

/// Our prefix of the tower, which files of transformers 4 have too.
const TOWER: &str = "vision_tower.";

pub(in crate::hub) const SCHEMES: Schemes = Schemes {
    family: "InternVL",
    all: &[
        NamingScheme(&[
            (DECODER, "language_model.model."),
            (HEAD, "language_model.lm_head."),
            (TOWER, TOWER),
            (PROJECTOR, PROJECTOR),
        ]),
        NamingScheme(&[
            (DECODER, "model.language_model."),
            (HEAD, HEAD),
            (TOWER, "model.vision_tower."),
            (PROJECTOR, "model.multi_modal_projector."),
        ]),
    ],
};

/// Reads the outer object.
pub(in crate::hub) fn read<'a>(fields: &Fields<'a>, problems: &'a Problems) -> Architecture {
    fields.class("InternVLForConditionalGeneration");
    let (mut decoder, vocab) = inner_decoder(fields, problems, "qwen2", &text::FAMILIES);
    decoder.tied_head = fields.flag("tie_word_embeddings", true);
    let empty = Map::new();
    let inner =
        fields.inner("vision_config").unwrap_or_else(|| Fields::new(&empty, "vision_config.".to_string(), problems));
    let mut tower = read_tower(&inner);
    let factor = downsampling(fields);
    if !tower.side().is_multiple_of(factor) {
        let side = tower.side();
        fields.wrong("downsample_ratio", format!("must divide the {side} patches of a side of a tile evenly"));
    }
    features(fields, &mut tower);
    fields.only("vision_feature_select_strategy", &json!("default"));
    let activation = fields.choice("projector_hidden_act", "gelu", &ACTIVATIONS).unwrap_or(Activation::Gelu);
    let projector = Projector::NormedPixelShuffle { factor, activation };
    let tower = Tower::Vit(tower);
    let vision = Vision { image_token: image_token(fields, 151_667), tower, projector, newlines: false };
    restricted_fields::refuse_quantization(fields);
    fields.finish(
        &[ignored_fields::BASE, ignored_fields::GENERATION, ignored_fields::TRAINING, ignored_fields::COMPOSITE],
        restricted_fields::COMPOSITE,
    );
    Architecture { family: Family::InternVl, vision: Some(vision), decoder, vocab }
}

/// Whether the file does not say if the head is tied. Files of transformers 4 do not, and have either.
pub(in crate::hub) fn ties_by_default(fields: &Fields) -> bool {
    fields.value("tie_word_embeddings").is_none()
}

/// The factor of the pixel shuffle: the inverse of `downsample_ratio`.
fn downsampling(fields: &Fields) -> usize {
    let ratio = fields.positive("downsample_ratio", 0.5);
    let factor = (0..=6).map(|power| 1usize << power).find(|&factor| (factor as f64 * ratio - 1.0).abs() < 1e-9);
    factor.unwrap_or_else(|| {
        fields.wrong("downsample_ratio", format!("must be 1, 1/2, 1/4, ... 1/64, not {ratio}"));
        1
    })
}

/// `vision_feature_layer`. The last one is read after the tower's norm, the others before.
fn features(fields: &Fields, tower: &mut Vit) {
    let layers = tower.layers;
    let Some(value) = fields.value("vision_feature_layer") else { return };
    let states = layers as i64 + 1;
    match value.as_i64() {
        Some(-1) => {}
        Some(index) if (-states..states).contains(&index) => {
            tower.feature_layers = vec![index.rem_euclid(states) as usize];
            tower.final_norm = false;
        }
        _ => fields
            .wrong("vision_feature_layer", format!("must be a whole number from -{states} to {layers}, not {value}")),
    }
}

/// A length, or a pair of equal ones.
fn side(tower: &Fields, name: &'static str, default: usize) -> usize {
    match tower.value(name).and_then(Value::as_array) {
        None => tower.size(name, default),
        Some(pair) => match pair.iter().map(Value::as_u64).collect::<Vec<_>>()[..] {
            [Some(high), Some(wide)] if high == wide && (1..=1 << 20).contains(&high) => high as usize,
            _ => {
                tower.wrong(name, "must be a length in pixels or two equal ones");
                default
            }
        },
    }
}

fn read_tower(tower: &Fields) -> Vit {
    tower.choice("model_type", "internvl_vision", &[("internvl_vision", ())]);
    let before = tower.problems();
    let dim = tower.size("hidden_size", 1024);
    let heads = tower.size("num_attention_heads", 16);
    let layers = tower.size("num_hidden_layers", 24);
    let (image_size, patch_size) = (side(tower, "image_size", 448), side(tower, "patch_size", 14));
    if tower.problems() == before {
        check_tower_sizes(tower, [dim, heads], [image_size, patch_size]);
    }
    tower.only("num_channels", &json!(3));
    tower.only("use_mask_token", &json!(false));
    tower.only("use_absolute_position_embeddings", &json!(true));
    let norms = [("layer_norm", false), ("rms_norm", true)];
    let vit = Vit {
        family: VisionFamily::InternVit,
        image_size,
        patch_size,
        dim,
        layers,
        heads,
        ff: tower.size("intermediate_size", 4096),
        norm_eps: tower.positive("layer_norm_eps", 1e-6),
        activation: tower.choice("hidden_act", "gelu", &ACTIVATIONS).unwrap_or(Activation::Gelu),
        feature_layers: vec![layers],
        skip_first: true,
        final_norm: !tower.flag("use_mean_pooling", true),
        qkv_bias: tower.flag("attention_bias", false),
        qk_norm: tower.flag("use_qk_norm", false),
        rms_norm: tower.choice("norm_type", "layer_norm", &norms).unwrap_or(false),
        pooling: false,
    };
    restricted_fields::refuse_quantization(tower);
    tower.finish(
        &[
            ignored_fields::BASE,
            ignored_fields::GENERATION,
            ignored_fields::TRAINING,
            ignored_fields::VISION,
            ignored_fields::INTERN_VIT,
        ],
        restricted_fields::TOWER,
    );
    vit
}
