//! Test kinds with the keys and outputs of real kinds, and a folder to load experiments from.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use crate::{Expansion, Experiment, Instance, LoadError, Upstream};
use ablate_core::base::diagnostic::Severity;
use ablate_core::base::{Diagnostic, files};
use ablate_core::stage::{
    ArtifactKind, ConfigError, HubRepository, Input, InputSource, Kind, Manifest, OutputSpec, Pool, Reference,
    Registry, Stage, StageContext, Summary, Work, config,
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
    let (pool, work) = (Pool::Light, Work::of_rows);
    Kind { name, version: 1, about: "a test kind", outputs, fan_out, seeded: true, pool, work, parse, schema }
}

/// The table of a test kind.
trait TestKind: DeserializeOwned {
    /// The inputs, and the values that identify the stage.
    fn stage(self) -> (Vec<Input>, Value);

    fn error(&self) -> Option<ConfigError> {
        None
    }
}

#[derive(Debug)]
struct TestStage {
    inputs: Vec<Input>,
    values: Value,
}

impl Stage for TestStage {
    fn identify(&self, manifest: &mut Manifest) {
        manifest.value("values", &self.values);
    }

    fn inputs(&self) -> Vec<Input> {
        self.inputs.clone()
    }

    fn run(&self, _: &StageContext) -> anyhow::Result<Summary> {
        anyhow::bail!("test kinds do not run")
    }
}

fn build<T: TestKind>(table: &Value) -> Result<Box<dyn Stage>, Vec<ConfigError>> {
    let kind: T = config::parse(table)?;
    if let Some(error) = kind.error() {
        return Err(vec![error]);
    }
    let (inputs, values) = kind.stage();
    Ok(Box::new(TestStage { inputs, values }))
}

fn reads(role: &str, reference: Reference, accepts: &'static [ArtifactKind]) -> Input {
    Input { role: role.to_string(), source: InputSource::Stage { reference, accepts } }
}

fn reads_model(role: &str, reference: Reference) -> Input {
    reads(role, reference, &[ArtifactKind::Checkpoint])
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Items {
    path: String,
}

impl TestKind for Items {
    fn stage(self) -> (Vec<Input>, Value) {
        let source = InputSource::External { path: self.path, hub: HubRepository::Any };
        (vec![Input { role: "path".to_string(), source }], Value::Null)
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Base {
    #[serde(default)]
    dim: u64,
}

impl TestKind for Base {
    fn stage(self) -> (Vec<Input>, Value) {
        (Vec::new(), self.dim.into())
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Mix {
    sources: BTreeMap<String, Source>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Source {
    from: Reference,
    #[serde(default)]
    weight: f64,
}

impl TestKind for Mix {
    fn stage(self) -> (Vec<Input>, Value) {
        let weights: Map<_, _> = self.sources.iter().map(|(name, one)| (name.clone(), one.weight.into())).collect();
        let accepts = &[ArtifactKind::Rows, ArtifactKind::Items];
        let from = |(name, one): (String, Source)| reads(&format!("sources.{name}.from"), one.from, accepts);
        (self.sources.into_iter().map(from).collect(), weights.into())
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Sft {
    model: Reference,
    data: Reference,
    #[serde(default)]
    lr: f64,
}

impl TestKind for Sft {
    fn stage(self) -> (Vec<Input>, Value) {
        let data = reads("data", self.data, &[ArtifactKind::Rows]);
        (vec![reads_model("model", self.model), data], self.lr.into())
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Rollout {
    model: Reference,
    #[serde(default)]
    items: Option<Reference>,
    #[serde(default)]
    samples: u64,
}

impl TestKind for Rollout {
    fn stage(self) -> (Vec<Input>, Value) {
        let items = self.items.map(|items| reads("items", items, &[ArtifactKind::Items]));
        ([reads_model("model", self.model)].into_iter().chain(items).collect(), self.samples.into())
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Pairs {
    rollouts: Reference,
    #[serde(default)]
    truncate: Value,
}

impl TestKind for Pairs {
    fn stage(self) -> (Vec<Input>, Value) {
        (vec![reads("rollouts", self.rollouts, &[ArtifactKind::Rollouts])], self.truncate)
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Dpo {
    policy: Reference,
    reference: Option<Reference>,
    pairs: Reference,
    #[serde(default)]
    beta: f64,
}

impl TestKind for Dpo {
    fn stage(self) -> (Vec<Input>, Value) {
        let reference = self.reference.unwrap_or_else(|| self.policy.clone());
        let pairs = reads("pairs", self.pairs, &[ArtifactKind::Pairs]);
        (vec![reads_model("policy", self.policy), reads_model("reference", reference), pairs], self.beta.into())
    }

    fn error(&self) -> Option<ConfigError> {
        (self.beta < 0.0).then(|| ConfigError::at("beta", "must not be negative"))
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Eval {
    model: Reference,
    #[serde(default)]
    prompt: Value,
}

impl TestKind for Eval {
    fn stage(self) -> (Vec<Input>, Value) {
        (vec![reads_model("model", self.model)], self.prompt)
    }
}

/// A folder of experiment files.
pub(super) struct Folder(tempfile::TempDir);

impl Folder {
    pub(super) fn new() -> Folder {
        Folder(tempfile::tempdir().unwrap())
    }

    /// A folder with the file `a.toml`.
    pub(super) fn with(text: impl AsRef<[u8]>) -> Folder {
        let folder = Folder::new();
        folder.write("a.toml", text);
        folder
    }

    pub(super) fn write(&self, name: &str, bytes: impl AsRef<[u8]>) {
        files::write_atomic(&self.0.path().join(name), bytes.as_ref()).unwrap();
    }

    fn try_load(&self, overrides: &[&str]) -> Result<(Experiment, Expansion), Box<LoadError>> {
        let overrides: Vec<String> = overrides.iter().map(ToString::to_string).collect();
        Experiment::load(&self.0.path().join("a.toml"), &overrides, KINDS)
    }

    /// Loads `a.toml`, which must be valid.
    pub(super) fn load(&self, overrides: &[&str]) -> (Experiment, Expansion) {
        self.try_load(overrides).unwrap_or_else(|failure| panic!("{failure}"))
    }

    /// The text with `DIR` in place of the folder.
    pub(super) fn hide(&self, text: &str) -> String {
        text.replace(&self.0.path().display().to_string(), "DIR")
    }

    /// All messages about `a.toml`, each with its help, and with the place, the text and the name of each label.
    pub(super) fn errors(&self, overrides: &[&str]) -> String {
        let Err(failure) = self.try_load(overrides) else { return "no error".to_string() };
        assert!(!failure.render(false).is_empty());
        let mut lines = Vec::new();
        for Diagnostic { severity, message, labels, help } in &failure.diagnostics {
            assert_eq!(*severity, Severity::Error);
            lines.push(format!("error: {message}"));
            for (index, (span, label)) in labels.iter().enumerate() {
                let text = failure.sources.get(span.source).text[span.range.clone()].lines().next().unwrap_or_default();
                let (arrow, place) = (if index == 0 { "-->" } else { ":::" }, failure.sources.location(span));
                lines.push(format!("  {arrow} {place} `{text}` {label}").trim_end().to_string());
            }
            lines.extend(help.iter().map(|help| format!("  help: {help}")));
        }
        self.hide(&lines.join("\n"))
    }

    /// The messages about each override.
    pub(super) fn override_errors(&self, overrides: &[&str]) -> String {
        overrides.iter().map(|one| self.errors(&[one])).collect::<Vec<_>>().join("\n\n")
    }
}

/// The messages of one text.
pub(super) fn errors(text: &str) -> String {
    Folder::with(text).errors(&[])
}

/// The messages of each text.
pub(super) fn errors_of<T: AsRef<str>>(texts: impl IntoIterator<Item = T>) -> String {
    texts.into_iter().map(|text| errors(text.as_ref())).collect::<Vec<_>>().join("\n\n")
}

/// Loads a text that must be valid.
pub(super) fn load(text: &str) -> (Experiment, Expansion) {
    Folder::with(text).load(&[])
}

/// The instances of a stage.
pub(super) fn instances<'a>(expansion: &'a Expansion, stage: &str) -> Vec<&'a Instance> {
    expansion.instances.iter().filter(|instance| instance.stage == stage).collect()
}

/// The names of all instances, one per line, each with the instances that it reads.
pub(super) fn names(expansion: &Expansion) -> String {
    let mut lines: Vec<String> = Vec::new();
    for Instance { name, inputs, .. } in &expansion.instances {
        let upstream = inputs.iter().filter_map(|input| match &input.upstream {
            Upstream::Output { instance, .. } => Some(expansion.get(*instance).name.as_str()),
            _ => None,
        });
        let upstream: Vec<&str> = upstream.collect();
        let arrow = if upstream.is_empty() { "" } else { " <- " };
        lines.push(format!("{name}{arrow}{}", upstream.join(" ")));
    }
    let aliases = expansion.aliases.iter();
    lines.extend(aliases.map(|(name, alias)| format!("{name} = {}", expansion.get(alias.instance).name)));
    lines.join("\n")
}
