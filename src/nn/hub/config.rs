//! Reads the architecture from the `config.json` of a Hugging Face model.
//!
//! A field is read, or ignored (`ignored_fields`: it changes nothing at inference), or restricted (`restricted_fields`: only
//! the values that change nothing are accepted), or reported as unknown. Sizes are checked before memory is allocated.

use anyhow::{Result, bail};
use serde_json::{Map, Value, json};

use super::dtype::Dtype;
use super::families::{gemma3, idefics3, internvl, llava, qwen2_vl, qwen3_vl};
use super::fields::{Fields, Problems};
use super::text::{self, FAMILIES, GEMMA3};
use crate::architecture::{Architecture, Family, Projector, Tower};
use crate::checkpoint::{MAX_LAYERS, MAX_PARAMETERS};

/// The content of `config.json`.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    pub architecture: Architecture,
    /// `image_grid_pinpoints` of LLaVA-NeXT: heights and widths in pixels of the possible grids of tiles.
    pub pinpoints: Vec<(usize, usize)>,
    /// Whether the head is tied only because the class ties it by default: a file with another head has an untied one.
    pub tied_by_default: bool,
    /// Unknown fields with their values. transformers ignores them.
    pub unknown: Vec<String>,
}

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
    Gemma3,
    Idefics3 { class: &'static str },
    InternVl,
    Qwen2Vl(qwen2_vl::Version),
    Qwen3Vl,
}

fn read<'a>(fields: &Fields<'a>, problems: &'a Problems) -> Option<Config> {
    if fields.value("model_type").is_none() {
        fields.wrong("model_type", "is missing");
        return None;
    }
    let mut models: Vec<(&str, Model)> =
        FAMILIES.iter().chain([&GEMMA3]).map(|(name, family)| (*name, Model::Decoder(*family))).collect();
    models.extend([
        ("llava", Model::Llava { tiled: false }),
        ("llava_next", Model::Llava { tiled: true }),
        ("gemma3", Model::Gemma3),
        ("idefics3", Model::Idefics3 { class: "Idefics3ForConditionalGeneration" }),
        ("internvl", Model::InternVl),
        ("smolvlm", Model::Idefics3 { class: "SmolVLMForConditionalGeneration" }),
        ("qwen2_vl", Model::Qwen2Vl(qwen2_vl::Version::Qwen2)),
        ("qwen2_5_vl", Model::Qwen2Vl(qwen2_vl::Version::Qwen25)),
        ("qwen3_vl", Model::Qwen3Vl),
    ]);
    let (architecture, pinpoints) = match fields.choice("model_type", "", &models)? {
        Model::Decoder(family) => {
            fields.class(family.class());
            let (decoder, vocab) = text::read(fields, family);
            (Architecture { family: Family::Decoder, vision: None, decoder, vocab }, Vec::new())
        }
        Model::Llava { tiled } => llava::read(fields, tiled, problems),
        Model::Gemma3 => (gemma3::read(fields, problems), Vec::new()),
        Model::Idefics3 { class } => (idefics3::read(fields, class, problems), Vec::new()),
        Model::InternVl => (internvl::read(fields, problems), Vec::new()),
        Model::Qwen2Vl(version) => (qwen2_vl::read(fields, version, problems), Vec::new()),
        Model::Qwen3Vl => (qwen3_vl::read(fields, problems), Vec::new()),
    };
    let tied_by_default = architecture.family == Family::InternVl && internvl::ties_by_default(fields);
    let config = Config { architecture, pinpoints, tied_by_default, unknown: Vec::new() };
    if fields.problems() == 0 {
        check(fields, &config.architecture);
    }
    Some(config)
}

/// Checks the total size of the model.
fn check(fields: &Fields, architecture: &Architecture) {
    let Architecture { family: _, vision, decoder, vocab } = architecture;
    let product = |factors: &[usize]| factors.iter().map(|factor| *factor as u128).product::<u128>();
    let attention =
        2 * product(&[decoder.dim, decoder.query_width()]) + 2 * product(&[decoder.dim, decoder.kv_width()]);
    let mut parameters = product(&[decoder.layers]) * (attention + 3 * product(&[decoder.dim, decoder.ff]));
    parameters += if decoder.tied_head { 1 } else { 2 } * product(&[*vocab, decoder.dim]);
    let mut layers = decoder.layers;
    if let Some(vision) = vision {
        let tower = &vision.tower;
        let (dim, ff) = tower.widths();
        let block = 4 * product(&[dim, dim]) + 2 * product(&[dim, ff]);
        parameters += product(&[tower.layers()]) * block;
        let side = match tower {
            Tower::Vit(vit) => vit.side(),
            Tower::Dynamic(vit) => vit.position_side.unwrap_or(0),
        };
        let positions = product(&[side, side]);
        parameters += product(&[dim]) * (positions + product(&[tower.patch_values()]));
        parameters += match vision.projector {
            Projector::Mlp { hidden, .. } => product(&[hidden]) * product(&[tower.feature_width() + decoder.dim]),
            Projector::AveragePool { .. } => product(&[tower.feature_width(), decoder.dim]),
            Projector::PixelShuffle { factor } => product(&[factor, factor, tower.feature_width(), decoder.dim]),
            Projector::NormedPixelShuffle { factor, .. } => {
                product(&[factor, factor, tower.feature_width(), decoder.dim]) + product(&[decoder.dim, decoder.dim])
            }
            Projector::PatchMerger { merge, .. } => {
                let (inputs, mergers) = (product(&[merge, merge, dim]), 1 + tower.deepstack().len());
                product(&[mergers]) * inputs * (inputs + product(&[decoder.dim]))
            }
        };
        layers += tower.layers();
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
