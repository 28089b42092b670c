//! A checked experiment as bytes, to be read instead of its texts while these say the same. Reading ten thousand
//! tables costs more than all else that an idle run does. Runs nothing, and reads no file but the texts.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::instance::{Expansion, Instance, InstanceId, InstanceInput, ParsedStage, Upstream};
use super::limits::Limits;
use super::load::Experiment;
use super::settings::Settings;
use super::text::absolute;
use ablate_core::base::{Hash, SharedStr, Sources, Span};
use ablate_core::stage::{ArtifactKind, OutputSpec, Pool, Registry};

/// What the bytes say beside the instances: everything in it is as the experiment has it.
#[derive(Serialize, Deserialize)]
struct Head {
    /// The texts: the experiment's file and all that it extends, with the hashes of what they said.
    texts: Vec<(PathBuf, Hash)>,
    name: String,
    about: String,
    path: PathBuf,
    settings: Settings,
    has_reports: bool,
    /// How many instances follow.
    count: usize,
    aliases: BTreeMap<String, usize>,
    /// Strings that occur often: instances have them by number.
    words: Vec<String>,
}

#[derive(Serialize, Deserialize)]
struct CompiledInstance {
    name: String,
    stage: String,
    kind: u32,
    version: u32,
    point: Vec<(String, String)>,
    /// Bytes of its stretches of the prose: tables and identities, one after the other, before all this.
    config: usize,
    identity: usize,
    seed: u64,
    inputs: Vec<CompiledInput>,
    /// `None` for those of the kind.
    outputs: Option<Vec<(String, ArtifactKind)>>,
    pool: Pool,
    limits: Option<Limits>,
}

#[derive(Serialize, Deserialize)]
enum CompiledInput {
    Output { role: u32, instance: usize, output: u32, kind: ArtifactKind },
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
    let (mut words, mut prose, mut instances) = (Words::default(), String::new(), Vec::new());
    for instance in &expansion.instances {
        let compiled = compile_instance(instance, registry, &mut words, &mut prose)?;
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
        aliases: expansion.aliases.iter().map(|(name, id)| (name.clone(), id.0)).collect(),
        words: words.list,
    };
    let length = (prose.len() as u64).to_le_bytes();
    Some([prose.as_bytes(), &postcard::to_stdvec(&head).ok()?, &instances, &length].concat())
}

/// The experiment in the bytes, if its texts still say what they said, going by `hash_of` a file. Anything else is
/// `None`: then they are read.
pub fn read(mut bytes: Vec<u8>, registry: &Registry, hash_of: &dyn Fn(&Path) -> Option<Hash>) -> Option<Lean> {
    let hash = Some(Hash::of_bytes(&bytes));
    let (_, length) = bytes.split_last_chunk()?;
    let length = usize::try_from(u64::from_le_bytes(*length)).ok().filter(|length| *length <= bytes.len())?;
    // The prose stays where it is: it is most of what there is.
    let rest = bytes.split_off(length);
    let (rest, _) = rest.split_last_chunk::<8>()?;
    let (head, mut rest) = postcard::take_from_bytes::<Head>(rest).ok()?;
    if !head.texts.iter().all(|(path, hash)| hash_of(path) == Some(*hash)) {
        return None;
    }
    let words: Vec<Arc<str>> = head.words.into_iter().map(Into::into).collect();
    let mut prose = Prose { all: Arc::new(String::from_utf8(bytes).ok()?), read: 0 };
    let mut instances = Vec::with_capacity(head.count.min(rest.len()));
    while !rest.is_empty() {
        // One at a time: all of them at once would take the memory twice.
        let (one, more) = postcard::take_from_bytes(rest).ok()?;
        instances.push(read_instance(one, instances.len(), registry, &words, &mut prose)?);
        rest = more;
    }
    let count = Some(instances.len()).filter(|count| *count == head.count)?;
    let aliases = head.aliases.into_iter().map(|(name, id)| (id < count).then_some((name, InstanceId(id))));
    let expansion = Expansion { hash, instances, aliases: aliases.collect::<Option<_>>()? };
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
    Some(Lean { experiment, expansion, has_reports: head.has_reports })
}

fn compile_instance(
    instance: &Instance,
    registry: &Registry,
    words: &mut Words,
    prose: &mut String,
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
        origins: _,
        parsed: _,
    } = instance;
    let input = |input: &InstanceInput| {
        let role = words.number(&input.role);
        match &input.upstream {
            Upstream::Output { instance, output, kind } => {
                CompiledInput::Output { role, instance: instance.0, output: words.number(output), kind: *kind }
            }
            Upstream::Outside { path } => CompiledInput::Outside { role, path: path.clone() },
            Upstream::Environment { name } => CompiledInput::Environment { role, name: name.clone() },
        }
    };
    prose.push_str(config);
    prose.push_str(identity);
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
    words: &[Arc<str>],
    prose: &mut Prose,
) -> Option<Instance> {
    let kind = registry.get(one.kind as usize).copied().filter(|kind| kind.version == one.version)?;
    let input = |input: CompiledInput| {
        let word = |role: u32| words.get(role as usize).cloned();
        Some(match input {
            // An instance comes after what it reads.
            CompiledInput::Output { role, instance, output, kind } if instance < at => InstanceInput {
                role: word(role)?,
                upstream: Upstream::Output { instance: InstanceId(instance), output: word(output)?, kind },
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
        config: prose.next(one.config)?,
        identity: prose.next(one.identity)?,
        seed: one.seed,
        inputs: one.inputs.into_iter().map(input).collect::<Option<_>>()?,
        outputs: match one.outputs {
            None => Cow::Borrowed(kind.outputs),
            Some(specs) => specs.into_iter().map(spec).collect(),
        },
        pool: one.pool,
        limits: one.limits.unwrap_or_default(),
        origins: NOWHERE.with(Arc::clone),
        parsed: ParsedStage::default(),
    })
}

thread_local! {
    /// The places of the values of a compiled instance: one map for all of them.
    static NOWHERE: Arc<BTreeMap<String, Span>> = Arc::default();
}

/// A long text that is read from its beginning.
struct Prose {
    all: Arc<String>,
    read: usize,
}

impl Prose {
    fn next(&mut self, length: usize) -> Option<SharedStr> {
        let start = self.read;
        self.read = start.checked_add(length)?;
        SharedStr::slice(&self.all, start, self.read)
    }
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
    // Not where a link leads: what a file extends is found beside the link.
    let path = absolute(path);
    let mut bytes = path.as_os_str().as_encoded_bytes().to_vec();
    for change in overrides {
        bytes.push(0);
        bytes.extend_from_slice(change.as_bytes());
    }
    Hash::of_bytes(&bytes)
}
