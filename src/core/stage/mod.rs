//! The interface between stage kinds and the engine.
//!
//! A kind is an entry of the registry: a name, a version, its outputs, and a function that builds a [`Stage`] from a
//! table of the user's file. A stage lists the values that identify it ([`Stage::identify`]) and its inputs
//! ([`Stage::inputs`]), and runs in a private folder ([`Stage::run`]).

pub mod artifact;
pub mod config;
pub mod context;
pub mod manifest;
pub mod output_checker;
pub mod program;
pub mod reference;
pub mod request_estimate;
pub mod training;
pub mod work;

use std::collections::BTreeMap;
use std::fmt::{self, Debug};
use std::path::PathBuf;

use anyhow::{Result, anyhow};
use schemars::{Schema, SchemaGenerator};
use serde::{Deserialize, Serialize};

use crate::base::Hash;
pub use artifact::{Artifact, ArtifactKind, BaseCheckpoint, OutputSpec, Outputs};
pub use config::{ConfigError, ConfigErrorKind};
pub use context::{BAD_REPLIES, InputPath, StageContext, Summary};
pub use manifest::{Manifest, ManifestEntry};
pub use output_checker::OutputChecker;
pub use program::Program;
pub use reference::Reference;
pub use request_estimate::{EstimateContext, Range, RequestEstimate};
pub use training::{ModelOrigin, Training, TrainingLength};
pub use work::{Numbers, Work};

/// A node of the graph. Implemented by the kind's config struct.
pub trait Stage: Send + Sync + Debug {
    /// Adds every value that can change the output's bytes. Implementations destructure the config without `..`.
    /// References and external files are not added here: the engine adds their content hashes under their roles.
    fn identify(&self, manifest: &mut Manifest);

    /// The inputs, in a fixed order. A role is the path of the key in the stage's table.
    fn inputs(&self) -> Vec<Input>;

    /// The outputs, if they depend on the table; `None` for those of the kind.
    fn outputs(&self) -> Option<Vec<OutputSpec>> {
        None
    }

    /// The pool, if it depends on the table; `None` for that of the kind.
    fn pool(&self) -> Option<Pool> {
        None
    }

    /// The program that runs instead of [`Stage::run`], which then only writes inputs of the program: those that build on
    /// other checkpoints ([`Artifact::bases`]). It gets only these inputs, and writes each into `ctx.out` under its name in
    /// the sandbox.
    fn program(&self) -> Option<Program> {
        None
    }

    /// Checks the content of an output that [`Stage::program`] wrote. `packs` are the image packs of its inputs and outputs.
    fn output_checker(&self, _output: &OutputSpec, _packs: &BTreeMap<Hash, PathBuf>) -> Option<Box<dyn OutputChecker>> {
        None
    }

    /// The role of the checkpoint that an output builds on, because it holds only what was added to it: an adapter. The store
    /// keeps that checkpoint as long as the output, and stages that read the output get both.
    fn base_input(&self, _output: &str) -> Option<&'static str> {
        None
    }

    /// Environment variables that [`Stage::run`] may read in `ctx.variables`. They must not change the output. Some
    /// hold secrets, so no other stage and no program gets them.
    fn variables(&self) -> Vec<String> {
        Vec::new()
    }

    /// Where the model of the output comes from. `None` if the output does not depend on one model.
    fn model_origin(&self) -> Option<ModelOrigin> {
        None
    }

    /// How long the stage trains its model. `None` if it does not train.
    fn training(&self) -> Option<Training> {
        None
    }

    /// The requests to an endpoint that the stage would send. `None` if it sends none.
    fn estimate_requests(&self, _ctx: &EstimateContext) -> Result<Option<RequestEstimate>> {
        Ok(None)
    }

    /// Checks small external files before the stage runs. `path` returns the path of a role.
    fn inspect(&self, _path: &dyn Fn(&str) -> Option<PathBuf>) -> Vec<Finding> {
        Vec::new()
    }

    /// Runs the stage: reads the inputs in `ctx`, writes each output to `ctx.output(name)`, prints nothing.
    fn run(&self, ctx: &StageContext) -> Result<Summary>;
}

/// A finding of [`Stage::inspect`] about a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// The input's role.
    pub role: String,
    pub message: String,
    /// An error if true: the stage would fail. Otherwise a warning.
    pub fatal: bool,
}

/// One input of a stage.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Input {
    /// Path of the key that names the input, for example `policy` or `sources.cot.from`.
    pub role: String,
    pub source: InputSource,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum InputSource {
    /// An output of another stage: the first kind in `accepts` that the stage produces. With an empty list, the
    /// stage's first output of any kind.
    Stage { reference: Reference, accepts: &'static [ArtifactKind] },
    /// A file or folder outside the store, by the path that the user wrote. Identified by its content. `hub` is the type
    /// of repository that a path `hf://org/name` names.
    External { path: String, hub: HubRepository },
    /// An environment variable. Identified by a hash of its value; the value is not stored, because it may be a
    /// secret.
    Environment { name: String },
}

/// A type of repository on Hugging Face's hub.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HubRepository {
    Model,
    Dataset,
    /// Either.
    Any,
}

impl fmt::Display for HubRepository {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            HubRepository::Model => "model",
            HubRepository::Dataset => "data set",
            HubRepository::Any => "repository",
        })
    }
}

/// The resource that an instance occupies while it runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Pool {
    /// Little work: one slot of the `cpu` pool.
    Light,
    /// Runs a model: a slot of `cpu`, or of `gpu` if the device is a GPU.
    Model,
    /// Waits for a remote endpoint: a slot of `teacher`.
    Teacher,
}

/// An entry of the registry. Kinds are values, so tests can define their own.
#[derive(Debug)]
pub struct Kind {
    pub name: &'static str,
    /// Increased when the same inputs give other bytes than before, so that old results are computed again.
    pub version: u32,
    /// One line for `--help`, the schema and the docs.
    pub about: &'static str,
    /// Outputs of every stage of the kind, unless [`Stage::outputs`] returns others.
    pub outputs: &'static [OutputSpec],
    /// Keys whose value may be a list. A list creates one instance per element.
    pub fan_out: &'static [&'static str],
    /// Whether the instance's seed can change its output.
    pub seeded: bool,
    /// Pool of its stages, unless [`Stage::pool`] returns another.
    pub pool: Pool,
    /// How the work of a stage grows with the numbers of its table, see [`Work`]. The time of a stage is predicted with it.
    pub work: fn(Numbers<'_>) -> Work,
    /// Builds the stage from its table (without `kind`), or returns all errors of the table.
    pub parse: Parse,
    /// The keys of the table, for editors: see [`config::schema_of`].
    pub schema: fn(&mut SchemaGenerator) -> Schema,
}

impl Kind {
    /// Builds the stage from a table that was checked before. All errors are joined into one message.
    pub fn build(&self, instance: &str, table: &serde_json::Value) -> Result<Box<dyn Stage>> {
        (self.parse)(table).map_err(|errors| {
            let messages: Vec<String> =
                errors.iter().map(|error| format!("{}: {}", error.path.join("."), error.message)).collect();
            anyhow!("the table of `{instance}` is not valid for the kind `{}`: {}", self.name, messages.join("; "))
        })
    }
}

/// Builds the stage that a table describes.
pub type Parse = fn(&serde_json::Value) -> Result<Box<dyn Stage>, Vec<ConfigError>>;

/// The kinds that an experiment may name.
pub type Registry = [&'static Kind];

/// The kind called `name`.
pub fn find_kind(registry: &Registry, name: &str) -> Option<&'static Kind> {
    registry.iter().copied().find(|kind| kind.name == name)
}
