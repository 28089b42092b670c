//! A workshop for the engine's tests: toy kinds that write text, tell that they ran, and misbehave when told to;
//! and a space with a folder, a store and stages. Knows no real kind.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use anyhow::{Result, bail};
use serde::Deserialize;
use serde_json::{Value, json};

use super::*;
use ablate_core::base::{Hash, files};
use ablate_core::stage::{
    ArtifactKind, ConfigError, Input, InputSource, Kind, Manifest, OutputSpec, Pool, Reference, Registry, Stage,
    StageContext, Summary, config,
};
use ablate_experiment::{Expansion, Instance, InstanceId, InstanceInput, Limits, Upstream};
use ablate_store::Store;

pub(super) static REGISTRY: &Registry = &[&TOY, &MODEL, &TOY_2, &TEACHER];

/// Joins the rows of its inputs and adds a word.
static TOY: Kind = Kind {
    name: "toy",
    version: 1,
    about: "joins rows",
    outputs: &[OutputSpec::new("rows.jsonl", ArtifactKind::Rows), OutputSpec::new("facts.json", ArtifactKind::Facts)],
    fan_out: &[],
    seeded: false,
    pool: Pool::Light,
    parse,
    schema: config::schema_of::<Value>,
};

/// The same, as a later version of the program would have it.
static TOY_2: Kind = Kind { version: 2, name: "toy", ..copy(&TOY) };

/// The same, as a checkpoint, with a seed.
static MODEL: Kind = Kind {
    name: "model",
    outputs: &[OutputSpec::new("model", ArtifactKind::Checkpoint)],
    seeded: true,
    pool: Pool::Model,
    ..copy(&TOY)
};

static TEACHER: Kind = Kind { name: "teacher", pool: Pool::Teacher, ..copy(&TOY) };

const fn copy(kind: &Kind) -> Kind {
    Kind {
        name: kind.name,
        version: kind.version,
        about: kind.about,
        outputs: kind.outputs,
        fan_out: kind.fan_out,
        seeded: kind.seeded,
        pool: kind.pool,
        parse: kind.parse,
        schema: kind.schema,
    }
}

fn parse(table: &Value) -> Result<Box<dyn Stage>, Vec<ConfigError>> {
    config::parse::<Toy>(table).map(|toy| Box::new(toy) as Box<dyn Stage>)
}

/// Everything but `word` and `trim` is circumstance, so that a test can change it without a new identity.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Toy {
    /// The test's folder: gets a line in `ran` per execution; `<name>.<mischief>` there changes what it does.
    folder: PathBuf,
    name: String,
    #[serde(default)]
    word: String,
    #[serde(default)]
    trim: bool,
    path: Option<String>,
    #[serde(default)]
    from: Vec<Reference>,
}

impl Toy {
    fn told(&self, mischief: &str) -> bool {
        self.folder.join(format!("{}.{mischief}", self.name)).exists()
    }
}

impl Stage for Toy {
    fn identify(&self, manifest: &mut Manifest) {
        let Toy { folder: _, name: _, word, trim, path: _, from: _ } = self;
        manifest.value("word", word);
        manifest.value_unless("trim", trim, &false);
    }

    fn inputs(&self) -> Vec<Input> {
        let outside = self.path.iter().map(|path| Input {
            role: "path".to_string(),
            source: InputSource::External { path: self.folder.join(path).display().to_string() },
        });
        let accepts = &[ArtifactKind::Rows, ArtifactKind::Checkpoint];
        let stages = self.from.iter().enumerate().map(|(index, reference)| Input {
            role: format!("from.{index}"),
            source: InputSource::Stage { reference: reference.clone(), accepts },
        });
        outside.chain(stages).collect()
    }

    fn run(&self, ctx: &StageContext) -> Result<Summary> {
        use std::io::Write;
        // In one write: who waits for the line may kill this process as soon as there is a part of it.
        files::append(&self.folder.join("ran"))?.write_all(format!("{}\n", self.name).as_bytes())?;
        ctx.progress.step(1, 2, "rows");
        if self.told("resume") {
            let checkpoint = ctx.scratch.join("checkpoint");
            if !checkpoint.exists() {
                files::write_atomic(&checkpoint, b"half")?;
                files::write_atomic(&ctx.output("rows.jsonl"), b"\"half\"\n")?;
                bail!("the power is gone");
            }
            ctx.progress.note("resumed".to_string());
        }
        if self.told("fail") {
            return Err(anyhow::anyhow!("the disk is on fire").context("cannot train"));
        }
        assert!(!self.told("panic"), "a mistake of ours");
        if self.told("abort") {
            std::process::abort();
        }
        while self.told("wait") {
            std::thread::sleep(Duration::from_millis(5));
        }
        if self.told("edit") {
            files::write_atomic(&self.folder.join(self.path.as_deref().unwrap_or_default()), b"edited meanwhile")?;
        }
        let mut rows = Vec::new();
        for input in ctx.inputs.values() {
            let file = if input.path.is_dir() { input.path.join("weights") } else { input.path.clone() };
            for line in files::read_text(&file)?.lines() {
                let text = serde_json::from_str(line).unwrap_or_else(|_| line.to_string());
                rows.push(if self.trim { text.trim().to_string() } else { text });
            }
        }
        rows.push(self.word.clone());
        let text: String = rows.iter().map(|row| json!(row).to_string() + "\n").collect();
        let outputs: &[&str] = if self.told("model") { &["model/weights"] } else { &["rows.jsonl", "facts.json"] };
        for output in outputs {
            let nan = *output == "facts.json" && self.told("nan");
            let facts = if nan { json!({ "loss": f64::NAN }) } else { json!({ "rows": rows.len() }) };
            let text = if *output == "facts.json" { facts.to_string() } else { text.clone() };
            if !self.told("silent") {
                files::write_atomic(&ctx.output(output), text.as_bytes())?;
            }
        }
        let mut summary = Summary::default().with("rows", rows.len());
        if self.told("talk") {
            let much = "x".repeat(3 << 20);
            ctx.progress.note(much.clone());
            summary = summary.with("much", much);
        }
        Ok(summary)
    }
}

/// A folder with files, a store and stages.
pub(super) struct Space {
    folder: PathBuf,
    /// Removes the folder at the end, for the space that made it.
    _made: Option<tempfile::TempDir>,
}

impl Space {
    pub(super) fn new() -> Space {
        let made = tempfile::tempdir().unwrap();
        Space { folder: made.path().to_path_buf(), _made: Some(made) }
    }

    /// The space that another process made.
    pub(super) fn at(folder: &Path) -> Space {
        Space { folder: folder.to_path_buf(), _made: None }
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// Writes a file that looks as if it had been there for long.
    pub(super) fn write(&self, name: &str, text: &str) {
        let path = self.path(name);
        files::write_atomic(&path, text.as_bytes()).unwrap();
        fs::File::open(&path).unwrap().set_modified(UNIX_EPOCH + Duration::from_secs(1_000_000)).unwrap();
    }

    pub(super) fn tell(&self, name: &str, mischief: &str) {
        self.write(&format!("{name}.{mischief}"), "");
    }

    pub(super) fn forgive(&self, name: &str, mischief: &str) {
        files::remove_file(&self.path(&format!("{name}.{mischief}"))).unwrap();
    }

    pub(super) fn store(&self) -> Store {
        Store::open(&self.path("cache")).unwrap()
    }

    /// Instances out of tables; `from` names earlier ones, `kind` is `toy` unless it is said.
    pub(super) fn stages(&self, stages: &[(&str, Value)]) -> Expansion {
        let mut expansion = Expansion::default();
        let mut ids: BTreeMap<&str, InstanceId> = BTreeMap::new();
        for (name, table) in stages {
            let mut config = table.clone();
            let table = config.as_object_mut().unwrap();
            let version = table.remove("version").map_or(1, |version| version.as_u64().unwrap());
            let kind = table.remove("kind").map_or("toy".to_string(), |kind| kind.as_str().unwrap().to_string());
            let seed = table.remove("seed").map_or(0, |seed| seed.as_u64().unwrap());
            let kind: &'static Kind =
                REGISTRY.iter().find(|known| known.name == kind && u64::from(known.version) == version).unwrap();
            table.insert("folder".into(), json!(self.folder));
            table.insert("name".into(), json!(name));
            if kind.name == "model" {
                self.tell(name, "model");
            }
            let built: Arc<dyn Stage> = (kind.parse)(&config).unwrap().into();
            let mut manifest = Manifest::new(kind.name, kind.version);
            built.identify(&mut manifest);
            let inputs = built.inputs().into_iter().map(|input| {
                let upstream = match input.source {
                    InputSource::External { path } => Upstream::External { path: path.into() },
                    InputSource::Environment { name } => Upstream::Environment { name },
                    InputSource::Stage { reference, .. } => {
                        let instance = ids[reference.to_string().as_str()];
                        let output = expansion.get(instance).outputs[0].clone();
                        Upstream::Output { instance, output: output.name.as_ref().into(), kind: output.kind }
                    }
                };
                InstanceInput { role: input.role.into(), upstream }
            });
            let inputs = inputs.collect();
            ids.insert(name, InstanceId(expansion.instances.len()));
            let (stage, point) = name.split_once('@').unwrap_or((name, ""));
            let point = point.split(',').filter_map(|pin| pin.split_once('='));
            expansion.instances.push(Instance {
                name: (*name).to_string(),
                stage: stage.to_string(),
                point: point.map(|(axis, value)| (axis.to_string(), value.to_string())).collect(),
                kind,
                config: config.to_string().into(),
                identity: manifest.text().into(),
                seed,
                inputs,
                outputs: built.outputs().map_or(kind.outputs.into(), Into::into),
                pool: built.pool().unwrap_or(kind.pool),
                limits: Limits::default(),
                spans: Arc::default(),
                parsed: built.into(),
            });
        }
        expansion.hash = Some(Hash::of_bytes(format!("{:?}", expansion.instances).as_bytes()));
        expansion
    }

    pub(super) fn options(&self) -> RunOptions {
        RunOptions { out: Some(self.path("out")), ..RunOptions::new(Arc::new(InProcess::new(REGISTRY))) }
    }

    /// Runs and tells what became of every instance, and why it ran.
    pub(super) fn run(&self, expansion: &Expansion) -> String {
        self.run_with(expansion, &self.options())
    }

    pub(super) fn run_with(&self, expansion: &Expansion, options: &RunOptions) -> String {
        match run::run("test", expansion, &self.store(), options, &Quiet) {
            Ok(report) => self.told(&report),
            Err(error) => self.clean(&format!("{error:#}\n")),
        }
    }

    pub(super) fn told(&self, report: &RunReport) -> String {
        let lines = report.instances.iter().map(|instance| {
            let reasons: Vec<String> = instance.reasons.iter().map(ToString::to_string).collect();
            match &instance.outcome {
                Outcome::Ran => format!("{}: ran, {}\n", instance.name, reasons.join("; ")),
                Outcome::Fresh => format!("{}: fresh\n", instance.name),
                Outcome::Failed(failure) => format!("{failure}\n"),
                Outcome::Skipped { because } => format!("{}: skipped, {because}\n", instance.name),
                Outcome::Interrupted => format!("{}: interrupted\n", instance.name),
            }
        });
        self.clean(&lines.collect::<String>().replace(&report.run, "RUN"))
    }

    /// What would be done, in words.
    pub(super) fn plan(&self, expansion: &Expansion) -> String {
        let options = PlanOptions { experiment: "test".into(), ..PlanOptions::default() };
        let plan = plan::plan(expansion, &self.store(), &options).unwrap();
        let told = expansion.ids().flat_map(|id| why(expansion, &plan, id)).map(|note| note.message + "\n");
        self.clean(&told.collect::<String>())
    }

    /// Waits until a stage has told that it runs.
    pub(super) fn wait_until_one_runs(&self) {
        while !fs::read_to_string(self.path("ran")).is_ok_and(|text| text.ends_with('\n')) {
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Names of the stages that ran since the last question.
    pub(super) fn ran(&self) -> String {
        let text = fs::read_to_string(self.path("ran")).unwrap_or_default();
        files::remove_file(&self.path("ran")).ok();
        text.split_whitespace().collect::<Vec<_>>().join(" ")
    }

    /// The object behind an output's name.
    pub(super) fn object(&self, instance: &str, output: &str) -> PathBuf {
        fs::canonicalize(self.path("out/test").join(instance).join(output)).unwrap()
    }

    pub(super) fn output(&self, instance: &str) -> String {
        files::read_text(&self.object(instance, "rows.jsonl")).unwrap().replace('\n', " ").trim().to_string()
    }

    /// Text without what differs from run to run.
    pub(super) fn clean(&self, text: &str) -> String {
        let text = text.replace(&self.folder.display().to_string(), "SPACE");
        let mut clean = String::new();
        for word in text.split_inclusive(|c: char| !c.is_ascii_alphanumeric()) {
            let digits = word.trim_end_matches(|c: char| !c.is_ascii_alphanumeric());
            let hash = [10, 64].contains(&digits.len()) && digits.chars().all(|c| c.is_ascii_hexdigit());
            clean.push_str(&if hash { word.replace(digits, "HASH") } else { word.to_string() });
        }
        clean
    }
}

/// Writes over a sealed object.
pub(super) fn damage(path: &Path, text: &str) {
    files::remove_file(path).unwrap();
    files::write_atomic(path, text.as_bytes()).unwrap();
}
