//! `base`: an initial model, with random weights and the vocabulary of a tokenizer, or imported.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, bail};
use serde::Deserialize;
use serde_json::{Map, Value};

use crate::stages::checkpoint_folders;
use crate::stages::common;
use crate::stages::loaded_model::{self, LoadedModel};
use ablate_core::base::system_memory::system_memory;
use ablate_core::base::{files, wrong_input};
use ablate_core::stage::config::{self, ConfigError, schema_of};
use ablate_core::stage::{
    ArtifactKind, Finding, HubRepository, Input, InputSource, Kind, Manifest, ModelOrigin, OutputSpec, Pool, Reference,
    Stage, StageContext, Summary, Work,
};
use ablate_data::conversation::Conversation;
use ablate_data::images::ImageLoader;
use ablate_data::tokenizer::{FILE, Tokenizer};
use ablate_nn::{Adapter, Checkpoint, DecoderConfig, ModelConfig, ProjectorConfig, VisionConfig};

pub static KIND: Kind = Kind {
    name: "base",
    version: 1,
    about: "a model with random weights, or an imported checkpoint",
    outputs: &[OutputSpec::new("model", ArtifactKind::Checkpoint)],
    fan_out: &[],
    seeded: true,
    pool: Pool::Light,
    work: Work::constant,
    parse,
    schema: schema_of::<Table>,
};

/// The file of a chat template.
const CHAT_TEMPLATE: &str = "chat_template.jinja";

#[derive(Debug, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
struct Table {
    tokenizer: Option<Reference>,
    /// Sizes of the model. The defaults are those of a small model.
    model: Option<ModelConfig>,
    /// A folder with a checkpoint instead, in Hugging Face's or ablate's layout.
    path: Option<String>,
    /// A folder with a LoRA adapter in PEFT's layout, which is merged into the checkpoint.
    adapter: Option<String>,
    /// A file with a chat template that replaces that of the checkpoint.
    chat_template: Option<String>,
    /// Whether an unknown field of `config.json` is an error. Otherwise it is a warning.
    strict: Option<bool>,
}

#[derive(Debug)]
enum Base {
    /// The model has the vocabulary of the tokenizer, which is copied into the checkpoint.
    Initialized {
        tokenizer: Reference,
        model: ModelConfig,
    },
    Imported {
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
            Err(vec![ConfigError::at(key, format!("`{key}` is for an imported checkpoint only: write its `path`"))])
        }
        (None, None) => Err(vec![
            ConfigError::at("", "`tokenizer` and `path` are missing: the stage needs one of them")
                .help("`tokenizer` gives a new model its vocabulary, `path` imports a checkpoint"),
        ]),
        (_, Some(path)) => {
            let mistake =
                |key: &str| ConfigError::at(key, format!("`{key}` is for a new model only, but `path` imports one"));
            let errors: Vec<ConfigError> =
                given.into_iter().filter(|(_, given)| *given).map(|(key, _)| mistake(key)).collect();
            let strict = strict.unwrap_or(false);
            if errors.is_empty() {
                Ok(Box::new(Base::Imported { path, adapter, chat_template, strict }))
            } else {
                Err(errors)
            }
        }
        (Some(tokenizer), None) => {
            let model = model.unwrap_or_default();
            match model.check() {
                Ok(()) => Ok(Box::new(Base::Initialized { tokenizer, model })),
                Err(mistakes) => Err(mistakes
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
            Base::Initialized { tokenizer: _, model } => model,
            // Folders and files enter by content. A result without `strict` must not be reused with it, since it may be
            // refused.
            Base::Imported { path: _, adapter: _, chat_template: _, strict } => {
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
            Base::Initialized { tokenizer, .. } => {
                vec![common::stage_input("tokenizer", tokenizer, &[ArtifactKind::Tokenizer])]
            }
            Base::Imported { path, adapter, chat_template, strict: _ } => {
                let given =
                    [("path", Some(path)), ("adapter", adapter.as_ref()), ("chat_template", chat_template.as_ref())];
                let external = |(role, path): (&str, Option<&String>)| {
                    Some(Input {
                        role: role.to_string(),
                        source: InputSource::External { path: path?.clone(), hub: HubRepository::Model },
                    })
                };
                given.into_iter().filter_map(external).collect()
            }
        }
    }

    fn inspect(&self, path: &dyn Fn(&str) -> Option<PathBuf>) -> Vec<Finding> {
        let (Base::Imported { chat_template, strict, .. }, Some(folder)) = (self, path("path")) else {
            return Vec::new();
        };
        let finding = |message, fatal| Finding { role: "path".to_string(), message, fatal };
        let checked = check_folder(&folder, chat_template.is_some())
            .and_then(|unknown| if *strict { refuse_unknown(&unknown).map(|()| unknown) } else { Ok(unknown) });
        match checked {
            Ok(unknown) => {
                let unknown = (!unknown.is_empty()).then(|| unknown_fields(&unknown));
                // Another machine may run the stage.
                unknown.into_iter().chain(too_large(&folder)).map(|message| finding(message, false)).collect()
            }
            Err(error) => vec![finding(format!("{error:#}"), true)],
        }
    }

    fn model_origin(&self) -> Option<ModelOrigin> {
        Some(match self {
            Base::Initialized { .. } => ModelOrigin::Initialized,
            Base::Imported { .. } => ModelOrigin::Elsewhere("an imported checkpoint"),
        })
    }

    fn run(&self, ctx: &StageContext) -> Result<Summary> {
        let folder = ctx.output("model");
        let checkpoint = match self {
            Base::Initialized { model, .. } => {
                let path = ctx.input("tokenizer")?.path.join(FILE);
                let tokenizer = Tokenizer::read(&path)?;
                let image_token = tokenizer.special()?.image;
                let checkpoint = Checkpoint::initialize(model, tokenizer.vocab_size(), image_token, ctx.seed)
                    .map_err(|error| anyhow!("`model`: {error:#}"))?;
                checkpoint.write(&folder)?;
                files::copy(&path, &folder.join(FILE))?;
                checkpoint
            }
            Base::Imported { strict, .. } => import(ctx, &folder, *strict)?,
        };
        Ok(Summary::default()
            .with("parameters", checkpoint.parameters())
            .with("vocab", checkpoint.architecture.vocab)
            .with("image_tokens", loaded_model::tile_tokens(&checkpoint.architecture)))
    }
}

/// Copies a checkpoint, merges an adapter, and replaces the chat template.
fn import(ctx: &StageContext, folder: &Path, strict: bool) -> Result<Checkpoint> {
    let path = &ctx.input("path")?.path;
    if !path.is_dir() {
        return Err(wrong_input(anyhow!("`path`: `{}` is not a folder; a checkpoint is a folder", path.display())));
    }
    let read = || -> Result<Checkpoint> {
        let unknown = check_folder(path, ctx.inputs.contains_key("chat_template"))?;
        if strict {
            refuse_unknown(&unknown)?;
        } else if !unknown.is_empty() {
            ctx.progress.note(format!("warning: {}", unknown_fields(&unknown)));
        }
        let mut checkpoint = Checkpoint::read(path)?;
        if let Some(adapter) = ctx.inputs.get("adapter") {
            let family = checkpoint.architecture.family;
            let adapter = Adapter::read(&adapter.path, family).context("`adapter`")?;
            adapter.merge(&mut checkpoint).context("`adapter`")?;
        }
        Ok(checkpoint)
    };
    let checkpoint = read().map_err(wrong_input).context("`path`")?;
    checkpoint_folders::copy_companion_files(&checkpoint, path, folder)?;
    if let Some(template) = ctx.inputs.get("chat_template") {
        if checkpoint.is_own() {
            let error = anyhow!("`chat_template`: a checkpoint in ablate's own layout has a fixed conversation format");
            return Err(wrong_input(error));
        }
        remove_chat_templates(folder)?;
        files::copy(&template.path, &folder.join(CHAT_TEMPLATE))?;
    }
    checkpoint.write(folder)?;
    // Without a given template the source folder is checked, so that messages have the path that the user knows.
    let checked = if ctx.inputs.contains_key("chat_template") { folder } else { path };
    let images = |processor| ImageLoader::open(&ctx.images, processor);
    let model = LoadedModel::from_checkpoint(checkpoint, checked, images).map_err(wrong_input).context("`path`")?;
    checkpoint_folders::copy_training_index(path, folder)?;
    Ok(model.checkpoint)
}

/// Checks a checkpoint's folder without its weights, and lists the unknown fields of its JSON files.
fn check_folder(folder: &Path, templated: bool) -> Result<Vec<String>> {
    if !folder.is_dir() {
        bail!("`{}` is not a folder; a checkpoint is a folder", folder.display());
    }
    if checkpoint_folders::is_adapter(folder) {
        bail!(
            "`{}` is the result of a stage with `lora`: an adapter without the weights of its model\nhelp: import the folder \
             that `ablate export` or a stage of kind `export` writes",
            folder.display()
        );
    }
    let config = folder.join("config.json");
    // Opening a pipe would block.
    if config.exists() && !config.is_file() {
        bail!("`{}` is not a file", config.display());
    }
    let Some(unknown) = Checkpoint::check_config(folder)? else { return Ok(Vec::new()) };
    let files = [("config.json", unknown), ("generation_config.json", Conversation::check_files(folder, templated)?)];
    let list =
        |(file, fields): (&str, Vec<String>)| format!("`{}`: {}", folder.join(file).display(), fields.join(", "));
    Ok(files.into_iter().filter(|(_, fields)| !fields.is_empty()).map(list).collect())
}

/// Why a checkpoint does not fit into the memory of this machine.
fn too_large(folder: &Path) -> Option<String> {
    let architecture = Checkpoint::read_architecture(folder).ok()?;
    Some(format!("`{}`: {}", folder.display(), Checkpoint::too_large(&architecture, system_memory()?)?))
}

fn unknown_fields(unknown: &[String]) -> String {
    format!("unknown fields of the checkpoint are ignored: {}", unknown.join("; "))
}

fn refuse_unknown(unknown: &[String]) -> Result<()> {
    if unknown.is_empty() {
        return Ok(());
    }
    bail!("the checkpoint has unknown fields, which `strict = true` refuses: {}", unknown.join("; "))
}

/// Removes the chat templates that take precedence over [`CHAT_TEMPLATE`].
fn remove_chat_templates(folder: &Path) -> Result<()> {
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
