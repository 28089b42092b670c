//! `base`: a model to start from, with fresh weights and a tokenizer's vocabulary, or imported.

use std::path::Path;

use anyhow::{Context, Result, anyhow, bail};
use serde::Deserialize;
use serde_json::Value;

use super::common;
use super::models::{self, Model};
use crate::base::{files, wrong_input};
use crate::data::tokenizer::{FILE, Tokenizer};
use crate::nn::architecture::Vision;
use crate::nn::{Checkpoint, DecoderConfig, ModelConfig, ProjectorConfig, VisionConfig};
use crate::stage::config::{self, ConfigError, schema_of};
use crate::stage::{
    ArtifactKind, Input, InputSource, Kind, Manifest, OutputSpec, Pool, Reference, Stage, StageContext, Summary,
};

pub static KIND: Kind = Kind {
    name: "base",
    version: 1,
    about: "a model with fresh weights, or an imported checkpoint",
    outputs: &[OutputSpec::new("model", ArtifactKind::Checkpoint)],
    fan_out: &[],
    seeded: true,
    pool: Pool::Light,
    parse,
    schema: schema_of::<Table>,
};

#[derive(Debug, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
struct Table {
    tokenizer: Option<Reference>,
    /// Sizes; those that are left out are the small default model's.
    model: Option<ModelConfig>,
    /// A folder with a checkpoint instead.
    path: Option<String>,
}

#[derive(Debug)]
enum Base {
    /// The tokenizer's vocabulary becomes the model's; it is copied into the checkpoint.
    Fresh {
        tokenizer: Reference,
        model: ModelConfig,
    },
    Import {
        path: String,
    },
}

fn parse(table: &Value) -> Result<Box<dyn Stage>, Vec<ConfigError>> {
    let Table { tokenizer, model, path } = config::parse(table)?;
    let given = [("tokenizer", tokenizer.is_some()), ("model", model.is_some())];
    match (tokenizer, path) {
        (None, None) => Err(vec![
            ConfigError::at("", "the stage has no model: neither `tokenizer` nor `path` is given")
                .help("`tokenizer` gives a fresh model its vocabulary, `path` imports a checkpoint"),
        ]),
        (_, Some(path)) => {
            let wrong = |key: &str| {
                ConfigError::at(key, format!("`{key}` is for a fresh model, and `path` imports one that has its own"))
            };
            let errors: Vec<ConfigError> =
                given.into_iter().filter(|(_, given)| *given).map(|(key, _)| wrong(key)).collect();
            if errors.is_empty() { Ok(Box::new(Base::Import { path })) } else { Err(errors) }
        }
        (Some(tokenizer), None) => {
            let model = model.unwrap_or_default();
            match model.check() {
                Ok(()) => Ok(Box::new(Base::Fresh { tokenizer, model })),
                Err(wrong) => Err(wrong
                    .into_iter()
                    .map(|(key, message)| ConfigError::at(&format!("model.{key}"), format!("`{key}` {message}")))
                    .collect()),
            }
        }
    }
}

impl Stage for Base {
    fn identify(&self, manifest: &mut Manifest) {
        let model = match self {
            Base::Fresh { tokenizer: _, model } => model,
            // The folder enters by content.
            Base::Import { path: _ } => return,
        };
        let ModelConfig { image_size, patch_size, vision, projector, decoder } = model;
        manifest.value("model.image_size", image_size);
        manifest.value("model.patch_size", patch_size);
        let VisionConfig { dim, layers, heads, ff } = vision;
        for (key, value) in [("dim", dim), ("layers", layers), ("heads", heads), ("ff", ff)] {
            manifest.value(&format!("model.vision.{key}"), value);
        }
        let ProjectorConfig { hidden } = projector;
        manifest.value("model.projector.hidden", hidden);
        let DecoderConfig { dim, layers, heads, kv_heads, ff, rope_theta, norm_eps, tied_head, max_positions } =
            decoder;
        let sizes = [("dim", dim), ("layers", layers), ("heads", heads), ("kv_heads", kv_heads), ("ff", ff)];
        for (key, value) in sizes {
            manifest.value(&format!("model.decoder.{key}"), value);
        }
        manifest.value("model.decoder.rope_theta", rope_theta);
        manifest.value("model.decoder.norm_eps", norm_eps);
        manifest.value("model.decoder.tied_head", tied_head);
        manifest.value("model.decoder.max_positions", max_positions);
    }

    fn inputs(&self) -> Vec<Input> {
        match self {
            Base::Fresh { tokenizer, .. } => vec![common::input("tokenizer", tokenizer, &[ArtifactKind::Tokenizer])],
            Base::Import { path } => {
                vec![Input { role: "path".to_string(), source: InputSource::Outside { path: path.clone() } }]
            }
        }
    }

    fn run(&self, ctx: &StageContext) -> Result<Summary> {
        let (checkpoint, tokenizer) = match self {
            Base::Fresh { model, .. } => {
                let path = ctx.input("tokenizer")?.path.join(FILE);
                let tokenizer = Tokenizer::read(&path)?;
                let checkpoint = Checkpoint::fresh(model, tokenizer.vocab(), tokenizer.special()?.image, ctx.seed)
                    .map_err(|error| anyhow!("`model`: {error:#}"))?;
                (checkpoint, path)
            }
            Base::Import { .. } => {
                let folder = &ctx.input("path")?.path;
                refuse_other_layouts(folder).map_err(wrong_input).context("`path`")?;
                (Model::read(ctx, "path")?.checkpoint, folder.join(FILE))
            }
        };
        checkpoint.write(&ctx.output("model"))?;
        files::copy(&tokenizer, &ctx.output("model").join(FILE))?;
        if let Base::Import { .. } = self {
            models::carry_seen(&ctx.input("path")?.path, &ctx.output("model"))?;
        }
        Ok(Summary::default()
            .with("parameters", checkpoint.parameters())
            .with("vocab", checkpoint.architecture.vocab)
            .with("image_tokens", checkpoint.architecture.vision.as_ref().map_or(0, Vision::tile_tokens)))
    }
}

/// A folder in the layout of Hugging Face's `transformers` names its architecture, which no checkpoint of ours does.
fn refuse_other_layouts(folder: &Path) -> Result<()> {
    if !folder.is_dir() {
        bail!("`{}` is not a folder: a checkpoint is one, as `export` writes it", folder.display());
    }
    let config: Value = files::read_json(&folder.join("config.json"))?;
    let Some(architectures) = config.get("architectures") else { return Ok(()) };
    let names: Vec<&str> = architectures.as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    let name = names.first().copied().or(config.get("model_type").and_then(Value::as_str)).unwrap_or("unknown");
    bail!(
        "`{}` holds a checkpoint of the architecture `{name}` in Hugging Face's layout, which is not read yet: only \
         folders in the layout that `export` writes are",
        folder.display()
    )
}
