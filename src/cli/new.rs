//! `new`: writes an experiment file from a template, and the schema that its first line names.

use std::path::{Path, PathBuf};

use anyhow::{Result, bail};
use clap::{Args, ValueEnum};
use serde_json::json;

use super::schema;
use super::shell::Shell;
use ablate_core::base::files;
use ablate_experiment::Experiment;

/// The file that the first line of each template names.
const SCHEMA_FILE: &str = "ablate.schema.json";
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
    let schema = write_schema(&absolute.with_file_name(SCHEMA_FILE))?;
    let schema_file = path.with_file_name(SCHEMA_FILE);
    if schema == WrittenSchema::OtherKept {
        shell.warning(&format!(
            "`{0}` differs from the schema of this version and was kept: `ablate schema > {0}` replaces it",
            schema_file.display()
        ));
    }
    if shell.json {
        return shell.json(
            &json!({ "file": path, "schema": schema_file, "schema_is_current": schema != WrittenSchema::OtherKept }),
        );
    }
    let (file, with_schema) = (path.display(), format!(" and {}", schema_file.display()));
    let with_schema = if schema == WrittenSchema::New { with_schema.as_str() } else { "" };
    shell.result(&format!(
        "wrote {file}{with_schema}\nshow the plan with `ablate plan {file}`, run it with `ablate run {file}`"
    ));
    Ok(())
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum WrittenSchema {
    New,
    /// It was there already.
    Equal,
    /// A file with another content was there.
    OtherKept,
}

/// Writes the schema of experiment files. A file of the same name is kept: it may be of another version, or of the user.
fn write_schema(path: &Path) -> Result<WrittenSchema> {
    let text = schema::experiment_schema_text()?;
    if path.symlink_metadata().is_err() {
        files::write_atomic(path, text.as_bytes())?;
        return Ok(WrittenSchema::New);
    }
    let is_current = files::read_text(path).is_ok_and(|known| known == text);
    Ok(if is_current { WrittenSchema::Equal } else { WrittenSchema::OtherKept })
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
