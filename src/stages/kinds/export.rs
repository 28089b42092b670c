//! `export`: a checkpoint as a folder for other programs, with a model card, or only the adapter that was trained last.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Result, anyhow};
use serde::{Deserialize, Serialize};

use crate::stages::checkpoint_folders::CheckpointFolders;
use crate::stages::common;
use crate::stages::loaded_model::LoadedModel;
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
use ablate_nn::{Adapter, Checkpoint, ModelConfig, ParamGroup};

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
    /// What is written.
    #[serde(default)]
    weights: ExportedWeights,
    /// With `weights = "adapter"`: the name or path of the model that the adapter is for, which PEFT loads.
    base_model: Option<String>,
    /// The number type of the weights. Default: that of the imported checkpoint; of an adapter f32.
    dtype: Option<Dtype>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "lowercase")]
enum ExportedWeights {
    /// Those of the model, with its adapters merged.
    #[default]
    Merged,
    /// Those of the last adapter, in PEFT's layout.
    Adapter,
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
    let export: Export = config::parse(table)?;
    if export.base_model.is_some() && export.weights != ExportedWeights::Adapter {
        let message = "`base_model` is written into the config of an adapter: it needs `weights = \"adapter\"`";
        return Err(vec![ConfigError::at("base_model", message)]);
    }
    Ok(Box::new(export))
}

impl Stage for Export {
    fn identify(&self, manifest: &mut Manifest) {
        let Export { model: _, weights, base_model, dtype } = self;
        manifest.value_unless("weights", weights, &ExportedWeights::Merged);
        manifest.value_unless("base_model", base_model, &None);
        manifest.value_unless("dtype", dtype, &None);
    }

    fn inputs(&self) -> Vec<Input> {
        vec![common::stage_input("model", &self.model, &[ArtifactKind::Checkpoint])]
    }

    fn model_origin(&self) -> Option<ModelOrigin> {
        Some(ModelOrigin::Input("model"))
    }

    fn run(&self, ctx: &StageContext) -> Result<Summary> {
        if self.weights == ExportedWeights::Adapter {
            return self.export_adapter(&CheckpointFolders::of_input(ctx, "model")?, &ctx.output(FOLDER));
        }
        let LoadedModel { checkpoint, .. } = LoadedModel::load(ctx, "model")?;
        let folder = ctx.output(FOLDER);
        let rounding = self.dtype.map_or(Rounding::AsImported, Rounding::To);
        if checkpoint.is_own() && self.dtype.is_some_and(|dtype| dtype != Dtype::F32) {
            return Err(wrong_input(anyhow!("`dtype`: a model in ablate's own layout is written as `f32` only")));
        }
        checkpoint.write_rounded(&folder, rounding)?;
        CheckpointFolders::of_input(ctx, "model")?.copy_other_files(&checkpoint, &folder)?;
        if let Some(sizes) = checkpoint.own_sizes() {
            write_card(&checkpoint, sizes, &folder)?;
        }
        Ok(Summary::default().with("parameters", checkpoint.parameters()).with("vocab", checkpoint.architecture.vocab))
    }
}

impl Export {
    fn export_adapter(&self, folders: &CheckpointFolders, to: &Path) -> Result<Summary> {
        let refused = |why: &str| wrong_input(anyhow!("`weights = \"adapter\"`: {why}"));
        if Checkpoint::check_config(&folders.weights)?.is_none() {
            return Err(refused("PEFT cannot load a model in ablate's own layout"));
        }
        let Some(from) = folders.adapter() else {
            return Err(refused("the model has no adapter, because its last training was without `lora`"));
        };
        let family = Checkpoint::read_architecture(&folders.weights)?.family;
        let adapter = Adapter::read(&from, family)?;
        adapter.write(to, family, self.base_model.as_deref(), self.dtype.unwrap_or(Dtype::F32))?;
        let others = folders.adapters.len().saturating_sub(1);
        let warning = format!(
            "the adapter was trained on the base model with {} merged into it, and fits no other model: a stage of kind \
             `export` for the model that the last stage trained writes that model",
            if others == 1 { "another adapter".to_string() } else { format!("{others} other adapters") }
        );
        Ok(Summary::default()
            .with("rank", adapter.rank)
            .with("layers", adapter.modules.len())
            .with_warnings((others > 0).then_some(warning)))
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
