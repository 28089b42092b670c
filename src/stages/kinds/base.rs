//! `base`: a model to start from, with fresh weights and a tokenizer's vocabulary, or imported.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, bail};
use serde::Deserialize;
use serde_json::{Map, Value};

use crate::stages::common;
use crate::stages::loaded_model::{self, Model};
use ablate_core::base::{files, wrong_input};
use ablate_core::stage::config::{self, ConfigError, schema_of};
use ablate_core::stage::{
    ArtifactKind, Finding, Input, InputSource, Kind, Manifest, OutputSpec, Pool, Reference, Stage, StageContext,
    Summary,
};
use ablate_data::conversation::Conversation;
use ablate_data::images::ImageLoader;
use ablate_data::tokenizer::{FILE, Tokenizer};
use ablate_nn::architecture::Vision;
use ablate_nn::{Adapter, Checkpoint, DecoderConfig, ModelConfig, ProjectorConfig, VisionConfig};

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

/// A file that is a template and nothing else.
const CHAT_TEMPLATE: &str = "chat_template.jinja";

#[derive(Debug, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
struct Table {
    tokenizer: Option<Reference>,
    /// Sizes; those that are left out are the small default model's.
    model: Option<ModelConfig>,
    /// A folder with a checkpoint instead: Hugging Face's layout or ours.
    path: Option<String>,
    /// A folder with a LoRA adapter in PEFT's layout, which is merged into the checkpoint.
    adapter: Option<String>,
    /// A file with a chat template, for a checkpoint that has none or another.
    chat_template: Option<String>,
    /// Whether a field of `config.json` that is not known is an error. Otherwise it is a warning.
    strict: Option<bool>,
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
        adapter: Option<String>,
        chat_template: Option<String>,
        strict: bool,
    },
}

fn parse(table: &Value) -> Result<Box<dyn Stage>, Vec<ConfigError>> {
    let Table { tokenizer, model, path, adapter, chat_template, strict } = config::parse(table)?;
    let given = [("tokenizer", tokenizer.is_some()), ("model", model.is_some())];
    match (tokenizer, path) {
        (_, None) if adapter.is_some() || chat_template.is_some() || strict.is_some() => {
            let given = [("adapter", adapter.is_some()), ("chat_template", chat_template.is_some())];
            let key = given.into_iter().find(|(_, given)| *given).map_or("strict", |(key, _)| key);
            Err(vec![ConfigError::at(key, format!("`{key}` is for a checkpoint that `path` imports"))])
        }
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
            let strict = strict.unwrap_or(false);
            if errors.is_empty() {
                Ok(Box::new(Base::Import { path, adapter, chat_template, strict }))
            } else {
                Err(errors)
            }
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
            // Folders and files enter by content. What `strict` refuses must not be found as a result without it.
            Base::Import { path: _, adapter: _, chat_template: _, strict } => {
                manifest.value_unless("strict", strict, &false);
                return;
            }
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
            Base::Import { path, adapter, chat_template, strict: _ } => {
                let given =
                    [("path", Some(path)), ("adapter", adapter.as_ref()), ("chat_template", chat_template.as_ref())];
                let outside = |(role, path): (&str, Option<&String>)| {
                    Some(Input { role: role.to_string(), source: InputSource::External { path: path?.clone() } })
                };
                given.into_iter().filter_map(outside).collect()
            }
        }
    }

    fn inspect(&self, path: &dyn Fn(&str) -> Option<PathBuf>) -> Vec<Finding> {
        let (Base::Import { chat_template, strict, .. }, Some(folder)) = (self, path("path")) else {
            return Vec::new();
        };
        let finding = |message, fatal| Finding { role: "path".to_string(), message, fatal };
        let checked = check_folder(&folder, chat_template.is_some())
            .and_then(|unknown| if *strict { refuse_unknown(&unknown).map(|()| unknown) } else { Ok(unknown) });
        match checked {
            Ok(unknown) if unknown.is_empty() => Vec::new(),
            Ok(unknown) => vec![finding(told_unknown(&unknown), false)],
            Err(error) => vec![finding(format!("{error:#}"), true)],
        }
    }

    fn run(&self, ctx: &StageContext) -> Result<Summary> {
        let folder = ctx.output("model");
        let checkpoint = match self {
            Base::Fresh { model, .. } => {
                let path = ctx.input("tokenizer")?.path.join(FILE);
                let tokenizer = Tokenizer::read(&path)?;
                let image_token = tokenizer.special()?.image;
                let checkpoint = Checkpoint::fresh(model, tokenizer.vocab_size(), image_token, ctx.seed)
                    .map_err(|error| anyhow!("`model`: {error:#}"))?;
                checkpoint.write(&folder)?;
                files::copy(&path, &folder.join(FILE))?;
                checkpoint
            }
            Base::Import { strict, .. } => import(ctx, &folder, *strict)?,
        };
        Ok(Summary::default()
            .with("parameters", checkpoint.parameters())
            .with("vocab", checkpoint.architecture.vocab)
            .with("image_tokens", checkpoint.architecture.vision.as_ref().map_or(0, Vision::tile_tokens)))
    }
}

/// Copies a checkpoint from elsewhere, with an adapter merged in and its own or another chat template.
fn import(ctx: &StageContext, folder: &Path, strict: bool) -> Result<Checkpoint> {
    let path = &ctx.input("path")?.path;
    if !path.is_dir() {
        return Err(wrong_input(anyhow!("`path`: `{}` is not a folder: a checkpoint is one", path.display())));
    }
    let read = || -> Result<Checkpoint> {
        let unknown = check_folder(path, ctx.inputs.contains_key("chat_template"))?;
        if strict {
            refuse_unknown(&unknown)?;
        } else if !unknown.is_empty() {
            ctx.progress.note(format!("warning: {}", told_unknown(&unknown)));
        }
        let mut checkpoint = Checkpoint::read(path)?;
        if let Some(adapter) = ctx.inputs.get("adapter") {
            let eyes = checkpoint.architecture.vision.is_some();
            let adapter = Adapter::read(&adapter.path, eyes).context("`adapter`")?;
            adapter.merge(&mut checkpoint).context("`adapter`")?;
        }
        Ok(checkpoint)
    };
    let checkpoint = read().map_err(wrong_input).context("`path`")?;
    loaded_model::carry_companions(&checkpoint, path, folder)?;
    if let Some(template) = ctx.inputs.get("chat_template") {
        if checkpoint.is_own() {
            let error = anyhow!("`chat_template`: a checkpoint of our own layout has its conversation fixed");
            return Err(wrong_input(error));
        }
        forget_template(folder)?;
        files::copy(&template.path, &folder.join(CHAT_TEMPLATE))?;
    }
    checkpoint.write(folder)?;
    // What is there without a given template is checked where the user knows it.
    let around = if ctx.inputs.contains_key("chat_template") { folder } else { path };
    let images = |processor| ImageLoader::open(&ctx.images, processor);
    let Model { checkpoint, .. } = Model::around(checkpoint, around, images).map_err(wrong_input).context("`path`")?;
    loaded_model::carry_seen(path, folder)?;
    Ok(checkpoint)
}

/// What can be said of a checkpoint's folder without its weights: the fields of its JSON files that are not known.
fn check_folder(folder: &Path, templated: bool) -> Result<Vec<String>> {
    if !folder.is_dir() {
        bail!("`{}` is not a folder: a checkpoint is one", folder.display());
    }
    let config = folder.join("config.json");
    // A pipe would keep whoever opens it waiting.
    if config.exists() && !config.is_file() {
        bail!("`{}` is not a file", config.display());
    }
    let Some(unknown) = Checkpoint::check_config(folder)? else { return Ok(Vec::new()) };
    let files = [("config.json", unknown), ("generation_config.json", Conversation::check_files(folder, templated)?)];
    let told =
        |(file, fields): (&str, Vec<String>)| format!("`{}`: {}", folder.join(file).display(), fields.join(", "));
    Ok(files.into_iter().filter(|(_, fields)| !fields.is_empty()).map(told).collect())
}

fn told_unknown(unknown: &[String]) -> String {
    format!("fields of a checkpoint that are not known are ignored: {}", unknown.join("; "))
}

fn refuse_unknown(unknown: &[String]) -> Result<()> {
    if unknown.is_empty() {
        return Ok(());
    }
    bail!("fields of a checkpoint that are not known, which `strict` refuses: {}", unknown.join("; "))
}

/// Takes the chat templates out that would come before one of [`CHAT_TEMPLATE`].
fn forget_template(folder: &Path) -> Result<()> {
    let json = folder.join("chat_template.json");
    if json.is_file() {
        files::remove_file(&json)?;
    }
    let processor = folder.join("processor_config.json");
    if processor.is_file() {
        let mut config: Map<String, Value> = files::read_json(&processor)?;
        if config.shift_remove("chat_template").is_some() {
            files::write_json(&processor, &config)?;
        }
    }
    Ok(())
}
