//! A checked experiment as bytes, to be read instead of its texts while these say the same. Reading ten thousand
//! tables costs more than all else that an idle run does. Runs nothing, and reads no file but the texts.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::instance::{Expansion, Instance, InstanceId, InstanceInput, Upstream};
use super::limits::Limits;
use super::load::Experiment;
use super::settings::Settings;
use crate::base::{Hash, Sources, files};
use crate::stage::{ArtifactKind, OutputSpec, Registry, find_kind};

/// A part of the bytes: everything in it is as the experiment has it, with strings that repeat by number.
#[derive(Serialize, Deserialize)]
struct Compiled {
    /// The texts: the experiment's file and all that it extends, with the hashes of what they said.
    texts: Vec<(PathBuf, Hash)>,
    name: String,
    about: String,
    path: PathBuf,
    settings: Settings,
    has_reports: bool,
    instances: Vec<CompiledInstance>,
    aliases: BTreeMap<String, usize>,
    /// Strings that occur often.
    words: Vec<String>,
}

#[derive(Serialize, Deserialize)]
struct CompiledInstance {
    name: String,
    stage: String,
    kind: u32,
    version: u32,
    point: Vec<(String, String)>,
    config: String,
    identity: String,
    seed: u64,
    inputs: Vec<CompiledInput>,
    /// `None` for those of the kind.
    outputs: Option<Vec<(String, ArtifactKind)>>,
    limits: Option<Limits>,
}

#[derive(Serialize, Deserialize)]
enum CompiledInput {
    Output { role: u32, instance: usize, output: String, kind: ArtifactKind },
    Outside { role: u32, path: PathBuf },
    Environment { role: u32, name: String },
}

/// What a compiled experiment comes back as: all of it but the places of its values and its reports.
#[derive(Debug)]
pub struct Lean {
    pub experiment: Experiment,
    pub expansion: Expansion,
    /// Whether the texts have reports, which need the texts to be read.
    pub has_reports: bool,
}

/// The bytes of a checked experiment. `None` where its texts cannot be told apart from later ones.
pub fn compile(experiment: &Experiment, expansion: &Expansion, registry: &Registry) -> Option<Vec<u8>> {
    let mut words = Words::default();
    let texts = experiment.texts.iter().map(|(path, hash)| (path.clone(), *hash)).collect();
    let instances = expansion.instances.iter().map(|instance| compile_instance(instance, registry, &mut words));
    let instances = instances.collect::<Option<Vec<_>>>()?;
    let compiled = Compiled {
        texts,
        name: experiment.name.clone(),
        about: experiment.about.clone(),
        path: experiment.path.clone(),
        settings: experiment.settings.clone(),
        has_reports: !experiment.reports.is_empty(),
        instances,
        aliases: expansion.aliases.iter().map(|(name, id)| (name.clone(), id.0)).collect(),
        words: words.list,
    };
    postcard::to_stdvec(&compiled).ok()
}

/// The experiment in the bytes, if its texts still say what they said. Anything else is `None`: then they are read.
pub fn read(bytes: &[u8], registry: &Registry) -> Option<Lean> {
    let compiled: Compiled = postcard::from_bytes(bytes).ok()?;
    let current =
        |(path, hash): &(PathBuf, Hash)| files::read_bytes(path).is_ok_and(|bytes| Hash::of_bytes(&bytes) == *hash);
    if !compiled.texts.iter().all(current) {
        return None;
    }
    let count = compiled.instances.len();
    let words: Vec<String> = compiled.words;
    let instances =
        compiled.instances.into_iter().enumerate().map(|(at, one)| read_instance(one, at, registry, &words));
    let instances = instances.collect::<Option<Vec<_>>>()?;
    let aliases = compiled.aliases.into_iter().map(|(name, id)| (id < count).then_some((name, InstanceId(id))));
    let expansion = Expansion { instances, aliases: aliases.collect::<Option<_>>()? };
    let experiment = Experiment {
        name: compiled.name,
        about: compiled.about,
        path: compiled.path,
        sources: Sources::default(),
        texts: compiled.texts,
        axes: Vec::new(),
        reports: Vec::new(),
        settings: compiled.settings,
    };
    Some(Lean { experiment, expansion, has_reports: compiled.has_reports })
}

fn compile_instance(instance: &Instance, registry: &Registry, words: &mut Words) -> Option<CompiledInstance> {
    let Instance { name, stage, point, kind, config, identity, seed, inputs, outputs, limits, origins: _ } = instance;
    let input = |input: &InstanceInput| {
        let role = words.number(&input.role);
        match &input.upstream {
            Upstream::Output { instance, output, kind } => {
                CompiledInput::Output { role, instance: instance.0, output: output.to_string(), kind: *kind }
            }
            Upstream::Outside { path } => CompiledInput::Outside { role, path: path.clone() },
            Upstream::Environment { name } => CompiledInput::Environment { role, name: name.clone() },
        }
    };
    Some(CompiledInstance {
        name: name.clone(),
        stage: stage.clone(),
        kind: registry.iter().position(|known| known.name == kind.name)? as u32,
        version: kind.version,
        point: point.iter().map(|(axis, label)| (axis.clone(), label.clone())).collect(),
        config: config.to_string(),
        identity: identity.to_string(),
        seed: *seed,
        inputs: inputs.iter().map(input).collect(),
        outputs: match outputs {
            Cow::Borrowed(_) => None,
            Cow::Owned(specs) => Some(specs.iter().map(|spec| (spec.name.to_string(), spec.kind)).collect()),
        },
        limits: (*limits != Limits::default()).then(|| limits.clone()),
    })
}

fn read_instance(one: CompiledInstance, at: usize, registry: &Registry, words: &[String]) -> Option<Instance> {
    let kind = registry.get(one.kind as usize).copied().filter(|kind| kind.version == one.version)?;
    let input = |input: CompiledInput| {
        let word = |role: u32| words.get(role as usize).cloned();
        Some(match input {
            // An instance comes after what it reads.
            CompiledInput::Output { role, instance, output, kind } if instance < at => InstanceInput {
                role: word(role)?,
                upstream: Upstream::Output { instance: InstanceId(instance), output: Cow::Owned(output), kind },
            },
            CompiledInput::Output { .. } => return None,
            CompiledInput::Outside { role, path } => {
                InstanceInput { role: word(role)?, upstream: Upstream::Outside { path } }
            }
            CompiledInput::Environment { role, name } => {
                InstanceInput { role: word(role)?, upstream: Upstream::Environment { name } }
            }
        })
    };
    let spec = |(name, kind): (String, ArtifactKind)| OutputSpec { name: Cow::Owned(name), kind };
    Some(Instance {
        name: one.name,
        stage: one.stage,
        point: one.point.into_iter().collect(),
        kind,
        config: one.config.into(),
        identity: one.identity.into(),
        seed: one.seed,
        inputs: one.inputs.into_iter().map(input).collect::<Option<_>>()?,
        outputs: match one.outputs {
            None => Cow::Borrowed(kind.outputs),
            Some(specs) => specs.into_iter().map(spec).collect(),
        },
        limits: one.limits.unwrap_or_default(),
        origins: Arc::default(),
    })
}

/// Strings by number.
#[derive(Default)]
struct Words {
    list: Vec<String>,
    known: BTreeMap<String, u32>,
}

impl Words {
    fn number(&mut self, word: &str) -> u32 {
        if let Some(number) = self.known.get(word) {
            return *number;
        }
        let number = self.list.len() as u32;
        self.list.push(word.to_string());
        self.known.insert(word.to_string(), number);
        number
    }
}

/// What the bytes of an experiment are kept under: they follow from its file and from what was changed in it.
pub fn key(path: &Path, overrides: &[String]) -> Hash {
    let path = path.canonicalize().unwrap_or_else(|_| path.to_path_buf());
    let mut bytes = path.as_os_str().as_encoded_bytes().to_vec();
    for change in overrides {
        bytes.push(0);
        bytes.extend_from_slice(change.as_bytes());
    }
    Hash::of_bytes(&bytes)
}
