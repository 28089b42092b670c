//! `new`: writes an experiment file from a template.

use std::path::{Path, PathBuf};

use anyhow::{Result, bail};
use clap::{Args, ValueEnum};
use serde_json::json;

use super::shell::Shell;
use ablate_core::base::files;
use ablate_experiment::Experiment;

const SFT: &str = include_str!("templates/sft.toml");
const DPO: &str = include_str!("templates/dpo.toml");
const COMMAND: &str = include_str!("templates/command.toml");

#[derive(Debug, Args)]
pub(super) struct NewArgs {
    /// Name of the experiment; the file gets the suffix `.toml`. May include a folder.
    #[arg(value_name = "NAME")]
    pub(super) name: PathBuf,
    /// The template.
    #[arg(long, value_enum, default_value_t = Template::Sft)]
    pub(super) template: Template,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Template {
    /// Fine-tuning on three data mixes.
    Sft,
    /// Fine-tuning, then DPO on preference pairs from the model's own answers.
    Dpo,
    /// Your own programs.
    Command,
}

pub(super) fn new(shell: Shell, arguments: &NewArgs) -> Result<()> {
    let path = experiment_path(&arguments.name);
    let name = path.file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default();
    if let Some(message) = Experiment::name_error(&name) {
        bail!("{message}");
    }
    if path.symlink_metadata().is_ok() {
        bail!("`{}` already exists: nothing was written", path.display());
    }
    let text = match arguments.template {
        Template::Sft => SFT,
        Template::Dpo => DPO,
        Template::Command => COMMAND,
    };
    let absolute = std::path::absolute(&path)?;
    if let Some(folder) = absolute.parent() {
        files::create_dir(folder)?;
    }
    files::write_atomic(&absolute, text.replacen("NAME", &name, 1).as_bytes())?;
    let file = path.display();
    if shell.json {
        return shell.json(&json!({ "file": path }));
    }
    shell.result(&format!("wrote {file}\nshow the plan with `ablate plan {file}`, run it with `ablate run {file}`"));
    Ok(())
}

/// Adds the suffix `.toml` if it is missing.
fn experiment_path(name: &Path) -> PathBuf {
    match name.extension() {
        Some(extension) if extension == "toml" => name.to_path_buf(),
        _ => {
            let mut named = name.as_os_str().to_os_string();
            named.push(".toml");
            PathBuf::from(named)
        }
    }
}
