//! Qwen3-VL (Bai et al. 2025): `qwen3_vl`. A tower for images of any size with learned positions, mergers of the patches of its last
//! and of some inner blocks, and a Qwen3 decoder with interleaved multimodal rotary positions. Fields and defaults are those of the
//! configuration classes of transformers 5.24.

use serde_json::{Map, Value};

use crate::architecture::{
    Activation, Architecture, Decoder, DynamicFamily, DynamicVit, Family, Projector, Tower, Vision,
};
use crate::hub::dynamic_fields::{self, Defaults, TOKENS, TOWER};
use crate::hub::fields::{Fields, Problems};
use crate::hub::names::{DECODER, HEAD, NamingScheme, Schemes};
use crate::hub::text;
use crate::hub::vision_fields::ACTIVATIONS;
use crate::hub::{ignored_fields, restricted_fields};

pub(in crate::hub) const SCHEMES: Schemes = Schemes {
    family: "Qwen3-VL",
    all: &[NamingScheme(&[(DECODER, "model.language_model."), (HEAD, HEAD), (TOWER, "model.visual.")])],
};

const DEFAULTS: Defaults = Defaults { family: DynamicFamily::Qwen3Vl, patch_size: 16, layers: 27 };

/// Reads the outer object.
pub(in crate::hub) fn read<'a>(fields: &Fields<'a>, problems: &'a Problems) -> Architecture {
    fields.class("Qwen3VLForConditionalGeneration");
    let image_token = fields.optional_count("image_token_id", 0, u32::MAX as usize).unwrap_or(151_655) as u32;
    let empty = Map::new();
    let inner = |name: &'static str, prefix: &str| {
        fields.inner(name).unwrap_or_else(|| Fields::new(&empty, prefix.to_string(), problems))
    };
    let (object, text) = (inner("vision_config", "vision_config."), inner("text_config", "text_config."));
    let (tower, outputs) = read_tower(&object);
    text.choice("model_type", "qwen3_vl_text", &[("qwen3_vl_text", ())]);
    let (mut decoder, vocab) = text::read(&text, text::Family::Qwen3Vl);
    // That of `text_config` has no effect.
    decoder.tied_head = fields.flag("tie_word_embeddings", false);
    for name in TOKENS {
        fields.skip(name);
    }
    restricted_fields::refuse_quantization(fields);
    fields.finish(
        &[ignored_fields::BASE, ignored_fields::GENERATION, ignored_fields::TRAINING],
        restricted_fields::COMPOSITE,
    );
    check(&object, &tower, outputs, &decoder);
    let projector = Projector::PatchMerger { family: tower.family, merge: tower.merge, rms_norm: false };
    let vision = Vision { image_token, projector, tower: Tower::Dynamic(tower), newlines: false };
    Architecture { family: Family::Qwen3Vl, vision: Some(vision), decoder, vocab }
}

/// The tower and the size of the output of its mergers.
fn read_tower(object: &Fields) -> (DynamicVit, usize) {
    let before = object.problems();
    let (dim, ff) = (object.size("hidden_size", 1152), object.size("intermediate_size", 4304));
    let outputs = object.size("out_hidden_size", 3584);
    let activation = object.choice("hidden_act", "gelu_pytorch_tanh", &ACTIVATIONS).unwrap_or(Activation::GeluTanh);
    let tower = dynamic_fields::sizes(object, ["qwen3_vl_vision", "qwen3_vl"], (dim, ff), &DEFAULTS, before);
    let positions = object.size("num_position_embeddings", 2304);
    let side = positions.isqrt();
    if side * side != positions {
        object.wrong("num_position_embeddings", format!("must be a square number, not {positions}"));
    }
    let deepstack = deepstack(object, tower.layers);
    dynamic_fields::finish(object);
    (DynamicVit { activation, rms_norm: false, position_side: Some(side), deepstack, ..tower }, outputs)
}

/// `deepstack_visual_indexes`: the blocks whose outputs are merged for the decoder's first layers.
fn deepstack(object: &Fields, layers: usize) -> Vec<usize> {
    let name = "deepstack_visual_indexes";
    let list = match object.value(name) {
        None => Some(vec![8, 16, 24]),
        Some(value) => {
            let number = |value: &Value| value.as_u64().map(|block| block as usize);
            value.as_array().and_then(|list| list.iter().map(number).collect::<Option<Vec<usize>>>())
        }
    };
    let rising = |list: &Vec<usize>| list.is_sorted_by(|a, b| a < b) && list.last().is_none_or(|last| *last < layers);
    list.filter(rising).unwrap_or_else(|| {
        let found = object.value(name).map_or_else(|| "[8, 16, 24], the default".to_string(), Value::to_string);
        object.wrong(name, format!("must be rising numbers of the {layers} blocks, from 0 on, not {found}"));
        Vec::new()
    })
}

/// Checks that the tower fits the decoder.
fn check(object: &Fields, tower: &DynamicVit, outputs: usize, decoder: &Decoder) {
    if outputs != decoder.dim {
        let message = format!("must be `hidden_size` of the decoder ({}), not {outputs}", decoder.dim);
        object.wrong("out_hidden_size", message);
    }
    let (blocks, layers) = (tower.deepstack.len(), decoder.layers);
    if blocks > layers {
        object.wrong("deepstack_visual_indexes", format!("has {blocks} blocks for the {layers} layers of the decoder"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hub::Config;

    const DECODER: &str = r#""hidden_size": 32, "intermediate_size": 36, "num_attention_heads": 4, "num_key_value_heads": 2,
        "num_hidden_layers": 2, "head_dim": 12, "max_position_embeddings": 512, "vocab_size": 300"#;
    const SECTIONS: &str = r#""rope_theta": 5000.0,
        "rope_scaling": {"rope_type": "default", "mrope_interleaved": true, "mrope_section": [3, 2, 1]}"#;
    const TOWER: &str = r#""depth": 3, "hidden_size": 16, "out_hidden_size": 32, "num_heads": 2, "intermediate_size": 20,
        "patch_size": 4, "num_position_embeddings": 25, "deepstack_visual_indexes": [0, 2]"#;

    fn config(decoder: &str, tower: &str, outer: &str) -> anyhow::Result<Config> {
        let text = format!(
            r#"{{"model_type": "qwen3_vl", "image_token_id": 7{outer}, "text_config": {{{decoder}}},
            "vision_config": {{{tower}}}}}"#
        );
        Config::of(&serde_json::from_str(&text)?)
    }

    #[test]
    fn tower_and_decoder_are_read() {
        let decoder = format!("{DECODER}, {SECTIONS}, \"tie_word_embeddings\": true");
        let Config { architecture, unknown, .. } = config(&decoder, TOWER, "").unwrap();
        assert_eq!(unknown, [""; 0]);
        let Architecture { vision, decoder, .. } = architecture;
        // Only the outer object ties the head.
        assert_eq!((decoder.head_norm, decoder.head_width, decoder.tied_head), (true, 12, false));
        // Time, height, width, time, height, time.
        assert_eq!(decoder.rope.sections, [1, 1, 1, 1, 1, 0, 1]);
        let Some(Vision { tower: Tower::Dynamic(tower), image_token: 7, .. }) = vision else { panic!("{vision:?}") };
        assert_eq!((tower.position_side, tower.deepstack), (Some(5), vec![0, 2]));
        assert_eq!((tower.activation, tower.rms_norm, tower.frames), (Activation::GeluTanh, false, 2));
        let tied = config(DECODER, TOWER, r#", "tie_word_embeddings": true"#);
        let sections =
            "`text_config.rope_scaling.mrope_section` has the sum 64, which must be half of the size of a head (6)";
        assert_eq!(tied.unwrap_err().to_string(), sections);
    }

    #[test]
    fn sizes_that_do_not_fit_are_named() {
        let decoder = format!("{DECODER}, {SECTIONS}");
        let tower = |from: &str, to: &str| config(&decoder, &TOWER.replace(from, to), "").unwrap_err().to_string();
        let blocks = "`vision_config.deepstack_visual_indexes` must be rising numbers of the 3 blocks, from 0 on, not ";
        for list in ["[2,0]", "[1,1]", "[3]", "[-1]", "2"] {
            assert_eq!(tower("[0, 2]", list), format!("{blocks}{list}"));
        }
        let missing = tower(r#", "deepstack_visual_indexes": [0, 2]"#, "");
        assert_eq!(missing, format!("{blocks}[8, 16, 24], the default"));
        let many = "`vision_config.deepstack_visual_indexes` has 3 blocks for the 2 layers of the decoder";
        assert_eq!(tower("[0, 2]", "[0, 1, 2]"), many);
        let square = "`vision_config.num_position_embeddings` must be a square number, not 24";
        assert_eq!(tower(": 25", ": 24"), square);
        let width = "`vision_config.out_hidden_size` must be `hidden_size` of the decoder (32), not 48";
        assert_eq!(tower(r#""out_hidden_size": 32"#, r#""out_hidden_size": 48"#), width);
        let text = |from: &str, to: &str| config(&decoder.replace(from, to), TOWER, "").unwrap_err().to_string();
        let apart = "`text_config.rope_scaling.mrope_interleaved` is false: only true is supported";
        assert_eq!(text("true", "false"), apart);
        let three = "`text_config.rope_scaling.mrope_section` must be three whole numbers, not [4,2]";
        assert_eq!(text("[3, 2, 1]", "[4, 2]"), three);
    }
}
