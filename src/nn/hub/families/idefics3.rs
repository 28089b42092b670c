//! Idefics3 (Laurençon et al. 2024) and SmolVLM (Marafioti et al. 2025): `idefics3`, `smolvlm`. A SigLIP tower, pixel shuffle and
//! one linear layer. Fields and defaults are those of the configuration classes of transformers 5.24.

use serde_json::{Map, json};

use super::inner_decoder;
use crate::architecture::{Activation, Architecture, Family, Projector, Tower, Vision, VisionFamily, Vit};
use crate::hub::fields::{Fields, Problems};
use crate::hub::names::{DECODER, HEAD, NamingScheme, PROJECTOR, Schemes, TOWER};
use crate::hub::vision_fields::{ACTIVATIONS, check_tower_sizes, image_token};
use crate::hub::{ignored_fields, restricted_fields, text};

pub(in crate::hub) const SCHEMES: Schemes = Schemes {
    family: "Idefics3",
    all: &[NamingScheme(&[
        (DECODER, "model.text_model."),
        (HEAD, HEAD),
        (TOWER, "model.vision_model."),
        (PROJECTOR, "model.connector."),
    ])],
};

/// Reads the outer object. `class`: the class with a language head.
pub(in crate::hub) fn read<'a>(fields: &Fields<'a>, class: &str, problems: &'a Problems) -> Architecture {
    fields.class(class);
    let (mut decoder, vocab) = inner_decoder(fields, problems, "llama", &text::FAMILIES);
    decoder.tied_head = fields.flag("tie_word_embeddings", false);
    let empty = Map::new();
    let tower =
        fields.inner("vision_config").unwrap_or_else(|| Fields::new(&empty, "vision_config.".to_string(), problems));
    let tower = read_tower(&tower);
    let factor = fields.size("scale_factor", 2);
    if !tower.side().is_multiple_of(factor) {
        let side = tower.side();
        fields.wrong(
            "scale_factor",
            format!("must divide the {side} patches of a side of a tile, which {factor} does not"),
        );
    }
    let vision = Vision {
        image_token: image_token(fields, 128_257),
        tower: Tower::Vit(tower),
        projector: Projector::PixelShuffle { factor },
        newlines: false,
    };
    restricted_fields::refuse_quantization(fields);
    fields.finish(
        &[
            ignored_fields::BASE,
            ignored_fields::GENERATION,
            ignored_fields::TRAINING,
            ignored_fields::COMPOSITE,
            ignored_fields::IDEFICS3,
        ],
        restricted_fields::IDEFICS3,
    );
    Architecture { family: Family::Idefics3, vision: Some(vision), decoder, vocab }
}

fn read_tower(tower: &Fields) -> Vit {
    // Published files have the name of the whole model here, of either class, or that of the tower.
    let names = ["idefics3_vision", "smolvlm_vision", "idefics3", "smolvlm", "siglip_vision_model"];
    tower.choice("model_type", "idefics3_vision", &names.map(|name| (name, ())));
    let before = tower.problems();
    let dim = tower.size("hidden_size", 1152);
    let heads = tower.size("num_attention_heads", 16);
    let layers = tower.size("num_hidden_layers", 12);
    let image_size = tower.size("image_size", 224);
    let patch_size = tower.size("patch_size", 32);
    if tower.problems() == before {
        check_tower_sizes(tower, [dim, heads], [image_size, patch_size]);
        if patch_size <= image_size && !has_plain_positions(image_size / patch_size) {
            let side = image_size / patch_size;
            let reason = "for which transformers rounds some positions to those of their neighbours";
            tower.wrong("image_size", format!("gives {side} patches to a side, {reason}: this is not supported"));
        }
    }
    tower.only("num_channels", &json!(3));
    let vit = Vit {
        family: VisionFamily::Siglip,
        image_size,
        patch_size,
        dim,
        layers,
        heads,
        ff: tower.size("intermediate_size", 3072),
        norm_eps: tower.positive("layer_norm_eps", 1e-6),
        activation: tower.choice("hidden_act", "gelu_pytorch_tanh", &ACTIVATIONS).unwrap_or(Activation::GeluTanh),
        feature_layers: vec![layers],
        skip_first: false,
        final_norm: true,
        qkv_bias: true,
        qk_norm: false,
        rms_norm: false,
        pooling: false,
    };
    restricted_fields::refuse_quantization(tower);
    tower.finish(
        &[
            ignored_fields::BASE,
            ignored_fields::GENERATION,
            ignored_fields::TRAINING,
            ignored_fields::VISION,
            ignored_fields::IDEFICS3_VISION,
        ],
        restricted_fields::TOWER,
    );
    vit
}

/// Whether the position of every patch of a side is its number. transformers finds a position by comparing the fraction
/// `number / side` with multiples of `1 / side`, all rounded to `f32`; in some grids a fraction lies below its own boundary.
fn has_plain_positions(side: usize) -> bool {
    let step = 1.0 / side as f32;
    let boundary = |number: usize| (1.0 / side as f64 * number as f64) as f32;
    // Vectorized code rounds the first boundary of every 8 or 16 and adds to it.
    let vectorized = |number: usize, lanes: usize| {
        let first = (number - 1) / lanes * lanes + 1;
        (f64::from(boundary(first)) + (number - first) as f64 / side as f64) as f32
    };
    (1..side).all(|number| {
        let fraction = number as f32 * step;
        [boundary(number), vectorized(number, 8), vectorized(number, 16)].iter().all(|boundary| *boundary <= fraction)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sides_of_published_models_have_plain_positions() {
        // SmolVLM 256M and 500M, SmolVLM 2.2B, Idefics3; and the sides for which PyTorch 2.15 gives others.
        assert!([32, 27, 26, 4, 8, 16].into_iter().all(has_plain_positions));
        assert!([19, 25, 29, 31, 38, 40, 41, 43, 47, 49, 50].into_iter().all(|side| !has_plain_positions(side)));
    }
}
