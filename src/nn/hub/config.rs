//! Reads the architecture from the `config.json` of a Hugging Face model.
//!
//! A field is read, or ignored (`ignored_fields`: it changes nothing at inference), or restricted (`restricted_fields`: only
//! the values that change nothing are accepted), or reported as unknown. Sizes are checked before memory is allocated.

use anyhow::{Result, bail};
use serde_json::{Map, Value, json};

use super::dtype::Dtype;
use super::fields::{Fields, Problems};
use super::text::{self, FAMILIES};
use super::{ignored_fields, restricted_fields, vision};
use crate::architecture::Architecture;
use crate::checkpoint::{MAX_LAYERS, MAX_PARAMETERS};

/// The content of `config.json`.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    pub architecture: Architecture,
    /// `image_grid_pinpoints` of LLaVA-NeXT: heights and widths in pixels of the possible grids of tiles.
    pub pinpoints: Vec<(usize, usize)>,
    /// Unknown fields with their values. transformers ignores them.
    pub unknown: Vec<String>,
}

const MAX_PINPOINTS: usize = 1000;

impl Config {
    /// Reads a `config.json`. The error lists every problem with its dotted field.
    pub fn of(object: &Map<String, Value>) -> Result<Config> {
        let problems = Problems::default();
        let config = read(&Fields::new(object, String::new(), &problems), &problems);
        let Problems { wrong, unknown } = problems;
        match (config, wrong.into_inner()) {
            (Some(config), wrong) if wrong.is_empty() => Ok(Config { unknown: unknown.into_inner(), ..config }),
            (_, wrong) => bail!("{}", wrong.join("; ")),
        }
    }
}

/// Sets the number type of the weights in a config, at the top and wherever else it is given. transformers rounds the weights
/// to this type, or else to the type of one of the arrays.
pub fn set_dtype(config: &mut Map<String, Value>, dtype: Dtype) {
    if !config.contains_key("dtype") && !config.contains_key("torch_dtype") {
        config.insert("dtype".to_string(), Value::Null);
    }
    set_in(config, dtype);
}

fn set_in(config: &mut Map<String, Value>, dtype: Dtype) {
    let name = match dtype {
        Dtype::F32 => "float32",
        Dtype::F16 => "float16",
        Dtype::BF16 => "bfloat16",
    };
    for (field, value) in config {
        match (field.as_str(), value) {
            ("dtype" | "torch_dtype", value) => *value = json!(name),
            ("text_config" | "vision_config", Value::Object(inner)) => set_in(inner, dtype),
            _ => {}
        }
    }
}

/// The model of the outer `model_type`.
#[derive(Clone, Copy)]
enum Model {
    Decoder(text::Family),
    Llava { tiled: bool },
}

fn read<'a>(fields: &Fields<'a>, problems: &'a Problems) -> Option<Config> {
    if fields.value("model_type").is_none() {
        fields.wrong("model_type", "is missing");
        return None;
    }
    let mut models: Vec<(&str, Model)> =
        FAMILIES.iter().map(|(name, family)| (*name, Model::Decoder(*family))).collect();
    models.extend([("llava", Model::Llava { tiled: false }), ("llava_next", Model::Llava { tiled: true })]);
    let config = match fields.choice("model_type", "", &models)? {
        Model::Decoder(family) => {
            require_class(fields, family.class());
            let (decoder, vocab) = text::read(fields, family);
            let architecture = Architecture { vision: None, decoder, vocab };
            Config { architecture, pinpoints: Vec::new(), unknown: Vec::new() }
        }
        Model::Llava { tiled } => llava(fields, tiled, problems),
    };
    if fields.problems() == 0 {
        check(fields, &config.architecture);
    }
    Some(config)
}

/// Other classes have no language head or another one, so other arrays.
fn require_class(fields: &Fields, class: &str) {
    fields.only("architectures", &json!([class]));
}

/// A decoder in `text_config` with a vision tower in `vision_config`.
fn llava<'a>(fields: &Fields<'a>, tiled: bool, problems: &'a Problems) -> Config {
    require_class(fields, if tiled { "LlavaNextForConditionalGeneration" } else { "LlavaForConditionalGeneration" });
    let empty = Map::new();
    let inner =
        fields.inner("text_config").unwrap_or_else(|| Fields::new(&empty, "text_config.".to_string(), problems));
    let family = inner.choice("model_type", "llama", &FAMILIES).unwrap_or(text::Family::Llama);
    let (mut decoder, vocab) = text::read(&inner, family);
    let vision = vision::read(fields, decoder.dim, tiled, problems);
    // LLaVA ties the head if either place says so, LLaVA-NeXT only if the outer one does.
    decoder.tied_head = fields.flag("tie_word_embeddings", false) || (!tiled && decoder.tied_head);
    let pinpoints = if tiled { pinpoints(fields, vision.image_size) } else { Vec::new() };
    restricted_fields::refuse_quantization(fields);
    fields.finish(
        &[ignored_fields::BASE, ignored_fields::GENERATION, ignored_fields::TRAINING, ignored_fields::COMPOSITE],
        restricted_fields::COMPOSITE,
    );
    Config { architecture: Architecture { vision: Some(vision), decoder, vocab }, pinpoints, unknown: Vec::new() }
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

/// Checks the total size of the model.
fn check(fields: &Fields, architecture: &Architecture) {
    let Architecture { vision, decoder, vocab } = architecture;
    let product = |factors: &[usize]| factors.iter().map(|factor| *factor as u128).product::<u128>();
    let attention =
        2 * product(&[decoder.dim, decoder.query_width()]) + 2 * product(&[decoder.dim, decoder.kv_width()]);
    let mut parameters = product(&[decoder.layers]) * (attention + 3 * product(&[decoder.dim, decoder.ff]));
    parameters += if decoder.tied_head { 1 } else { 2 } * product(&[*vocab, decoder.dim]);
    let mut layers = decoder.layers;
    if let Some(vision) = vision {
        let block = 4 * product(&[vision.dim, vision.dim]) + 2 * product(&[vision.dim, vision.ff]);
        parameters += product(&[vision.layers]) * block;
        parameters +=
            product(&[vision.dim]) * (product(&[vision.side(), vision.side()]) + product(&[vision.patch_values()]));
        parameters += product(&[vision.projector.hidden]) * product(&[vision.feature_width() + decoder.dim]);
        layers += vision.layers;
        if vision.image_token as usize >= *vocab {
            let message = format!("is {}, outside the vocabulary of {vocab} tokens", vision.image_token);
            fields.wrong("image_token_index", message);
        }
    }
    if parameters > MAX_PARAMETERS {
        let message = format!("has sizes of {parameters} parameters: at most {MAX_PARAMETERS} are possible");
        fields.wrong("model_type", message);
    }
    if layers > MAX_LAYERS {
        fields.wrong("model_type", format!("has {layers} layers: at most {MAX_LAYERS} are possible"));
    }
}
