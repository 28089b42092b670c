//! Test kinds with the keys and outputs of real kinds, and a folder to load experiments from.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::Value;

use crate::{Expansion, Experiment, LoadError};
use ablate_core::base::files;
use ablate_core::stage::{
    ArtifactKind, ConfigError, Input, InputSource, Kind, Manifest, OutputSpec, Pool, Reference, Registry, Stage,
    StageContext, Summary, config,
};

pub(super) const KINDS: &Registry = &[&ITEMS, &BASE, &MIX, &SFT, &ROLLOUT, &PAIRS, &DPO, &EVAL];

static ITEMS: Kind = kind("items", ONE_ITEMS, &[], build::<Items>);
static BASE: Kind = kind("base", ONE_MODEL, &[], build::<Base>);
static MIX: Kind = kind("mix", MIXED, &[], build::<Mix>);
static SFT: Kind = kind("sft", TRAINED, &[], build::<Sft>);
static ROLLOUT: Kind = kind("rollout", SAMPLED, &[], build::<Rollout>);
static PAIRS: Kind = kind("pairs", PAIRED, &[], build::<Pairs>);
static DPO: Kind = kind("dpo", TRAINED, &[], build::<Dpo>);
static EVAL: Kind = kind("eval", SCORED, &["model", "prompt"], build::<Eval>);

const ONE_ITEMS: &[OutputSpec] = &[OutputSpec::new("items.jsonl", ArtifactKind::Items)];
const ONE_MODEL: &[OutputSpec] = &[OutputSpec::new("model", ArtifactKind::Checkpoint)];
const MIXED: &[OutputSpec] =
    &[OutputSpec::new("rows.jsonl", ArtifactKind::Rows), OutputSpec::new("mix.json", ArtifactKind::Facts)];
const TRAINED: &[OutputSpec] =
    &[OutputSpec::new("model", ArtifactKind::Checkpoint), OutputSpec::new("curve.jsonl", ArtifactKind::Curve)];
const SAMPLED: &[OutputSpec] = &[OutputSpec::new("rollouts.jsonl", ArtifactKind::Rollouts)];
const PAIRED: &[OutputSpec] =
    &[OutputSpec::new("pairs.jsonl", ArtifactKind::Pairs), OutputSpec::new("dev", ArtifactKind::Pairs)];
const SCORED: &[OutputSpec] = &[OutputSpec::new("scores.jsonl", ArtifactKind::Scores)];

type Parse = fn(&Value) -> Result<Box<dyn Stage>, Vec<ConfigError>>;

const fn kind(
    name: &'static str,
    outputs: &'static [OutputSpec],
    fan_out: &'static [&'static str],
    parse: Parse,
) -> Kind {
    let schema = config::schema_of::<Value>;
    Kind { name, version: 1, about: "a test kind", outputs, fan_out, seeded: true, pool: Pool::Light, parse, schema }
}

/// The inputs and the identity of a test kind.
trait TestKind: serde::de::DeserializeOwned + Send + Sync + std::fmt::Debug + 'static {
    fn reads(&self) -> Vec<Input>;

    fn values(&self) -> Value {
        Value::Null
    }

    fn errors(&self) -> Vec<ConfigError> {
        Vec::new()
    }
}

#[derive(Debug)]
struct TestStage<T>(T);

impl<T: TestKind> Stage for TestStage<T> {
    fn identify(&self, manifest: &mut Manifest) {
        manifest.value("values", &self.0.values());
    }

    fn inputs(&self) -> Vec<Input> {
        self.0.reads()
    }

    fn run(&self, _: &StageContext) -> anyhow::Result<Summary> {
        anyhow::bail!("test kinds do not run")
    }
}

fn build<T: TestKind>(table: &Value) -> Result<Box<dyn Stage>, Vec<ConfigError>> {
    let kind: T = config::parse(table)?;
    let errors = kind.errors();
    if errors.is_empty() { Ok(Box::new(TestStage(kind))) } else { Err(errors) }
}

fn reads(role: &str, reference: &Reference, accepts: &'static [ArtifactKind]) -> Input {
    Input { role: role.to_string(), source: InputSource::Stage { reference: reference.clone(), accepts } }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Items {
    path: String,
}

impl TestKind for Items {
    fn reads(&self) -> Vec<Input> {
        vec![Input { role: "path".into(), source: InputSource::External { path: self.path.clone() } }]
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Base {
    #[serde(default)]
    dim: u64,
}

impl TestKind for Base {
    fn reads(&self) -> Vec<Input> {
        Vec::new()
    }

    fn values(&self) -> Value {
        self.dim.into()
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Mix {
    sources: BTreeMap<String, Source>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Source {
    from: Reference,
    #[serde(default)]
    weight: f64,
}

impl TestKind for Mix {
    fn reads(&self) -> Vec<Input> {
        let from = |(name, source): (&String, &Source)| {
            reads(&format!("sources.{name}.from"), &source.from, &[ArtifactKind::Rows, ArtifactKind::Items])
        };
        self.sources.iter().map(from).collect()
    }

    fn values(&self) -> Value {
        self.sources
            .iter()
            .map(|(name, source)| (name.clone(), source.weight.into()))
            .collect::<serde_json::Map<_, _>>()
            .into()
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Sft {
    model: Reference,
    data: Reference,
    #[serde(default)]
    lr: f64,
}

impl TestKind for Sft {
    fn reads(&self) -> Vec<Input> {
        vec![reads("model", &self.model, &[ArtifactKind::Checkpoint]), reads("data", &self.data, &[ArtifactKind::Rows])]
    }

    fn values(&self) -> Value {
        self.lr.into()
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Rollout {
    model: Reference,
    #[serde(default)]
    items: Option<Reference>,
    #[serde(default)]
    samples: u64,
}

impl TestKind for Rollout {
    fn reads(&self) -> Vec<Input> {
        let items = self.items.iter().map(|items| reads("items", items, &[ArtifactKind::Items]));
        [reads("model", &self.model, &[ArtifactKind::Checkpoint])].into_iter().chain(items).collect()
    }

    fn values(&self) -> Value {
        self.samples.into()
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Pairs {
    rollouts: Reference,
    #[serde(default)]
    truncate: Value,
}

impl TestKind for Pairs {
    fn reads(&self) -> Vec<Input> {
        vec![reads("rollouts", &self.rollouts, &[ArtifactKind::Rollouts])]
    }

    fn values(&self) -> Value {
        self.truncate.clone()
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Dpo {
    policy: Reference,
    reference: Option<Reference>,
    pairs: Reference,
    #[serde(default)]
    beta: f64,
}

impl TestKind for Dpo {
    fn reads(&self) -> Vec<Input> {
        vec![
            reads("policy", &self.policy, &[ArtifactKind::Checkpoint]),
            reads("reference", self.reference.as_ref().unwrap_or(&self.policy), &[ArtifactKind::Checkpoint]),
            reads("pairs", &self.pairs, &[ArtifactKind::Pairs]),
        ]
    }

    fn values(&self) -> Value {
        self.beta.into()
    }

    fn errors(&self) -> Vec<ConfigError> {
        let wrong = self.beta < 0.0;
        wrong.then(|| ConfigError::at("beta", "must not be negative")).into_iter().collect()
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Eval {
    model: Reference,
    #[serde(default)]
    prompt: Value,
}

impl TestKind for Eval {
    fn reads(&self) -> Vec<Input> {
        vec![reads("model", &self.model, &[ArtifactKind::Checkpoint])]
    }

    fn values(&self) -> Value {
        self.prompt.clone()
    }
}

/// A folder of experiment files.
pub(super) struct Folder {
    folder: tempfile::TempDir,
}

impl Folder {
    pub(super) fn new() -> Folder {
        Folder { folder: tempfile::tempdir().unwrap() }
    }

    pub(super) fn path(&self) -> &Path {
        self.folder.path()
    }

    pub(super) fn write(&self, name: &str, bytes: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path().join(name);
        files::write_atomic(&path, bytes.as_ref()).unwrap();
        path
    }

    pub(super) fn load(&self, name: &str, overrides: &[&str]) -> Result<(Experiment, Expansion), Box<LoadError>> {
        let overrides: Vec<String> = overrides.iter().map(ToString::to_string).collect();
        Experiment::load(&self.path().join(name), &overrides, KINDS)
    }

    /// All messages, with `DIR` in place of the folder.
    pub(super) fn errors(&self, name: &str, overrides: &[&str]) -> String {
        match self.load(name, overrides) {
            Ok(_) => "no error".to_string(),
            Err(failure) => failure.render(false).replace(&self.path().display().to_string(), "DIR"),
        }
    }
}

/// The messages of one text.
pub(super) fn errors(text: &str) -> String {
    let folder = Folder::new();
    folder.write("a.toml", text);
    folder.errors("a.toml", &[])
}

/// Loads a text that must be valid.
pub(super) fn load(text: &str) -> (Experiment, Expansion) {
    let folder = Folder::new();
    folder.write("a.toml", text);
    match folder.load("a.toml", &[]) {
        Ok(loaded) => loaded,
        Err(failure) => panic!("{failure}"),
    }
}

/// The names of all instances, one per line, each with the instances that it reads.
pub(super) fn names(expansion: &Expansion) -> String {
    let mut lines: Vec<String> = Vec::new();
    for instance in &expansion.instances {
        let reads: Vec<&str> = instance
            .inputs
            .iter()
            .filter_map(|input| match &input.upstream {
                crate::Upstream::Output { instance, .. } => Some(expansion.get(*instance).name.as_str()),
                _ => None,
            })
            .collect();
        lines.push(format!("{} <- {}", instance.name, reads.join(" ")).trim_end_matches(" <- ").trim_end().to_string());
    }
    lines.extend(
        expansion.aliases.iter().map(|(name, alias)| format!("{name} = {}", expansion.get(alias.instance).name)),
    );
    lines.join("\n")
}
