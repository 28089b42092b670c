//! The folders of a model. A stage with `lora` writes only its adapter:
//!
//! ```text
//! model/
//!   bases.json                       the content hashes of the checkpoints that it builds on, in order
//!   adapter/adapter_config.json      the adapter in PEFT's layout
//!   adapter/adapter_model.safetensors
//!   seen.txt                         the training index of the model with this adapter
//! ```
//!
//! The first of the bases has weights, the others are adapters. A model is loaded by merging them in their order. The store
//! keeps them as long as the adapter.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, bail};
use serde::{Deserialize, Serialize};

use ablate_core::base::{Hash, files, modes, wrong_input};
use ablate_core::stage::{InputPath, StageContext};
use ablate_data::contamination::TrainingIndex;
use ablate_data::tokenizer::FILE;
use ablate_nn::hub::Dtype;
use ablate_nn::{Adapter, Checkpoint};

/// The folder of an adapter inside a model's folder. Earlier versions wrote it next to merged weights, as `export` does.
pub(super) const ADAPTER_FOLDER: &str = "adapter";

const BASES: &str = "bases.json";

/// Files of a Hugging Face folder that define the conversation format and the image processor. They are copied with the
/// weights.
const COMPANION_FILES: &[&str] = &[
    FILE,
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "chat_template.json",
    "generation_config.json",
    "preprocessor_config.json",
    "processor_config.json",
    "video_preprocessor_config.json",
];

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Bases {
    bases: Vec<Hash>,
}

/// The folders that a model is loaded from.
#[derive(Debug)]
pub struct CheckpointFolders {
    /// The folder with the weights and the companion files.
    pub weights: PathBuf,
    /// Models' folders with adapters, in the order in which they are merged.
    pub(super) adapters: Vec<PathBuf>,
}

impl CheckpointFolders {
    /// The folders of the model of a role.
    pub(super) fn of_input(ctx: &StageContext, role: &str) -> Result<CheckpointFolders> {
        let folder = &ctx.input(role)?.path;
        let missing = |hash: Hash| anyhow!("the checkpoint {} that it builds on is missing", hash.short());
        let base = |hash: Hash| ctx.bases.get(&hash).cloned().ok_or_else(|| missing(hash));
        CheckpointFolders::find(folder, &base).with_context(|| format!("`{}`", folder.display()))
    }

    /// The folders of the model in a folder that the user names. The bases of an adapter are searched in the store that
    /// holds the folder.
    pub fn of_path(folder: &Path) -> Result<CheckpointFolders> {
        let base = |hash: Hash| {
            ablate_store::tree_beside(folder, hash).ok_or_else(|| {
                anyhow!(
                    "`{}` holds an adapter without the weights of its model, which are not in the same store\nhelp: \
                     `ablate export` writes the whole model, and so does a stage of kind `export`",
                    folder.display()
                )
            })
        };
        CheckpointFolders::find(folder, &base)
    }

    fn find(folder: &Path, base: &dyn Fn(Hash) -> Result<PathBuf>) -> Result<CheckpointFolders> {
        let Some(bases) = read_bases(folder)? else {
            return Ok(CheckpointFolders { weights: folder.to_path_buf(), adapters: Vec::new() });
        };
        let mut folders = bases.into_iter().map(base).collect::<Result<Vec<PathBuf>>>()?;
        folders.push(folder.to_path_buf());
        let weights = folders.remove(0);
        if folders.is_empty() {
            bail!("`{}` names no checkpoint", folder.join(BASES).display());
        }
        Ok(CheckpointFolders { weights, adapters: folders })
    }

    /// Whether the model is one or more adapters on the weights of another one.
    pub fn has_adapters(&self) -> bool {
        !self.adapters.is_empty()
    }

    /// Reads the weights and merges the adapters.
    pub(super) fn read(&self) -> Result<Checkpoint> {
        let mut checkpoint = Checkpoint::read(&self.weights)?;
        for folder in &self.adapters {
            let adapter = Adapter::read(&folder.join(ADAPTER_FOLDER), checkpoint.architecture.family)?;
            adapter.merge(&mut checkpoint).with_context(|| format!("`{}`", folder.display()))?;
        }
        Ok(checkpoint)
    }

    /// The folder with the last adapter in PEFT's layout, if the model has one.
    pub(super) fn adapter(&self) -> Option<PathBuf> {
        Some(self.last().join(ADAPTER_FOLDER)).filter(|folder| folder.is_dir())
    }

    /// The folder with the training index.
    fn last(&self) -> &Path {
        self.adapters.last().unwrap_or(&self.weights)
    }

    /// Writes the model as a stage without an adapter writes it: weights without rounding, companion files and training
    /// index; also the last adapter, if PEFT can use it.
    pub fn write_merged(&self, to: &Path) -> Result<()> {
        let checkpoint = self.read()?;
        checkpoint.write(to)?;
        self.copy_other_files(&checkpoint, to)?;
        // Files of the store are read-only.
        files::walk(to)?.iter().try_for_each(|(_, path)| modes::set_default(path, false))
    }

    /// Copies everything but the weights and the config of the model.
    pub(super) fn copy_other_files(&self, checkpoint: &Checkpoint, to: &Path) -> Result<()> {
        copy_companion_files(checkpoint, &self.weights, to)?;
        copy_training_index(self.last(), to)?;
        // PEFT cannot use the names of ablate's own layout.
        if let Some(adapter) = self.adapter().filter(|_| !checkpoint.is_own()) {
            for name in files::list_names(&adapter)? {
                files::copy(&adapter.join(&name), &to.join(ADAPTER_FOLDER).join(&name))?;
            }
        }
        Ok(())
    }
}

/// Whether a folder holds an adapter without the weights of its model.
pub(super) fn is_adapter(folder: &Path) -> bool {
    folder.join(BASES).is_file()
}

/// Writes an adapter that was trained on the model `base`.
pub(super) fn write_adapter(adapter: &Adapter, model: &Checkpoint, base: &InputPath, folder: &Path) -> Result<()> {
    let mut bases = read_bases(&base.path)?.unwrap_or_default();
    bases.push(base.hash);
    files::write_json(&folder.join(BASES), &Bases { bases })?;
    adapter.write(&folder.join(ADAPTER_FOLDER), model.architecture.family, None, Dtype::F32)
}

/// The checkpoints that a folder builds on; `None` if it has weights.
fn read_bases(folder: &Path) -> Result<Option<Vec<Hash>>> {
    let read = || files::read_json::<Bases>(&folder.join(BASES));
    Ok(if is_adapter(folder) { Some(read()?.bases) } else { None })
}

/// Copies the companion files of a model.
pub(super) fn copy_companion_files(checkpoint: &Checkpoint, from: &Path, to: &Path) -> Result<()> {
    let names = if checkpoint.is_own() { &[FILE] } else { COMPANION_FILES };
    for name in names.iter().filter(|name| from.join(name).is_file()) {
        files::copy(&from.join(name), &to.join(name))?;
    }
    Ok(())
}

/// Copies the training index of a model, if it has one.
pub(super) fn copy_training_index(from: &Path, to: &Path) -> Result<()> {
    TrainingIndex::read(from).map_err(wrong_input)?.map_or(Ok(()), |index| index.write(to))
}
