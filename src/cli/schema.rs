//! `schema`: prints the JSON Schema of experiment files, or of the rows of one type of output.

use anyhow::Result;

use super::shell::Shell;
use crate::stages::{KINDS, formats};
use ablate_core::base::wrong_input;
use ablate_core::stage::ArtifactKind;
use ablate_experiment::schema::schema as experiment_schema;

/// The JSON Schema of experiment files, as a file.
pub(super) fn experiment_schema_text() -> Result<String> {
    Ok(serde_json::to_string_pretty(&experiment_schema(KINDS))? + "\n")
}

pub(super) fn schema(shell: Shell, kind: Option<ArtifactKind>) -> Result<()> {
    match kind {
        None => shell.json(&experiment_schema(KINDS)),
        Some(kind) => shell.json(&formats::schema(kind).map_err(wrong_input)?),
    }
}
