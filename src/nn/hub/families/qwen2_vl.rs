//! Qwen2-VL (Wang et al. 2024) and Qwen2.5-VL (Bai et al. 2025): `qwen2_vl`, `qwen2_5_vl`. A tower for images of any size, a
//! merger of patches, and a Qwen2 decoder with multimodal rotary positions. Fields and defaults are those of the configuration
//! classes of transformers 5.24.
//!
//! Up to transformers 4.51, and in all published files, the fields of the decoder stand in the outer object.

use serde_json::{Map, Value};

use crate::architecture::{
    Activation, Architecture, DynamicFamily, DynamicVit, Family, Projector, Tower, Vision, Windows,
};
use crate::hub::dynamic_fields::{self, Defaults, MAX_FF, TOKENS, TOWER};
use crate::hub::fields::{Fields, Problems};
use crate::hub::names::{DECODER, HEAD, NamingScheme, Schemes};
use crate::hub::text;
use crate::hub::vision_fields::ACTIVATIONS;
use crate::hub::{ignored_fields, restricted_fields};

pub(in crate::hub) const SCHEMES: Schemes = Schemes {
    family: "Qwen2-VL",
    all: &[
        NamingScheme(&[(DECODER, DECODER), (HEAD, HEAD), (TOWER, TOWER)]),
        NamingScheme(&[(DECODER, "model.language_model."), (HEAD, HEAD), (TOWER, "model.visual.")]),
    ],
};

/// Which of the two models.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(in crate::hub) enum Version {
    Qwen2,
    Qwen25,
}

/// Reads the outer object.
pub(in crate::hub) fn read<'a>(fields: &Fields<'a>, version: Version, problems: &'a Problems) -> Architecture {
    let two = version == Version::Qwen2;
    fields.class(if two { "Qwen2VLForConditionalGeneration" } else { "Qwen2_5_VLForConditionalGeneration" });
    let image_token = fields.optional_count("image_token_id", 0, u32::MAX as usize).unwrap_or(151_655) as u32;
    let empty = Map::new();
    let object =
        fields.inner("vision_config").unwrap_or_else(|| Fields::new(&empty, "vision_config.".to_string(), problems));
    let (tower, outputs) = if two { read_qwen2_tower(&object) } else { read_qwen25_tower(&object) };
    let tied = fields.flag("tie_word_embeddings", false);
    for name in TOKENS {
        fields.skip(name);
    }
    let inner = fields.inner("text_config");
    if let Some(inner) = &inner {
        let names = if two { ["qwen2_vl_text", "qwen2_vl"] } else { ["qwen2_5_vl_text", "qwen2_5_vl"] };
        inner.choice("model_type", names[0], &names.map(|name| (name, ())));
        for name in TOKENS {
            inner.skip(name);
        }
    }
    let (mut decoder, vocab) = text::read(inner.as_ref().unwrap_or(fields), text::Family::Qwen2Vl);
    if inner.is_some() {
        restricted_fields::refuse_quantization(fields);
        fields.finish(
            &[
                ignored_fields::BASE,
                ignored_fields::GENERATION,
                ignored_fields::TRAINING,
                ignored_fields::DECODER,
                // Copies of the fields of `text_config`.
                ignored_fields::QWEN2_TEXT,
            ],
            restricted_fields::COMPOSITE,
        );
    }
    decoder.tied_head |= tied;
    if outputs != decoder.dim {
        let name = if two { "hidden_size" } else { "out_hidden_size" };
        object.wrong(name, format!("must be `hidden_size` of the decoder ({}), not {outputs}", decoder.dim));
    }
    let projector = Projector::PatchMerger { family: tower.family, merge: tower.merge, rms_norm: tower.rms_norm };
    let vision = Vision { image_token, projector, tower: Tower::Dynamic(tower), newlines: false };
    Architecture { family: Family::Qwen2Vl, vision: Some(vision), decoder, vocab }
}

/// Of both towers.
const DEFAULTS: Defaults = Defaults { family: DynamicFamily::Qwen2Vl, patch_size: 14, layers: 32 };

/// The tower and the size of its merger's output.
fn read_qwen2_tower(object: &Fields) -> (DynamicVit, usize) {
    let before = object.problems();
    let dim = object.size("embed_dim", 1280);
    let ratio = object.size("mlp_ratio", 4);
    let ff = dim.saturating_mul(ratio);
    if ff > MAX_FF {
        object.wrong("mlp_ratio", format!("is too large: {ff} numbers in the MLP"));
    }
    let outputs = object.size("hidden_size", 3584);
    let activation = object.choice("hidden_act", "quick_gelu", &ACTIVATIONS).unwrap_or(Activation::QuickGelu);
    let tower = dynamic_fields::sizes(object, ["qwen2_vl_vision", "qwen2_vl"], (dim, ff), &DEFAULTS, before);
    dynamic_fields::finish(object);
    (DynamicVit { activation, rms_norm: false, ..tower }, outputs)
}

/// The tower and the size of its merger's output.
fn read_qwen25_tower(object: &Fields) -> (DynamicVit, usize) {
    let before = object.problems();
    let (dim, ff) = (object.size("hidden_size", 3584), object.size("intermediate_size", 3420));
    object.choice("hidden_act", "silu", &[("silu", ()), ("swish", ())]);
    let outputs = object.size("out_hidden_size", 3584);
    // For videos.
    object.skip("tokens_per_second");
    let tower = dynamic_fields::sizes(object, ["qwen2_5_vl_vision", "qwen2_5_vl"], (dim, ff), &DEFAULTS, before);
    let window = object.size("window_size", 112);
    let side = window / tower.merge / tower.patch_size;
    if side == 0 {
        let cell = tower.merge * tower.patch_size;
        object.wrong(
            "window_size",
            format!("must be at least `patch_size` x `spatial_merge_size` ({cell}), not {window}"),
        );
    }
    let full = full_blocks(object, tower.layers);
    dynamic_fields::finish(object);
    let windows = Windows { side: side.max(1), full };
    (DynamicVit { activation: Activation::Swiglu, rms_norm: true, windows: Some(windows), ..tower }, outputs)
}

/// `fullatt_block_indexes`: the blocks whose attention is not limited to windows. Numbers without a block have no effect.
fn full_blocks(object: &Fields, layers: usize) -> Vec<usize> {
    let name = "fullatt_block_indexes";
    let Some(value) = object.value(name) else { return vec![7, 15, 23, 31] };
    let number = |value: &Value| value.as_i64();
    let list: Option<Vec<i64>> = value.as_array().and_then(|list| list.iter().map(number).collect());
    let Some(list) = list else {
        object.wrong(name, format!("must be a list of whole numbers, not {value}"));
        return Vec::new();
    };
    (0..layers).filter(|layer| list.contains(&(*layer as i64))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hub::Config;

    const DECODER: &str = r#""hidden_size": 32, "intermediate_size": 36, "num_attention_heads": 4, "num_key_value_heads": 2,
        "num_hidden_layers": 2, "max_position_embeddings": 512, "vocab_size": 300, "rms_norm_eps": 1e-6"#;
    const TOWER: &str =
        r#""depth": 2, "embed_dim": 16, "hidden_size": 32, "num_heads": 2, "mlp_ratio": 2, "patch_size": 4"#;
    const TOWER25: &str = r#""depth": 3, "hidden_size": 16, "out_hidden_size": 32, "num_heads": 2, "intermediate_size": 20,
        "patch_size": 4, "window_size": 17, "fullatt_block_indexes": [1, 7]"#;
    const SECTIONS: &str = r#""rope_scaling": {"type": "mrope", "mrope_section": [1, 1, 2]}"#;

    fn config(text: &str) -> anyhow::Result<Config> {
        Config::of(&serde_json::from_str(text)?)
    }

    /// The fields of the decoder stand in the outer object.
    fn flat(model_type: &str, decoder: &str, tower: &str) -> String {
        format!(
            r#"{{"model_type": "{model_type}", {decoder}, "image_token_id": 7, "vision_start_token_id": 5,
            "vision_config": {{{tower}}}}}"#
        )
    }

    fn error(text: &str) -> String {
        config(text).unwrap_err().to_string()
    }

    #[test]
    fn both_layouts_give_the_same_architecture() {
        let old = config(&flat("qwen2_vl", &format!("{DECODER}, {SECTIONS}, \"rope_theta\": 5000.0"), TOWER)).unwrap();
        let new = format!(
            r#"{{"model_type": "qwen2_vl", "architectures": ["Qwen2VLForConditionalGeneration"], "image_token_id": 7,
            "text_config": {{"model_type": "qwen2_vl_text", {DECODER},
                "rope_parameters": {{"rope_type": "default", "rope_theta": 5000.0, "mrope_section": [1, 1, 2]}}}},
            "vision_config": {{"model_type": "qwen2_vl_vision", {TOWER},
                "rope_parameters": {{"rope_type": "axial", "rope_theta": 10000.0}}}}, "video_token_id": 8}}"#
        );
        let new = config(&new).unwrap();
        assert_eq!(old.architecture, new.architecture);
        assert_eq!([old.unknown, new.unknown], [[""; 0], [""; 0]]);
        let Architecture { vision, decoder, .. } = new.architecture;
        assert_eq!((decoder.rope.sections, decoder.rope.theta, decoder.qkv_bias), (vec![1, 1, 2], 5000.0, true));
        let Some(Vision { tower: Tower::Dynamic(tower), image_token: 7, .. }) = vision else { panic!("{vision:?}") };
        assert_eq!((tower.ff, tower.activation, tower.rms_norm), (32, Activation::QuickGelu, false));
    }

    #[test]
    fn windows_are_counted_in_cells() {
        let read = config(&flat("qwen2_5_vl", &format!("{DECODER}, {SECTIONS}"), TOWER25)).unwrap();
        let Some(Vision { tower: Tower::Dynamic(tower), .. }) = read.architecture.vision else { panic!() };
        // 17 pixels are two cells of 8 pixels. The last block is number 2.
        assert_eq!(tower.windows, Some(Windows { side: 2, full: vec![1] }));
    }

    #[test]
    fn sizes_that_do_not_fit_are_named() {
        let decoder = format!("{DECODER}, {SECTIONS}");
        let tower = |tower: &str| error(&flat("qwen2_vl", &decoder, tower));
        let width = "`vision_config.hidden_size` must be `hidden_size` of the decoder (32), not 48";
        assert_eq!(tower(&TOWER.replace(r#""hidden_size": 32"#, r#""hidden_size": 48"#)), width);
        let heads = "`vision_config.num_heads` must divide the width (16) into multiples of 4, which 8 does not";
        assert_eq!(tower(&TOWER.replace(r#""num_heads": 2"#, r#""num_heads": 8"#)), heads);
        let channels = "`vision_config.in_channels` is 1: only 3 is supported";
        assert_eq!(tower(&format!("{TOWER}, \"in_channels\": 1")), channels);
        let other = "`vision_config.rope_parameters.rope_type` is \"default\": only \"axial\" is supported";
        assert_eq!(tower(&format!(r#"{TOWER}, "rope_parameters": {{"rope_type": "default"}}"#)), other);
        let window = "`vision_config.window_size` must be at least `patch_size` x `spatial_merge_size` (8), not 7";
        assert_eq!(error(&flat("qwen2_5_vl", &decoder, &TOWER25.replace("17", "7"))), window);
        let without = "`rope_scaling.mrope_section` has the sum 64, which must be half of the size of a head (4)";
        assert_eq!(error(&flat("qwen2_vl", DECODER, TOWER)), without);
        let head = "`head_dim` must be `hidden_size` / `num_attention_heads` (8), not 12";
        assert_eq!(error(&flat("qwen2_vl", &format!("{decoder}, \"head_dim\": 12"), TOWER)), head);
    }
}
