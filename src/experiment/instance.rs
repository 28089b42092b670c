//! What expansion yields: every stage instance with its resolved table and inputs.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use serde_json::Value;

use crate::base::Origin;
use crate::stage::{ArtifactKind, Kind, Stage};

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
    /// The stage's table at this point, without `kind`, every `${...}` replaced.
    pub config: Value,
    pub built: Arc<dyn Stage>,
    pub seed: u64,
    pub inputs: Vec<InstanceInput>,
    /// Where each dotted key of `config` was written; the empty key is the stage's header.
    pub origins: BTreeMap<String, Origin>,
}

/// One input of an instance, resolved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InstanceInput {
    /// Path of the key that names it.
    pub role: String,
    pub upstream: Upstream,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Upstream {
    Output {
        instance: InstanceId,
        /// The output's declared name.
        output: &'static str,
        kind: ArtifactKind,
    },
    /// A file or folder outside the store, absolute; whether it exists is for the plan to say.
    Outside { path: PathBuf },
}

/// All instances, each after the instances that it reads. Equal instances are one.
#[derive(Clone, Debug, Default)]
pub struct Expansion {
    pub instances: Vec<Instance>,
    /// Names of points that came out equal to another instance.
    pub aliases: BTreeMap<String, InstanceId>,
}

impl Expansion {
    pub fn get(&self, id: InstanceId) -> &Instance {
        &self.instances[id.0]
    }

    pub fn ids(&self) -> impl Iterator<Item = InstanceId> + use<> {
        (0..self.instances.len()).map(InstanceId)
    }
}
