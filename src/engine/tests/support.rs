//! The fixture of the engine's tests: a folder with data, a store, stages of the test kinds, and runs of them.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock};
use std::time::{Duration, UNIX_EPOCH};

use serde_json::{Value, json};

use super::test_kinds::REGISTRY;
use crate::query::Query;
use crate::{InProcess, NullObserver, Outcome, Plan, PlanOptions, RunOptions, RunReport, plan, run, why};
use ablate_core::base::{Hash, files};
use ablate_core::stage::{InputSource, Kind, Manifest, Stage};
use ablate_experiment::{Expansion, Instance, InstanceId, InstanceInput, Limits, Upstream};
use ablate_store::{ExperimentId, StageRecord, Store};

/// A temporary folder with data files, a store and outputs.
pub(crate) struct TestProject {
    folder: PathBuf,
    /// Removes the folder on drop, if this value created it.
    _temporary: Option<tempfile::TempDir>,
}

impl TestProject {
    pub(crate) fn new() -> TestProject {
        let temporary = tempfile::tempdir().unwrap();
        TestProject { folder: temporary.path().to_path_buf(), _temporary: Some(temporary) }
    }

    /// A project that another process created.
    pub(crate) fn at(folder: &Path) -> TestProject {
        TestProject { folder: folder.to_path_buf(), _temporary: None }
    }

    /// A project whose data file has two rows.
    pub(crate) fn with_data() -> TestProject {
        let project = TestProject::new();
        project.write("data.txt", "one\ntwo");
        project
    }

    /// A project in which the stages of `chain("a")` ran, and these stages.
    pub(crate) fn after_chain() -> (TestProject, Expansion) {
        let project = TestProject::with_data();
        let stages = project.chain("a");
        assert_eq!(project.stages_run_by(&stages), "read trim train eval");
        (project, stages)
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// Writes a file with an old modification time, so that its hash is cached.
    pub(crate) fn write(&self, name: &str, text: &str) {
        let path = self.path(name);
        files::write_atomic(&path, text.as_bytes()).unwrap();
        fs::File::open(&path).unwrap().set_modified(UNIX_EPOCH + Duration::from_secs(1_000_000)).unwrap();
    }

    /// Makes a stage fail in the way that `fault` names.
    pub(crate) fn set_fault(&self, name: &str, fault: &str) {
        self.write(&format!("{name}.{fault}"), "");
    }

    pub(crate) fn clear_fault(&self, name: &str, fault: &str) {
        files::remove_file(&self.path(&format!("{name}.{fault}"))).unwrap();
    }

    pub(crate) fn store(&self) -> Store {
        Store::open(&self.path("cache")).unwrap()
    }

    /// Instances from tables. `from` names earlier instances; the default of `kind` is `text`.
    pub(crate) fn stages(&self, stages: &[(&str, Value)]) -> Expansion {
        let mut expansion = Expansion::default();
        let mut ids: BTreeMap<&str, InstanceId> = BTreeMap::new();
        for (name, table) in stages {
            let mut config = table.clone();
            let table = config.as_object_mut().unwrap();
            let version = table.remove("version").map_or(1, |version| version.as_u64().unwrap());
            let kind = table.remove("kind").map_or("text".to_string(), |kind| kind.as_str().unwrap().to_string());
            let seed = table.remove("seed").map_or(0, |seed| seed.as_u64().unwrap());
            let kind: &'static Kind =
                REGISTRY.iter().find(|known| known.name == kind && u64::from(known.version) == version).unwrap();
            table.insert("folder".into(), json!(self.folder));
            table.insert("name".into(), json!(name));
            if kind.name == "model" {
                self.set_fault(name, "model");
            }
            let built: Arc<dyn Stage> = (kind.parse)(&config).unwrap().into();
            let mut manifest = Manifest::new(kind.name, kind.version);
            built.identify(&mut manifest);
            let inputs = built.inputs().into_iter().map(|input| {
                let upstream = match input.source {
                    InputSource::External { path, .. } => Upstream::External { path: path.into() },
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
            let point = point.split(',').filter_map(|pair| pair.split_once('='));
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

    /// `read -> trim -> train -> eval`, where `trim` removes white space.
    pub(crate) fn chain(&self, word: &str) -> Expansion {
        self.stages(&[
            ("read", json!({ "path": "data.txt" })),
            ("trim", json!({ "from": ["read"], "trim": true })),
            ("train", json!({ "from": ["trim"], "word": word })),
            ("eval", json!({ "from": ["train"] })),
        ])
    }

    pub(crate) fn options(&self) -> RunOptions {
        RunOptions { out: Some(self.path("out")), ..RunOptions::new(Arc::new(InProcess::new(REGISTRY))) }
    }

    /// Runs, and returns the outcome of every instance and the reasons.
    pub(crate) fn run(&self, expansion: &Expansion) -> String {
        self.run_with(expansion, &self.options())
    }

    pub(crate) fn run_with(&self, expansion: &Expansion, options: &RunOptions) -> String {
        match run("test", expansion, &self.store(), options, &NullObserver) {
            Ok(report) => self.outcomes(&report),
            Err(error) => self.normalize(&format!("{error:#}\n")),
        }
    }

    /// Runs, and returns the names of the stages that ran.
    pub(crate) fn stages_run_by(&self, expansion: &Expansion) -> String {
        self.take_ran();
        self.run(expansion);
        self.take_ran()
    }

    pub(crate) fn outcomes(&self, report: &RunReport) -> String {
        let lines = report.instances.iter().map(|instance| {
            let reasons: Vec<String> = instance.reasons.iter().map(ToString::to_string).collect();
            match &instance.outcome {
                Outcome::Ran => format!("{}: ran, {}\n", instance.name, reasons.join("; ")),
                Outcome::Fresh => format!("{}: fresh\n", instance.name),
                Outcome::Fetched => format!("{}: fetched\n", instance.name),
                Outcome::Failed(failure) => format!("{failure}\n"),
                Outcome::Skipped { because } => format!("{}: skipped, {because}\n", instance.name),
                Outcome::Interrupted => format!("{}: interrupted\n", instance.name),
                Outcome::Detached { waits_for } => format!("{}: detached, {waits_for}\n", instance.name),
            }
        });
        self.normalize(&lines.collect::<String>().replace(&report.run, "RUN"))
    }

    /// Plans, and returns the state of every instance and the reasons.
    pub(crate) fn plan(&self, expansion: &Expansion) -> String {
        let options = PlanOptions { experiment: "test".into(), ..PlanOptions::default() };
        let plan = plan(expansion, &self.store(), &options).unwrap();
        let notes = expansion.ids().flat_map(|id| why(expansion, &plan, id)).map(|note| note.message + "\n");
        self.normalize(&notes.collect::<String>())
    }

    /// Waits until a stage runs.
    pub(crate) fn wait_until_running(&self) {
        while !fs::read_to_string(self.path("ran")).is_ok_and(|text| text.ends_with('\n')) {
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Names of the stages that ran since the last call.
    pub(crate) fn take_ran(&self) -> String {
        let text = fs::read_to_string(self.path("ran")).unwrap_or_default();
        files::remove_file(&self.path("ran")).ok();
        text.split_whitespace().collect::<Vec<_>>().join(" ")
    }

    /// The record of an instance's last result.
    pub(crate) fn record(&self, instance: &str) -> StageRecord {
        let store = self.store();
        store.record(store.latest(&"test".into(), instance).fingerprint.unwrap()).unwrap()
    }

    /// The path of an output in the store.
    pub(crate) fn object(&self, instance: &str, output: &str) -> PathBuf {
        fs::canonicalize(self.path("out/test").join(instance).join(output)).unwrap()
    }

    /// The rows of an output in one line.
    pub(crate) fn output(&self, instance: &str) -> String {
        files::read_text(&self.object(instance, "rows.jsonl")).unwrap().replace('\n', " ").trim().to_string()
    }

    /// Replaces paths and hashes, which differ from run to run.
    pub(crate) fn normalize(&self, text: &str) -> String {
        let text = text.replace(&self.folder.display().to_string(), "PROJECT");
        let mut normalized = String::new();
        for word in text.split_inclusive(|c: char| !c.is_ascii_alphanumeric()) {
            let digits = word.trim_end_matches(|c: char| !c.is_ascii_alphanumeric());
            let hash = [10, 64].contains(&digits.len()) && digits.chars().all(|c| c.is_ascii_hexdigit());
            normalized.push_str(&if hash { word.replace(digits, "HASH") } else { word.to_string() });
        }
        normalized
    }
}

static EXPERIMENT: LazyLock<ExperimentId> = LazyLock::new(|| "test".into());

pub(crate) fn query<'a>(expansion: &'a Expansion, store: &'a Store, plan: &'a Plan) -> Query<'a> {
    Query { experiment: &EXPERIMENT, expansion, store, plan }
}

/// Overwrites a sealed object.
pub(crate) fn overwrite(path: &Path, text: &str) {
    files::remove_file(path).unwrap();
    files::write_atomic(path, text.as_bytes()).unwrap();
}
