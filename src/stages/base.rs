//! `base`: a model with fresh weights, its vocabulary taken from a tokenizer.

use anyhow::{Result, anyhow};
use serde::Deserialize;

use super::common;
use crate::base::files;
use crate::data::tokenizer::{FILE, Tokenizer};
use crate::nn::{Checkpoint, DecoderConfig, ModelConfig, ProjectorConfig, VisionConfig};
use crate::stage::config::{self, ConfigError, schema_of};
use crate::stage::{ArtifactKind, Input, Kind, Manifest, OutputSpec, Pool, Reference, Stage, StageContext, Summary};

pub static KIND: Kind = Kind {
    name: "base",
    version: 1,
    about: "a model with fresh weights",
    outputs: &[OutputSpec::new("model", ArtifactKind::Checkpoint)],
    fan_out: &[],
    seeded: true,
    pool: Pool::Light,
    parse,
    schema: schema_of::<Base>,
};

#[derive(Debug, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
struct Base {
    /// Its vocabulary becomes the model's; it is copied into the checkpoint.
    tokenizer: Reference,
    /// Sizes; those that are left out are the small default model's.
    #[serde(default)]
    model: ModelConfig,
}

fn parse(table: &serde_json::Value) -> Result<Box<dyn Stage>, Vec<ConfigError>> {
    let base: Base = config::parse(table)?;
    match base.model.check() {
        Ok(()) => Ok(Box::new(base)),
        Err(wrong) => Err(wrong
            .into_iter()
            .map(|(key, message)| ConfigError::at(&format!("model.{key}"), format!("`{key}` {message}")))
            .collect()),
    }
}

impl Stage for Base {
    fn identify(&self, manifest: &mut Manifest) {
        let Base { tokenizer: _, model } = self;
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
        vec![common::input("tokenizer", &self.tokenizer, &[ArtifactKind::Tokenizer])]
    }

    fn run(&self, ctx: &StageContext) -> Result<Summary> {
        let path = ctx.input("tokenizer")?.path.join(FILE);
        let tokenizer = Tokenizer::read(&path)?;
        let checkpoint = Checkpoint::fresh(&self.model, tokenizer.vocab(), tokenizer.special().image, ctx.seed)
            .map_err(|error| anyhow!("`model`: {error:#}"))?;
        checkpoint.write(&ctx.output("model"))?;
        files::copy(&path, &ctx.output("model").join(FILE))?;
        Ok(Summary::default()
            .with("parameters", checkpoint.parameters())
            .with("vocab", checkpoint.vocab)
            .with("image_tokens", self.model.image_tokens()))
    }
}
