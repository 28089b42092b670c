//! `export`: a checkpoint as a folder for other programs, with a card that says what it is.

use std::collections::BTreeMap;

use anyhow::Result;
use serde::{Deserialize, Serialize};

use super::common;
use super::models::{self, Model};
use crate::base::files;
use crate::data::seen;
use crate::data::tokenizer::{FILE, SPECIAL};
use crate::nn::checkpoint::FORMAT;
use crate::nn::parameters::parameters;
use crate::nn::{ModelConfig, Part};
use crate::stage::config::{self, ConfigError, schema_of};
use crate::stage::{ArtifactKind, Input, Kind, Manifest, OutputSpec, Pool, Reference, Stage, StageContext, Summary};

pub static KIND: Kind = Kind {
    name: "export",
    version: 1,
    about: "a checkpoint as a folder for other programs",
    outputs: &[OutputSpec::new(FOLDER, ArtifactKind::File)],
    fan_out: &[],
    seeded: false,
    pool: Pool::Light,
    parse,
    schema: schema_of::<Export>,
};

const FOLDER: &str = "checkpoint";

#[derive(Debug, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
struct Export {
    model: Reference,
}

/// What `card.json` holds: everything that a reader of the folder needs to know, and nothing of where it was made.
#[derive(Serialize)]
struct Card<'a> {
    about: &'static str,
    /// Of `config.json`.
    format: u32,
    files: BTreeMap<&'static str, &'static str>,
    /// Numbers in all, and in each part.
    parameters: usize,
    parameters_by_part: BTreeMap<Part, usize>,
    vocab: usize,
    /// Patches of an image, each a token.
    image_tokens: usize,
    special_tokens: [&'static str; 5],
    conversation: &'static str,
    model: &'a ModelConfig,
}

fn parse(table: &serde_json::Value) -> Result<Box<dyn Stage>, Vec<ConfigError>> {
    Ok(Box::new(config::parse::<Export>(table)?))
}

impl Stage for Export {
    fn identify(&self, _: &mut Manifest) {
        let Export { model: _ } = self;
    }

    fn inputs(&self) -> Vec<Input> {
        vec![common::input("model", &self.model, &[ArtifactKind::Checkpoint])]
    }

    fn run(&self, ctx: &StageContext) -> Result<Summary> {
        let Model { checkpoint, .. } = Model::read(ctx, "model")?;
        let model = checkpoint.own_sizes();
        let folder = ctx.output(FOLDER);
        checkpoint.write(&folder)?;
        let from = &ctx.input("model")?.path;
        files::copy(&from.join(FILE), &folder.join(FILE))?;
        models::carry_seen(from, &folder)?;
        let mut parameters_by_part = BTreeMap::new();
        for parameter in parameters(&checkpoint.architecture) {
            *parameters_by_part.entry(parameter.part).or_default() += parameter.len();
        }
        let mut files_told = BTreeMap::from([
            ("config.json", "format, vocabulary, id of the image token, sizes"),
            ("model.safetensors", "one float32 array per parameter"),
            (FILE, "the vocabulary, as the `tokenizers` package reads it"),
        ]);
        if folder.join(seen::FILE).exists() {
            files_told.insert(seen::FILE, "hashes of the images and questions that it was trained on");
        }
        let card = Card {
            about: "a vision-language model: patch encoder, projector, LLaMA decoder",
            format: FORMAT,
            files: files_told,
            parameters: checkpoint.parameters(),
            parameters_by_part,
            vocab: checkpoint.architecture.vocab,
            image_tokens: model.image_tokens(),
            special_tokens: SPECIAL,
            conversation: "<|user|> [<|image|> x image_tokens] prompt <|assistant|> response <|end|>",
            model,
        };
        files::write_json(&folder.join("card.json"), &card)?;
        Ok(Summary::default().with("parameters", card.parameters).with("vocab", card.vocab))
    }
}
