//! The contract of a stage: what a kind promises the engine. Knows no concrete kind and no store.
//!
//! A kind is a row of the registry: a name, a version, its outputs, and a function that turns a table of
//! the user's file into a [`Stage`]. A stage says what identifies it ([`Stage::identify`]), what it reads
//! ([`Stage::inputs`]), and does its job in a private folder ([`Stage::run`]).

pub mod artifact;
pub mod config;
pub mod context;
pub mod manifest;
pub mod program;

use std::fmt::Debug;
use std::path::PathBuf;

use anyhow::{Result, anyhow};
use schemars::{Schema, SchemaGenerator};
use serde::{Deserialize, Serialize};

pub use artifact::{Artifact, ArtifactKind, OutputSpec, Outputs};
pub use config::{ConfigError, Reference};
pub use context::{InputPath, StageContext, Summary};
pub use manifest::{Manifest, ManifestEntry};
pub use program::Program;

/// What a node of the graph does. The implementor is the kind's own config struct.
pub trait Stage: Send + Sync + Debug {
    /// Writes every value that can change the output's bytes, by destructuring the config without `..`.
    /// References and outside files are not written here: the engine adds their content under their roles.
    fn identify(&self, manifest: &mut Manifest);

    /// What the stage reads, in a fixed order. A role is the key's path in the stage's table.
    fn inputs(&self) -> Vec<Input>;

    /// The outputs, where they follow from the table; `None` for those of the kind.
    fn outputs(&self) -> Option<Vec<OutputSpec>> {
        None
    }

    /// The pool, where it follows from the table; `None` for that of the kind.
    fn pool(&self) -> Option<Pool> {
        None
    }

    /// The program that does the job instead of [`Stage::run`].
    fn program(&self) -> Option<Program> {
        None
    }

    /// Environment variables that [`Stage::run`] may read, in `ctx.variables`. None of them changes what it writes, and
    /// some hold secrets: no other stage and no program sees them.
    fn variables(&self) -> Vec<String> {
        Vec::new()
    }

    /// What a short look at the files from outside tells before the stage runs: it may read a few small ones. `path` gives
    /// the path of a role.
    fn inspect(&self, _path: &dyn Fn(&str) -> Option<PathBuf>) -> Vec<Finding> {
        Vec::new()
    }

    /// Does the job: reads `ctx` inputs, writes each output under `ctx.output(name)`, prints nothing.
    fn run(&self, ctx: &StageContext) -> Result<Summary>;
}

/// What [`Stage::inspect`] finds in a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// The input's role.
    pub role: String,
    pub message: String,
    /// Whether the stage will fail over it; otherwise it is a warning.
    pub fatal: bool,
}

/// One thing that a stage reads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Input {
    /// Path of the key that names it, for example `policy` or `sources.cot.from`.
    pub role: String,
    pub source: InputSource,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum InputSource {
    /// An output of another stage; the first of `accepts` that the stage produces is taken. An empty list accepts
    /// anything, and takes the stage's first output.
    Stage { reference: Reference, accepts: &'static [ArtifactKind] },
    /// A file or folder outside the store, by path as the user wrote it. Enters by content.
    Outside { path: String },
    /// A variable of the environment. Enters by content, which is not kept in the clear: it may be a secret.
    Environment { name: String },
}

/// Which scarce resource an instance occupies while it runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Pool {
    /// Little work; still one slot of the `cpu` pool.
    Light,
    /// Executes a model: a slot of `cpu`, or of `gpu` where the device is one.
    Model,
    /// Waits for a remote endpoint: a slot of `teacher`.
    Teacher,
}

/// A row of the registry. Kinds are values, so the engine can be tested with toy kinds.
#[derive(Debug)]
pub struct Kind {
    pub name: &'static str,
    /// Raised when the same inputs give other bytes than before: old results are then recomputed.
    pub version: u32,
    /// One line for `--help`, the schema and the docs.
    pub about: &'static str,
    /// What every stage of the kind gives, unless the stage says otherwise ([`Stage::outputs`]).
    pub outputs: &'static [OutputSpec],
    /// Keys whose value may be a list that fans out to one instance per element.
    pub fan_out: &'static [&'static str],
    /// Whether the instance's seed can change its output.
    pub seeded: bool,
    /// Of its stages, unless the stage says otherwise ([`Stage::pool`]).
    pub pool: Pool,
    /// Builds the stage from its table (without `kind`), or says everything that is wrong with it.
    pub parse: Parse,
    /// The keys of the table, for editors: see [`config::schema_of`].
    pub schema: fn(&mut SchemaGenerator) -> Schema,
}

impl Kind {
    /// The stage in a table that was checked before: what is wrong with it now is told in one sentence.
    pub fn build(&self, instance: &str, table: &serde_json::Value) -> Result<Box<dyn Stage>> {
        (self.parse)(table).map_err(|errors| {
            let told: Vec<String> =
                errors.iter().map(|error| format!("{}: {}", error.path.join("."), error.message)).collect();
            anyhow!("the table of `{instance}` is not one of `{}`: {}", self.name, told.join("; "))
        })
    }
}

/// Turns a table into the stage that it describes.
pub type Parse = fn(&serde_json::Value) -> Result<Box<dyn Stage>, Vec<ConfigError>>;

/// The kinds that an experiment may name.
pub type Registry = [&'static Kind];

/// The kind called `name`.
pub fn find_kind(registry: &Registry, name: &str) -> Option<&'static Kind> {
    registry.iter().copied().find(|kind| kind.name == name)
}
