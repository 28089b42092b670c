//! An instance as plain data, for a process on another machine that has this program but not the experiment's file as it was.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Result, bail};
use serde::{Deserialize, Serialize};

use super::instance::{Expansion, Instance, InstanceId, InstanceInput, ParsedStage, Upstream};
use super::limits::Limits;
use ablate_core::base::SharedStr;
use ablate_core::stage::{ArtifactKind, OutputSpec, Pool, Registry, find_kind};

/// An instance without its places in the experiment's files.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct PortableInstance {
    pub name: String,
    stage: String,
    point: BTreeMap<String, String>,
    kind: String,
    version: u32,
    config: String,
    identity: String,
    seed: u64,
    inputs: Vec<PortableInput>,
    outputs: Vec<OutputSpec>,
    pool: Pool,
    limits: Limits,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct PortableInput {
    role: String,
    from: PortableUpstream,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum PortableUpstream {
    Output { instance: InstanceId, output: String, kind: ArtifactKind },
    External { path: PathBuf },
    Environment { name: String },
}

impl From<&Instance> for PortableInstance {
    fn from(instance: &Instance) -> PortableInstance {
        let input = |input: &InstanceInput| {
            let from = match &input.upstream {
                Upstream::Output { instance, output, kind } => {
                    PortableUpstream::Output { instance: *instance, output: output.to_string(), kind: *kind }
                }
                Upstream::External { path } => PortableUpstream::External { path: path.clone() },
                Upstream::Environment { name } => PortableUpstream::Environment { name: name.clone() },
            };
            PortableInput { role: input.role.to_string(), from }
        };
        PortableInstance {
            name: instance.name.clone(),
            stage: instance.stage.clone(),
            point: instance.point.clone(),
            kind: instance.kind.name.to_string(),
            version: instance.kind.version,
            config: instance.config.to_string(),
            identity: instance.identity.to_string(),
            seed: instance.seed,
            inputs: instance.inputs.iter().map(input).collect(),
            outputs: instance.outputs.to_vec(),
            pool: instance.pool,
            limits: instance.limits.clone(),
        }
    }
}

impl PortableInstance {
    /// The instance. Fails if this program has another version of its kind than the program that wrote it.
    pub fn into_instance(self, registry: &Registry) -> Result<Instance> {
        let found = find_kind(registry, &self.kind).filter(|kind| kind.version == self.version);
        let Some(kind) = found else {
            let (name, kind, version) = (&self.name, &self.kind, self.version);
            bail!(
                "`{name}` needs version {version} of the kind `{kind}`, which this program does not have\nhelp: use the same \
                 build of ablate on all machines"
            )
        };
        let input = |input: PortableInput| InstanceInput {
            role: input.role.into(),
            upstream: match input.from {
                PortableUpstream::Output { instance, output, kind } => {
                    Upstream::Output { instance, output: output.into(), kind }
                }
                PortableUpstream::External { path } => Upstream::External { path },
                PortableUpstream::Environment { name } => Upstream::Environment { name },
            },
        };
        Ok(Instance {
            name: self.name,
            stage: self.stage,
            point: self.point,
            kind,
            config: SharedStr::from(self.config),
            identity: SharedStr::from(self.identity),
            seed: self.seed,
            inputs: self.inputs.into_iter().map(input).collect(),
            outputs: Cow::Owned(self.outputs),
            pool: self.pool,
            limits: self.limits,
            spans: Arc::default(),
            parsed: ParsedStage::default(),
        })
    }

    /// The expansion of all instances of an experiment, in their order.
    ///
    /// Errors: an instance of another build, and an input from an instance that does not come before its reader.
    pub fn into_expansion(all: Vec<PortableInstance>, registry: &Registry) -> Result<Expansion> {
        let mut instances = Vec::with_capacity(all.len());
        for (at, one) in all.into_iter().enumerate() {
            let instance = one.into_instance(registry)?;
            let comes_later =
                |input: &InstanceInput| matches!(input.upstream, Upstream::Output { instance, .. } if instance.0 >= at);
            if instance.inputs.iter().any(comes_later) {
                bail!("an input of `{}` comes after it", instance.name);
            }
            instances.push(instance);
        }
        Ok(Expansion { hash: None, instances, aliases: BTreeMap::new() })
    }
}
