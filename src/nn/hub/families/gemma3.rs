//! Gemma 3 (Gemma Team 2025): `gemma3`, and its decoder alone, `gemma3_text`. A SigLIP tower, the mean of squares of features, a norm
//! and one linear layer; most layers of the decoder attend to a window only. Fields and defaults are those of the configuration
//! classes of transformers 5.24.

use serde_json::Map;

use super::inner_decoder;
use crate::architecture::{Architecture, Family, Projector, Tower, Vision, VisionFamily};
use crate::hub::fields::{Fields, Problems};
use crate::hub::names::{DECODER, HEAD, NamingScheme, Schemes, TOWER};
use crate::hub::vision_fields::{image_token, read_vit};
use crate::hub::{ignored_fields, restricted_fields, text};

/// Our name of the weight of the projector, in which (out, in) is the shape, and that of the files, where it is (in, out).
const PROJECTION: &str = "multi_modal_projector.mm_input_projection.weight";
const FILE_PROJECTION: &str = "multi_modal_projector.mm_input_projection_weight";
const MODEL_PROJECTION: &str = "model.multi_modal_projector.mm_input_projection_weight";
const POOL_NORM: &str = "multi_modal_projector.mm_soft_emb_norm.";

/// As those of LLaVA. The files of the decoder alone have our own names.
pub(in crate::hub) const SCHEMES: Schemes = Schemes {
    family: "Gemma 3",
    all: &[
        NamingScheme(&[
            (DECODER, "language_model.model."),
            (HEAD, "language_model.lm_head."),
            (TOWER, TOWER),
            (PROJECTION, FILE_PROJECTION),
            (POOL_NORM, POOL_NORM),
        ]),
        NamingScheme(&[
            (DECODER, "language_model.model."),
            (HEAD, "language_model.lm_head."),
            (TOWER, "vision_tower."),
            (PROJECTION, FILE_PROJECTION),
            (POOL_NORM, POOL_NORM),
        ]),
        NamingScheme(&[
            (DECODER, "model.language_model."),
            (HEAD, HEAD),
            (TOWER, "model.vision_tower.vision_model."),
            (PROJECTION, MODEL_PROJECTION),
            (POOL_NORM, "model.multi_modal_projector.mm_soft_emb_norm."),
        ]),
        NamingScheme(&[
            (DECODER, "model.language_model."),
            (HEAD, HEAD),
            (TOWER, "model.vision_tower."),
            (PROJECTION, MODEL_PROJECTION),
            (POOL_NORM, "model.multi_modal_projector.mm_soft_emb_norm."),
        ]),
    ],
};

/// Whether the files have the matrix of a parameter transposed: (in, out).
pub(in crate::hub) fn is_transposed(parameter: &str) -> bool {
    parameter == PROJECTION
}

/// Reads the outer object.
pub(in crate::hub) fn read<'a>(fields: &Fields<'a>, problems: &'a Problems) -> Architecture {
    fields.class("Gemma3ForConditionalGeneration");
    let (mut decoder, vocab) = inner_decoder(fields, problems, text::GEMMA3.0, &[text::GEMMA3]);
    decoder.tied_head = fields.flag("tie_word_embeddings", true);
    decoder.bidirectional_images = true;
    let empty = Map::new();
    let tower =
        fields.inner("vision_config").unwrap_or_else(|| Fields::new(&empty, "vision_config.".to_string(), problems));
    tower.choice("model_type", "siglip_vision_model", &[("siglip_vision_model", ())]);
    let vit = read_vit(&tower, VisionFamily::Siglip);
    let tokens = fields.size("mm_tokens_per_image", 256);
    let (patches, side) = (vit.side(), tokens.isqrt());
    if side * side != tokens || !patches.is_multiple_of(side) {
        let rule = "must be the square of a divisor of the patches of a side of an image";
        fields.wrong("mm_tokens_per_image", format!("{rule} ({patches}), not {tokens}"));
    }
    let vision = Vision {
        image_token: image_token(fields, 262_144),
        tower: Tower::Vit(vit),
        projector: Projector::AveragePool { side: (patches / side).max(1) },
        newlines: false,
    };
    // Of the tokens before and after an image, which the processor has.
    for name in ["boi_token_id", "boi_token_index", "eoi_token_id", "eoi_token_index"] {
        fields.skip(name);
    }
    restricted_fields::refuse_quantization(fields);
    fields.finish(
        &[ignored_fields::BASE, ignored_fields::GENERATION, ignored_fields::TRAINING, ignored_fields::COMPOSITE],
        restricted_fields::COMPOSITE,
    );
    Architecture { family: Family::Gemma3, vision: Some(vision), decoder, vocab }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::architecture::{Decoder, RopeScaling};
    use crate::hub::Config;

    const DECODER: &str = r#""hidden_size": 32, "intermediate_size": 36, "num_attention_heads": 4, "num_key_value_heads": 2,
        "head_dim": 12, "num_hidden_layers": 3, "max_position_embeddings": 512, "vocab_size": 300, "sliding_window": 8,
        "query_pre_attn_scalar": 16"#;
    const TOWER: &str = r#""hidden_size": 16, "num_attention_heads": 2, "num_hidden_layers": 1, "intermediate_size": 20,
        "image_size": 24, "patch_size": 4, "vision_use_head": false"#;

    fn config(text: &str) -> anyhow::Result<Config> {
        Config::of(&serde_json::from_str(text)?)
    }

    fn decoder_of(more: &str) -> Decoder {
        let config = config(&format!(r#"{{"model_type": "gemma3_text", {DECODER}, {more}}}"#)).unwrap();
        assert_eq!(config.unknown, [""; 0]);
        config.architecture.decoder
    }

    fn whole(decoder: &str, more: &str) -> anyhow::Result<Config> {
        config(&format!(
            r#"{{"model_type": "gemma3", "text_config": {{"model_type": "gemma3_text", {decoder}}}, "image_token_index": 7,
            "boi_token_index": 5, "eoi_token_index": 6, "vision_config": {{{TOWER}}}, {more}}}"#
        ))
    }

    #[test]
    fn both_layouts_give_the_same_layers_and_positions() {
        let old = decoder_of(
            r#""rope_theta": 5000.0, "rope_local_base_freq": 100.0, "sliding_window_pattern": 3,
            "rope_scaling": {"rope_type": "linear", "factor": 8.0}"#,
        );
        let new = decoder_of(
            r#""layer_types": ["sliding_attention", "sliding_attention", "full_attention"],
            "rope_parameters": {"full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 5000.0},
                "sliding_attention": {"rope_type": "default", "rope_theta": 100.0}}"#,
        );
        assert_eq!(old, new);
        assert_eq!((old.rope.theta, old.rope.scaling), (5000.0, RopeScaling::Linear { factor: 8.0 }));
        let local = old.local.unwrap();
        assert_eq!((local.rope.theta, local.rope.scaling, local.window), (100.0, RopeScaling::None, 8));
        assert_eq!(local.layers, [true, true, false]);
        assert_eq!((old.score_factor, old.tied_head, old.embedding_scale), (Some(0.25), true, Some(32f64.sqrt())));
        let plain = decoder_of(r#""head_dim": 12"#);
        assert_eq!((plain.rope.theta, plain.local.unwrap().layers), (1e6, vec![true; 3]));
    }

    #[test]
    fn images_become_squares_of_tokens() {
        let read = whole(DECODER, r#""mm_tokens_per_image": 9"#).unwrap();
        assert_eq!(read.unknown, [""; 0]);
        let vision = read.architecture.vision.unwrap();
        assert_eq!(vision.projector, Projector::AveragePool { side: 2 });
        assert_eq!(vision.tile_tokens(vision.tile((24, 24))), 9);
        assert!(read.architecture.decoder.bidirectional_images);
        let error =
            |tokens: usize| whole(DECODER, &format!("\"mm_tokens_per_image\": {tokens}")).unwrap_err().to_string();
        let rule =
            "`mm_tokens_per_image` must be the square of a divisor of the patches of a side of an image (6), not ";
        assert_eq!([error(8), error(16)], [format!("{rule}8"), format!("{rule}16")]);
    }

    #[test]
    fn what_is_not_computed_is_refused() {
        let error =
            |more: &str| whole(&format!("{DECODER}, {more}"), r#""mm_tokens_per_image": 9"#).unwrap_err().to_string();
        for (field, value) in [("final_logit_softcapping", "30.0"), ("attn_logit_softcapping", "50.0")] {
            let error = error(&format!("\"{field}\": {value}"));
            assert!(error.contains(&format!("`text_config.{field}`")), "{error}");
        }
        let both = "`text_config.use_bidirectional_attention` is true: only false is supported";
        assert_eq!(error(r#""use_bidirectional_attention": true"#), both);
        let null = "`text_config.sliding_window` is null, but `layer_types` has a `sliding_attention`";
        assert_eq!(error(r#""sliding_window": null"#), null);
        let flat = error(r#""rope_parameters": {"rope_type": "default", "rope_theta": 5.0}"#);
        assert!(flat.contains("`text_config.rope_parameters.rope_theta`"), "{flat}");
        let old = error(r#""rope_scaling": {"type": "linear", "factor": 8.0}"#);
        let hint = "`text_config.rope_scaling.type` has no effect in transformers for this family: write `rope_type`";
        assert_eq!(old, hint);
        assert_eq!(
            error(r#""tie_word_embeddings": null"#),
            "`text_config.tie_word_embeddings` must be true or false, not null"
        );
        let llama = r#""model_type": "llama""#;
        let other =
            config(&format!(r#"{{"model_type": "gemma3", "text_config": {{{llama}}}, "mm_tokens_per_image": 9}}"#));
        let error = other.unwrap_err().to_string();
        assert!(error.contains("`text_config.model_type` is `llama`: must be one of `gemma3_text`"), "{error}");
    }
}
