//! `export`: a checkpoint as a folder for other programs, with a model card.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Result, anyhow};
use serde::{Deserialize, Serialize};

use crate::stages::common;
use crate::stages::loaded_model::{self, LoadedModel};
use crate::stages::training_common::ADAPTER_FOLDER;
use ablate_core::base::{files, wrong_input};
use ablate_core::stage::config::{self, ConfigError, schema_of};
use ablate_core::stage::{
    ArtifactKind, Input, Kind, Manifest, ModelOrigin, OutputSpec, Pool, Reference, Stage, StageContext, Summary, Work,
};
use ablate_data::contamination;
use ablate_data::tokenizer::{FILE, SPECIAL_TOKENS};
use ablate_nn::checkpoint::{FORMAT, Rounding};
use ablate_nn::hub::Dtype;
use ablate_nn::parameters::parameters;
use ablate_nn::{Checkpoint, ModelConfig, ParamGroup};

pub static KIND: Kind = Kind {
    name: "export",
    version: 1,
    about: "a checkpoint as a folder for other programs",
    outputs: &[OutputSpec::new(FOLDER, ArtifactKind::File)],
    fan_out: &[],
    seeded: false,
    pool: Pool::Light,
    work: Work::of_rows,
    parse,
    schema: schema_of::<Export>,
};

const FOLDER: &str = "checkpoint";

#[derive(Debug, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
struct Export {
    model: Reference,
    /// The number type of the weights. Default: that of the imported checkpoint.
    dtype: Option<Dtype>,
}

/// The content of `card.json`. It must not depend on the machine.
#[derive(Serialize)]
struct Card<'a> {
    about: &'static str,
    /// The `format` of `config.json`.
    format: u32,
    files: BTreeMap<&'static str, &'static str>,
    /// Number of parameters of the model, and of each part.
    parameters: usize,
    parameters_by_part: BTreeMap<ParamGroup, usize>,
    vocab: usize,
    /// Tokens of an image: one per patch.
    image_tokens: usize,
    special_tokens: [&'static str; 5],
    conversation: &'static str,
    model: &'a ModelConfig,
}

fn parse(table: &serde_json::Value) -> Result<Box<dyn Stage>, Vec<ConfigError>> {
    Ok(Box::new(config::parse::<Export>(table)?))
}

impl Stage for Export {
    fn identify(&self, manifest: &mut Manifest) {
        let Export { model: _, dtype } = self;
        manifest.value_unless("dtype", dtype, &None);
    }

    fn inputs(&self) -> Vec<Input> {
        vec![common::stage_input("model", &self.model, &[ArtifactKind::Checkpoint])]
    }

    fn model_origin(&self) -> Option<ModelOrigin> {
        Some(ModelOrigin::Input("model"))
    }

    fn run(&self, ctx: &StageContext) -> Result<Summary> {
        let from = &ctx.input("model")?.path;
        let LoadedModel { checkpoint, .. } = LoadedModel::load(ctx, "model")?;
        let folder = ctx.output(FOLDER);
        let rounding = self.dtype.map_or(Rounding::AsImported, Rounding::To);
        if checkpoint.is_own() && self.dtype.is_some_and(|dtype| dtype != Dtype::F32) {
            return Err(wrong_input(anyhow!("`dtype`: a model in ablate's own layout is written as `f32` only")));
        }
        checkpoint.write_rounded(&folder, rounding)?;
        loaded_model::copy_companion_files(&checkpoint, from, &folder)?;
        loaded_model::copy_training_index(from, &folder)?;
        if let Some(sizes) = checkpoint.own_sizes() {
            write_card(&checkpoint, sizes, &folder)?;
        }
        let adapter = from.join(ADAPTER_FOLDER);
        if adapter.is_dir() {
            for name in files::list_names(&adapter)? {
                files::copy(&adapter.join(&name), &folder.join(ADAPTER_FOLDER).join(&name))?;
            }
        }
        Ok(Summary::default().with("parameters", checkpoint.parameters()).with("vocab", checkpoint.architecture.vocab))
    }
}

/// Writes the card of a model in ablate's own layout.
fn write_card(checkpoint: &Checkpoint, model: &ModelConfig, folder: &Path) -> Result<()> {
    let mut parameters_by_part = BTreeMap::new();
    for parameter in parameters(&checkpoint.architecture) {
        *parameters_by_part.entry(parameter.group).or_default() += parameter.len();
    }
    let mut file_list = BTreeMap::from([
        ("config.json", "format, vocabulary, id of the image token, sizes"),
        ("model.safetensors", "one float32 array per parameter"),
        (FILE, "the vocabulary, as the `tokenizers` package reads it"),
    ]);
    if folder.join(contamination::FILE).exists() {
        file_list.insert(contamination::FILE, "hashes of the images and questions that it was trained on");
    }
    let card = Card {
        about: "a vision-language model: patch encoder, projector, LLaMA decoder",
        format: FORMAT,
        files: file_list,
        parameters: checkpoint.parameters(),
        parameters_by_part,
        vocab: checkpoint.architecture.vocab,
        image_tokens: model.image_tokens(),
        special_tokens: SPECIAL_TOKENS,
        conversation: "<|user|> [<|image|> x image_tokens] prompt <|assistant|> response <|end|>",
        model,
    };
    files::write_json(&folder.join("card.json"), &card)
}
