//! `config.json` of a hub model, as what the model is made of. Knows no weights.
//!
//! A field is read, or `harmless` (changes nothing), or `inert` (refused at every value but the one that changes nothing),
//! or unknown: then it is noted. Sizes are bounded before anything is allocated for them.

use anyhow::{Result, bail};
use serde_json::{Map, Value, json};

use super::fields::{Fields, Problems};
use super::number::Dtype;
use super::text::{self, FAMILIES};
use super::{harmless, inert, vision};
use crate::architecture::Architecture;
use crate::checkpoint::{MOST_LAYERS, MOST_PARAMETERS};

/// What `config.json` says of a model.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    pub architecture: Architecture,
    /// Heights and widths in pixels that an image may be laid out over in tiles (LLaVA-NeXT); none for other models.
    pub pinpoints: Vec<(usize, usize)>,
    /// Fields that are not known, with their values. transformers ignores them.
    pub unknown: Vec<String>,
}

const MOST_PINPOINTS: usize = 1000;

impl Config {
    /// What the content of a `config.json` says. The error tells every problem with its dotted field.
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

/// Notes in a config that its weights are stored as `dtype`, wherever it says what they are and at its top: transformers
/// rounds them to what the config says, or else to what one of the arrays is.
pub fn note_dtype(config: &mut Map<String, Value>, dtype: Dtype) {
    if !config.contains_key("dtype") && !config.contains_key("torch_dtype") {
        config.insert("dtype".to_string(), Value::Null);
    }
    note(config, dtype);
}

fn note(config: &mut Map<String, Value>, dtype: Dtype) {
    let name = match dtype {
        Dtype::F32 => "float32",
        Dtype::F16 => "float16",
        Dtype::BF16 => "bfloat16",
    };
    for (field, value) in config {
        match (field.as_str(), value) {
            ("dtype" | "torch_dtype", value) => *value = json!(name),
            ("text_config" | "vision_config", Value::Object(inner)) => note(inner, dtype),
            _ => {}
        }
    }
}

/// What stands at the top of a config.
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
            only_class(fields, family.class());
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

/// A class without a language head, or with another, has other arrays.
fn only_class(fields: &Fields, class: &str) {
    fields.only("architectures", &json!([class]));
}

/// A decoder in `text_config` that sees through a tower in `vision_config`.
fn llava<'a>(fields: &Fields<'a>, tiled: bool, problems: &'a Problems) -> Config {
    only_class(fields, if tiled { "LlavaNextForConditionalGeneration" } else { "LlavaForConditionalGeneration" });
    let nothing = Map::new();
    let inner =
        fields.inner("text_config").unwrap_or_else(|| Fields::new(&nothing, "text_config.".to_string(), problems));
    let family = inner.choice("model_type", "llama", &FAMILIES).unwrap_or(text::Family::Llama);
    let (mut decoder, vocab) = text::read(&inner, family);
    let vision = vision::read(fields, decoder.dim, tiled, problems);
    // LLaVA takes either place's word for it, LLaVA-NeXT the outer one's only.
    decoder.tied_head = fields.flag("tie_word_embeddings", false) || (!tiled && decoder.tied_head);
    let pinpoints = if tiled { pinpoints(fields, vision.image_size) } else { Vec::new() };
    inert::refuse_quantization(fields);
    fields.finish(&[harmless::BASE, harmless::GENERATION, harmless::TRAINING, harmless::COMPOSITE], inert::COMPOSITE);
    Config { architecture: Architecture { vision: Some(vision), decoder, vocab }, pinpoints, unknown: Vec::new() }
}

/// `image_grid_pinpoints`: pairs of height and width, each some whole number of tiles.
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
    let list = value.as_array().filter(|list| (1..=MOST_PINPOINTS).contains(&list.len()));
    let pairs: Option<Vec<(usize, usize)>> = list.and_then(|list| list.iter().map(pair).collect());
    pairs.unwrap_or_else(|| {
        let most = 64 * image_size;
        fields.wrong(
            name,
            format!("must be pairs of multiples of `vision_config.image_size` ({image_size}) up to {most}"),
        );
        Vec::new()
    })
}

/// What the sizes come to all together.
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
    if parameters > MOST_PARAMETERS {
        fields.wrong(
            "model_type",
            format!("has sizes of {parameters} parameters: at most {MOST_PARAMETERS} are possible"),
        );
    }
    if layers > MOST_LAYERS {
        fields.wrong("model_type", format!("has {layers} layers: at most {MOST_LAYERS} are possible"));
    }
}
