//! Stage instances: a stage at one point of the axes, with its table and its inputs.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::limits::Limits;
use ablate_core::base::{Hash, SharedStr, Span};
use ablate_core::stage::{ArtifactKind, Kind, OutputSpec, Pool, Stage};

/// Index of an instance in its [`Expansion`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct InstanceId(pub usize);

/// One stage at one point of the axes.
#[derive(Clone, Debug)]
pub struct Instance {
    /// `stage`, or `stage@axis=value,...` with the axes in alphabetical order, for example `eval@model=dpo,prompt=cot`.
    pub name: String,
    pub stage: String,
    /// Axis to the label of its value. A key that fans out and `seed` count as axes.
    pub point: BTreeMap<String, String>,
    pub kind: &'static Kind,
    /// The stage's table at this point as JSON, without `kind` and `limits`, with every `${...}` replaced.
    pub config: SharedStr,
    /// The manifest without inputs and seed, as [`ablate_core::stage::Manifest::text`] writes it.
    pub identity: SharedStr,
    pub seed: u64,
    pub inputs: Vec<InstanceInput>,
    pub outputs: Cow<'static, [OutputSpec]>,
    pub pool: Pool,
    pub limits: Limits,
    /// The place in the files of each dotted key of `config`. The empty key is the stage's header.
    pub spans: Arc<BTreeMap<String, Span>>,
    pub parsed: ParsedStage,
}

/// The stage that an instance's table describes, parsed at most once per process. Expansion fills it; for an instance
/// that was read from a compiled plan the first [`Instance::parsed`] does.
#[derive(Clone, Debug, Default)]
pub struct ParsedStage(OnceLock<Arc<dyn Stage>>);

impl From<Arc<dyn Stage>> for ParsedStage {
    fn from(stage: Arc<dyn Stage>) -> ParsedStage {
        ParsedStage(OnceLock::from(stage))
    }
}

/// One input of an instance.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InstanceInput {
    /// Path of the key that names the input.
    pub role: Arc<str>,
    pub upstream: Upstream,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Upstream {
    Output {
        instance: InstanceId,
        /// The output's declared name.
        output: Arc<str>,
        kind: ArtifactKind,
    },
    /// The absolute path of a file or folder outside the store. It existed when the experiment was loaded.
    External { path: PathBuf },
    /// An environment variable.
    Environment { name: String },
}

/// A point whose instance equals that of another point. Both share one instance.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Alias {
    pub stage: String,
    pub point: BTreeMap<String, String>,
    pub instance: InstanceId,
}

/// All instances in topological order. Equal instances are stored once.
#[derive(Clone, Debug, Default)]
pub struct Expansion {
    /// Hash of the compiled experiment, if the expansion was read from one.
    pub hash: Option<Hash>,
    pub instances: Vec<Instance>,
    /// Points that share the instance of another point, by the instance name that they would have.
    pub aliases: BTreeMap<String, Alias>,
}

impl Instance {
    /// The table at this point, parsed from `config`.
    pub fn table(&self) -> Result<Value> {
        serde_json::from_str(&self.config).with_context(|| format!("BUG: the table of `{}` is not JSON", self.name))
    }

    /// The stage that the table describes.
    pub fn parsed(&self) -> Result<&dyn Stage> {
        if let Some(stage) = self.parsed.0.get() {
            return Ok(&**stage);
        }
        let stage = self.kind.build(&self.name, &self.table()?)?;
        Ok(&**self.parsed.0.get_or_init(|| stage.into()))
    }

    /// The name of the instance of a stage at a point.
    pub fn name_of(stage: &str, point: &BTreeMap<String, String>) -> String {
        let pairs: Vec<String> = point.iter().map(|(axis, label)| format!("{axis}={label}")).collect();
        if pairs.is_empty() { stage.to_string() } else { format!("{stage}@{}", pairs.join(",")) }
    }
}

impl Expansion {
    pub fn get(&self, id: InstanceId) -> &Instance {
        &self.instances[id.0]
    }

    pub fn ids(&self) -> impl Iterator<Item = InstanceId> + use<> {
        (0..self.instances.len()).map(InstanceId)
    }

    /// The instance of a name or of an alias.
    pub fn find(&self, name: &str) -> Option<InstanceId> {
        let known = self.instances.iter().position(|instance| instance.name == name).map(InstanceId);
        known.or_else(|| self.aliases.get(name).map(|alias| alias.instance))
    }

    /// Every point of a stage with its instance, aliases included.
    pub fn points_of<'a>(
        &'a self,
        stage: &'a str,
    ) -> impl Iterator<Item = (&'a BTreeMap<String, String>, InstanceId)> + use<'a> {
        let instances = self.ids().map(|id| (self.get(id), id)).filter(move |(instance, _)| instance.stage == stage);
        let aliases = self.aliases.values().filter(move |alias| alias.stage == stage);
        instances.map(|(instance, id)| (&instance.point, id)).chain(aliases.map(|alias| (&alias.point, alias.instance)))
    }
}
