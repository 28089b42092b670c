//! A checked experiment as bytes. A later process reads them instead of the TOML files, as long as these have the same
//! hashes: parsing 10,000 tables takes longer than the rest of a run in which every instance is fresh.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::extends::absolute;
use super::hub_cache;
use super::instance::{Alias, Expansion, Instance, InstanceId, InstanceInput, ParsedStage, Upstream};
use super::limits::Limits;
use super::load::Experiment;
use super::settings::Settings;
use ablate_core::base::{Hash, SharedStr, Sources, Span};
use ablate_core::stage::{ArtifactKind, OutputSpec, Pool, Registry};

/// Everything except the instances.
#[derive(Serialize, Deserialize)]
struct Head {
    /// The experiment's file and the files that it extends, with the hashes of their contents.
    texts: Vec<(PathBuf, Hash)>,
    name: String,
    about: String,
    path: PathBuf,
    settings: Settings,
    has_reports: bool,
    /// The number of instances that follow.
    count: usize,
    aliases: BTreeMap<String, Alias>,
    /// The string table: instances refer to these strings by index.
    strings: Vec<String>,
}

#[derive(Serialize, Deserialize)]
struct CompiledInstance {
    name: String,
    stage: String,
    kind: u32,
    version: u32,
    point: Vec<(String, String)>,
    /// The lengths in bytes of its config and its identity, which are stored one after the other in the text block.
    config: usize,
    identity: usize,
    seed: u64,
    inputs: Vec<CompiledInput>,
    /// `None` for the outputs of the kind.
    outputs: Option<Vec<(String, ArtifactKind)>>,
    pool: Pool,
    limits: Option<Limits>,
}

#[derive(Serialize, Deserialize)]
enum CompiledInput {
    Output { role: u32, instance: usize, output: u32, kind: ArtifactKind },
    External { role: u32, path: PathBuf },
    Environment { role: u32, name: String },
}

/// An experiment that was read from bytes. It lacks the places of values, and its reports.
#[derive(Debug)]
pub struct CompiledExperiment {
    pub experiment: Experiment,
    pub expansion: Expansion,
    /// Whether the files define reports. To get them, load the files.
    pub has_reports: bool,
}

/// The bytes of a checked experiment: the text block, the head, the instances, and the length of the text block. `None`
/// if an instance cannot be encoded.
pub fn compile(experiment: &Experiment, expansion: &Expansion, registry: &Registry) -> Option<Vec<u8>> {
    let (mut strings, mut block, mut instances) = (StringTable::default(), String::new(), Vec::new());
    for instance in &expansion.instances {
        // The hub's cache may get another snapshot while the files stay the same.
        if instance.config.contains(&format!("\"{}", hub_cache::SCHEME)) {
            return None;
        }
        let compiled = compile_instance(instance, registry, &mut strings, &mut block)?;
        instances = postcard::to_extend(&compiled, instances).ok()?;
    }
    let head = Head {
        texts: experiment.texts.iter().map(|(path, hash)| (path.clone(), *hash)).collect(),
        name: experiment.name.clone(),
        about: experiment.about.clone(),
        path: experiment.path.clone(),
        settings: experiment.settings.clone(),
        has_reports: !experiment.reports.is_empty(),
        count: expansion.instances.len(),
        aliases: expansion.aliases.clone(),
        strings: strings.list,
    };
    let length = (block.len() as u64).to_le_bytes();
    Some([block.as_bytes(), &postcard::to_stdvec(&head).ok()?, &instances, &length].concat())
}

/// Reads the experiment from bytes. `None` if the bytes are damaged, or if `hash_of` a file differs from the stored
/// hash. Then the files must be loaded.
pub fn read(
    mut bytes: Vec<u8>,
    registry: &Registry,
    hash_of: &dyn Fn(&Path) -> Option<Hash>,
) -> Option<CompiledExperiment> {
    let hash = Some(Hash::of_bytes(&bytes));
    let (_, length) = bytes.split_last_chunk()?;
    let length = usize::try_from(u64::from_le_bytes(*length)).ok().filter(|length| *length <= bytes.len())?;
    // The text block is most of the bytes, so it is not copied.
    let rest = bytes.split_off(length);
    let (rest, _) = rest.split_last_chunk::<8>()?;
    let (head, mut rest) = postcard::take_from_bytes::<Head>(rest).ok()?;
    if !head.texts.iter().all(|(path, hash)| hash_of(path) == Some(*hash)) {
        return None;
    }
    let strings: Vec<Arc<str>> = head.strings.into_iter().map(Into::into).collect();
    let mut block = TextBlock { all: Arc::new(String::from_utf8(bytes).ok()?), read: 0 };
    let mut instances = Vec::with_capacity(head.count.min(rest.len()));
    while !rest.is_empty() {
        // Decoding one instance at a time avoids holding all of them in both forms.
        let (one, more) = postcard::take_from_bytes(rest).ok()?;
        instances.push(read_instance(one, instances.len(), registry, &strings, &mut block)?);
        rest = more;
    }
    let count = Some(instances.len()).filter(|count| *count == head.count)?;
    if head.aliases.values().any(|alias| alias.instance.0 >= count) {
        return None;
    }
    let expansion = Expansion { hash, instances, aliases: head.aliases };
    let experiment = Experiment {
        name: head.name,
        about: head.about,
        path: head.path,
        sources: Sources::default(),
        texts: head.texts,
        axes: Vec::new(),
        simplexes: BTreeMap::new(),
        reports: Vec::new(),
        settings: head.settings,
    };
    Some(CompiledExperiment { experiment, expansion, has_reports: head.has_reports })
}

fn compile_instance(
    instance: &Instance,
    registry: &Registry,
    strings: &mut StringTable,
    block: &mut String,
) -> Option<CompiledInstance> {
    let Instance {
        name,
        stage,
        point,
        kind,
        config,
        identity,
        seed,
        inputs,
        outputs,
        pool,
        limits,
        spans: _,
        parsed: _,
    } = instance;
    let input = |input: &InstanceInput| {
        let role = strings.index(&input.role);
        match &input.upstream {
            Upstream::Output { instance, output, kind } => {
                CompiledInput::Output { role, instance: instance.0, output: strings.index(output), kind: *kind }
            }
            Upstream::External { path } => CompiledInput::External { role, path: path.clone() },
            Upstream::Environment { name } => CompiledInput::Environment { role, name: name.clone() },
        }
    };
    block.push_str(config);
    block.push_str(identity);
    Some(CompiledInstance {
        name: name.clone(),
        stage: stage.clone(),
        kind: registry.iter().position(|known| known.name == kind.name)? as u32,
        version: kind.version,
        point: point.iter().map(|(axis, label)| (axis.clone(), label.clone())).collect(),
        config: config.len(),
        identity: identity.len(),
        seed: *seed,
        inputs: inputs.iter().map(input).collect(),
        outputs: match outputs {
            Cow::Borrowed(_) => None,
            Cow::Owned(specs) => Some(specs.iter().map(|spec| (spec.name.to_string(), spec.kind)).collect()),
        },
        pool: *pool,
        limits: (*limits != Limits::default()).then(|| limits.clone()),
    })
}

fn read_instance(
    one: CompiledInstance,
    at: usize,
    registry: &Registry,
    strings: &[Arc<str>],
    block: &mut TextBlock,
) -> Option<Instance> {
    let kind = registry.get(one.kind as usize).copied().filter(|kind| kind.version == one.version)?;
    let input = |input: CompiledInput| {
        let string = |index: u32| strings.get(index as usize).cloned();
        Some(match input {
            // Instances are in topological order.
            CompiledInput::Output { role, instance, output, kind } if instance < at => InstanceInput {
                role: string(role)?,
                upstream: Upstream::Output { instance: InstanceId(instance), output: string(output)?, kind },
            },
            CompiledInput::Output { .. } => return None,
            CompiledInput::External { role, path } => {
                InstanceInput { role: string(role)?, upstream: Upstream::External { path } }
            }
            CompiledInput::Environment { role, name } => {
                InstanceInput { role: string(role)?, upstream: Upstream::Environment { name } }
            }
        })
    };
    let spec = |(name, kind): (String, ArtifactKind)| OutputSpec { name: Cow::Owned(name), kind };
    Some(Instance {
        name: one.name,
        stage: one.stage,
        point: one.point.into_iter().collect(),
        kind,
        config: block.next(one.config)?,
        identity: block.next(one.identity)?,
        seed: one.seed,
        inputs: one.inputs.into_iter().map(input).collect::<Option<_>>()?,
        outputs: match one.outputs {
            None => Cow::Borrowed(kind.outputs),
            Some(specs) => specs.into_iter().map(spec).collect(),
        },
        pool: one.pool,
        limits: one.limits.unwrap_or_default(),
        spans: NO_SPANS.with(Arc::clone),
        parsed: ParsedStage::default(),
    })
}

thread_local! {
    /// The empty map of places, shared by all compiled instances.
    static NO_SPANS: Arc<BTreeMap<String, Span>> = Arc::default();
}

/// Reads consecutive parts of the text block.
struct TextBlock {
    all: Arc<String>,
    read: usize,
}

impl TextBlock {
    fn next(&mut self, length: usize) -> Option<SharedStr> {
        let start = self.read;
        self.read = start.checked_add(length)?;
        SharedStr::slice(&self.all, start, self.read)
    }
}

/// Assigns an index to each distinct string.
#[derive(Default)]
struct StringTable {
    list: Vec<String>,
    known: BTreeMap<String, u32>,
}

impl StringTable {
    fn index(&mut self, string: &str) -> u32 {
        if let Some(index) = self.known.get(string) {
            return *index;
        }
        let index = self.list.len() as u32;
        self.list.push(string.to_string());
        self.known.insert(string.to_string(), index);
        index
    }
}

/// The cache key of a compiled experiment: a hash of its path and its overrides.
pub fn key(path: &Path, overrides: &[String]) -> Hash {
    // Symbolic links are not resolved: `extends` is relative to the folder of the link.
    let path = absolute(path);
    let mut bytes = path.as_os_str().as_encoded_bytes().to_vec();
    for change in overrides {
        bytes.push(0);
        bytes.extend_from_slice(change.as_bytes());
    }
    Hash::of_bytes(&bytes)
}
