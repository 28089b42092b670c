//! `schema`: prints the JSON Schema of experiment files.

use anyhow::Result;

use super::shell::Shell;
use crate::stages::KINDS;
use ablate_experiment::schema::schema as experiment_schema;

pub(super) fn schema(shell: Shell) -> Result<()> {
    shell.json(&experiment_schema(KINDS))
}
