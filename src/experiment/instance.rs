//! What expansion yields: every stage instance with its resolved table and inputs.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};

use anyhow::{Context, Result};
use serde_json::Value;

use super::limits::Limits;
use ablate_core::base::{Hash, SharedStr, Span};
use ablate_core::stage::{ArtifactKind, Kind, OutputSpec, Pool, Stage};

/// Index of an instance in its [`Expansion`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct InstanceId(pub usize);

/// One stage at one point of the axes.
#[derive(Clone, Debug)]
pub struct Instance {
    /// `stage`, or `stage@axis=value,...` with the axes in alphabetical order, for example `eval@model=dpo,prompt=cot`.
    pub name: String,
    pub stage: String,
    /// Axis (or fan-out key, or `seed`) to the label of its value.
    pub point: BTreeMap<String, String>,
    pub kind: &'static Kind,
    /// The stage's table at this point as JSON, without `kind` and `limits`, every `${...}` replaced. Text, because
    /// of ten thousand instances few are ever run.
    pub config: SharedStr,
    /// What identifies it beside inputs and seed, as [`ablate_core::stage::Manifest::text`] has it.
    pub identity: SharedStr,
    pub seed: u64,
    pub inputs: Vec<InstanceInput>,
    pub outputs: Cow<'static, [OutputSpec]>,
    pub pool: Pool,
    pub limits: Limits,
    /// Where each dotted key of `config` was written; the empty key is the stage's header.
    pub origins: Arc<BTreeMap<String, Span>>,
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

/// One input of an instance, resolved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InstanceInput {
    /// Path of the key that names it.
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
    /// A file or folder outside the store, absolute; it existed when the experiment was loaded.
    Outside { path: PathBuf },
    /// A variable of the environment.
    Environment { name: String },
}

/// All instances, each after the instances that it reads. Equal instances are one.
#[derive(Clone, Debug, Default)]
pub struct Expansion {
    /// Hash of all that the instances are, where somebody has computed it.
    pub hash: Option<Hash>,
    pub instances: Vec<Instance>,
    /// Names of points that came out equal to another instance.
    pub aliases: BTreeMap<String, InstanceId>,
}

impl Instance {
    /// The stage's table at this point.
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

    /// The name of a stage at a point.
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

    /// The instance of that name, or the one that came out equal to it.
    pub fn find(&self, name: &str) -> Option<InstanceId> {
        let known = self.instances.iter().position(|instance| instance.name == name).map(InstanceId);
        known.or_else(|| self.aliases.get(name).copied())
    }

    /// Every point of a stage with its instance, points that share one included.
    pub fn points_of(&self, stage: &str) -> Vec<(BTreeMap<String, String>, InstanceId)> {
        let own = self.ids().filter(|id| self.get(*id).stage == stage).map(|id| (self.get(id).point.clone(), id));
        let aliases = self.aliases.iter().filter_map(|(name, id)| {
            // No label has a comma and no axis an `=`, so a name can be read back.
            let (owner, pairs) = name.split_once('@').unwrap_or((name, ""));
            let point = pairs.split(',').filter_map(|pair| pair.split_once('='));
            let point = point.map(|(axis, label)| (axis.to_string(), label.to_string())).collect();
            (owner == stage).then_some((point, *id))
        });
        own.chain(aliases).collect()
    }
}
