//! `export`: copies a checkpoint into a folder of its own, with a model card.

use std::path::{Path, PathBuf};

use anyhow::{Result, bail};
use clap::Args;
use serde_json::json;

use super::args::{ExperimentArgs, Global};
use super::session::{Need, Session};
use super::shell::Shell;
use crate::stages::checkpoint_folders::CheckpointFolders;
use ablate_core::base::escape::escape_line;
use ablate_core::base::{files, modes};
use ablate_core::stage::{Artifact, ArtifactKind};
use ablate_engine::PlanState;
use ablate_experiment::InstanceId;
use ablate_report::model_card::{self, CardInput};
use ablate_store::ObjectState;

#[derive(Debug, Args)]
pub(super) struct ExportArgs {
    #[command(flatten)]
    pub(super) experiment: ExperimentArgs,
    /// An instance with a checkpoint, or a stage that has only one instance.
    #[arg(value_name = "INSTANCE")]
    pub(super) instance: String,
    /// The new folder.
    #[arg(value_name = "DIR")]
    pub(super) folder: PathBuf,
}

const CARD: &str = "README.md";
/// The name that a card of the checkpoint itself gets.
const OTHER_CARD: &str = "README.original.md";

pub(super) fn export(shell: Shell, global: &Global, arguments: &ExportArgs) -> Result<()> {
    let ExportArgs { experiment, instance, folder } = arguments;
    if folder.symlink_metadata().is_ok() {
        bail!("`{}` already exists: name a new folder", folder.display());
    }
    let session = Session::read(global, experiment, Need::All)?;
    let id = session.one(instance)?;
    let plan = session.plan()?;
    let name = &session.expansion.get(id).name;
    let entry = plan.get(id);
    let (PlanState::Fresh, Some(record)) = (&entry.state, &entry.record) else {
        bail!("`{name}` has no up-to-date result: run `ablate run {} {name}` first", experiment.file.display())
    };
    let outputs: Vec<(&str, &Artifact)> = record.outputs.iter().collect();
    let source = checkpoint(&session, id, &outputs)?;
    let folders = CheckpointFolders::of_path(&source)?;
    let transformers = is_of_transformers(&folders.weights)?;
    let Session { experiment: loaded, expansion, store, .. } = &session;
    let overrides = &experiment.overrides;
    let card = model_card::render(&CardInput {
        experiment: loaded,
        expansion,
        plan: &plan,
        store,
        id,
        overrides,
        transformers,
    })?;
    copy(&source, &folders, folder, &card)?;
    if shell.json {
        return shell.json(&json!({ "instance": name, "folder": folder, "card": folder.join(CARD) }));
    }
    shell.result(&format!("wrote {name} with its card into {}", folder.display()));
    Ok(())
}

/// The folder of the checkpoint in the store, after reading all its bytes: the output of that type, or a folder with a
/// `config.json`.
fn checkpoint(session: &Session, id: InstanceId, outputs: &[(&str, &Artifact)]) -> Result<PathBuf> {
    let path = |artifact: &Artifact| session.store.artifact_path(artifact);
    let is_folder =
        |artifact: &Artifact| artifact.kind == ArtifactKind::File && path(artifact).join("config.json").is_file();
    let typed = outputs.iter().find(|(_, artifact)| artifact.kind == ArtifactKind::Checkpoint);
    let found = typed.or_else(|| outputs.iter().find(|(_, artifact)| artifact.tree && is_folder(artifact)));
    let name = &session.expansion.get(id).name;
    let Some((output, artifact)) = found else {
        let names: Vec<String> = outputs.iter().map(|(output, _)| format!("`{}`", escape_line(output))).collect();
        bail!("`{name}` has no checkpoint: its outputs are {}", names.join(", "))
    };
    for artifact in artifact.with_bases() {
        if session.store.check(&artifact, true)? != ObjectState::Present {
            bail!(
                "the output `{output}` of `{name}` is damaged in the store: run `ablate verify`, then `ablate run` makes it again"
            );
        }
    }
    Ok(path(artifact))
}

/// Whether a checkpoint is in Hugging Face's layout, and not in ablate's own.
fn is_of_transformers(folder: &Path) -> Result<bool> {
    let config: serde_json::Value = files::read_json(&folder.join("config.json"))?;
    Ok(config.get("model_type").is_some())
}

/// Copies a checkpoint, with its adapters merged, and adds the card. The folder gets its name when it is complete.
fn copy(source: &Path, folders: &CheckpointFolders, folder: &Path, card: &str) -> Result<()> {
    let folder = std::path::absolute(folder)?;
    let mut partial = folder.clone().into_os_string();
    partial.push(format!(".partial-{}", std::process::id()));
    let partial = PathBuf::from(partial);
    let copied = (|| {
        if folders.has_adapters() {
            folders.write_merged(&partial)?;
        } else {
            copy_files(source, &partial)?;
        }
        files::write_atomic(&partial.join(CARD), card.as_bytes())?;
        if folder.symlink_metadata().is_ok() {
            bail!("`{}` was created by another program: name a new folder", folder.display());
        }
        files::rename(&partial, &folder)
    })();
    if copied.is_err() {
        files::remove_dir(&partial)?;
    }
    copied
}

fn copy_files(source: &Path, folder: &Path) -> Result<()> {
    for (name, path) in files::walk(source)? {
        let to = folder.join(if name == CARD { OTHER_CARD } else { &name });
        files::copy(&path, &to)?;
        modes::set_default(&to, false)?;
    }
    Ok(())
}
