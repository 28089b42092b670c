//! The families of models: the fields of their `config.json`, and the names of their arrays.
//!
//! What a family's image processor does, and how an image is written into a conversation, stands in the file of the same name in
//! `ablate_data::images::families`.

pub(super) mod decoder;
pub(super) mod gemma3;
pub(super) mod idefics3;
pub(super) mod internvl;
pub(super) mod llava;
pub(super) mod own;
pub(super) mod qwen2_vl;
pub(super) mod qwen3_vl;

use serde_json::Map;

use super::fields::{Fields, Problems};
use super::names::Schemes;
use super::text;
use crate::architecture::{Decoder, Family};

/// The names of a family's arrays.
pub(crate) fn schemes(family: Family) -> &'static Schemes {
    match family {
        Family::Own => &own::SCHEMES,
        Family::Decoder => &decoder::SCHEMES,
        Family::Llava => &llava::SCHEMES,
        Family::Gemma3 => &gemma3::SCHEMES,
        Family::Idefics3 => &idefics3::SCHEMES,
        Family::InternVl => &internvl::SCHEMES,
        Family::Qwen2Vl => &qwen2_vl::SCHEMES,
        Family::Qwen3Vl => &qwen3_vl::SCHEMES,
    }
}

/// The decoder in `text_config`, one of `families`, and the size of its vocabulary. `default`: its family, if the config names none.
fn inner_decoder<'a>(
    fields: &Fields<'a>,
    problems: &'a Problems,
    default: &str,
    families: &[(&str, text::Family)],
) -> (Decoder, usize) {
    let empty = Map::new();
    let inner =
        fields.inner("text_config").unwrap_or_else(|| Fields::new(&empty, "text_config.".to_string(), problems));
    let family = inner.choice("model_type", default, families).unwrap_or(text::Family::Llama);
    text::read(&inner, family)
}
