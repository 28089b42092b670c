//! The configuration of this machine or project: where stages run, and where results are shared. It is no part of an experiment, and
//! so of no fingerprint.
//!
//! It stands in `.ablate.toml` in the working folder or the nearest folder above it, and in the user's
//! `~/.config/ablate/config.toml`. A key of the project's file overrides the same key of the user's file.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::diagnostics::{Diagnostics, LoadError, list};
use super::limits::{self, Limits};
use super::section::Section;
use super::spanned_toml::{Table, parse_document};
use ablate_core::base::diagnostic::nearest;
use ablate_core::base::{Diagnostic, Sources, Span, files};
use ablate_core::stage::Registry;

/// The name of the project's file.
pub const PROJECT_FILE: &str = ".ablate.toml";

/// The content of the configuration files.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Configuration {
    pub executor: ExecutorTable,
    pub remote: RemoteTable,
    /// The files that were read.
    #[serde(skip)]
    pub files: Vec<PathBuf>,
}

/// `[executor]`: where stages run.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ExecutorTable {
    /// The executor of `run` without `--executor`.
    pub default: ExecutorName,
    pub slurm: SlurmTable,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ExecutorName {
    /// Processes of this machine.
    #[default]
    Local,
    /// Jobs of a Slurm cluster.
    Slurm,
}

/// `[executor.slurm]`: how jobs are submitted, and the resources of all jobs. The first keys are those of [`JobTable`]: serde either
/// flattens a table into another one or refuses unknown keys.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SlurmTable {
    partition: Option<String>,
    account: Option<String>,
    qos: Option<String>,
    #[serde(deserialize_with = "limits::duration")]
    time: Option<Duration>,
    cpus: Option<usize>,
    gpu: Option<usize>,
    nodes: Option<usize>,
    #[serde(deserialize_with = "limits::memory")]
    memory: Option<u64>,
    setup: Option<Vec<String>>,
    options: Option<Vec<String>>,
    /// How often a job that ended at its time limit, was preempted or lost its node is submitted again.
    pub resumes: u32,
    /// The most jobs of a run in the queue at the same time.
    pub max_jobs: usize,
    /// How long before its time limit a job gets the signal to save its state.
    #[serde(deserialize_with = "duration")]
    pub grace: Duration,
    /// After this time, a job that the queue does not know and that left no result is submitted again.
    #[serde(deserialize_with = "duration")]
    pub lost_after: Duration,
    /// How long files of other nodes may take to appear.
    #[serde(deserialize_with = "duration")]
    pub files_within: Duration,
    /// A command of the queue that takes longer counts as unanswered.
    #[serde(deserialize_with = "duration")]
    pub command_timeout: Duration,
    /// Kinds and stages that the driver runs itself.
    pub local: Vec<String>,
    /// Resources by kind of stage.
    kind: BTreeMap<String, JobTable>,
    /// Resources by stage.
    stage: BTreeMap<String, JobTable>,
}

impl Default for SlurmTable {
    fn default() -> SlurmTable {
        SlurmTable {
            partition: None,
            account: None,
            qos: None,
            time: None,
            cpus: None,
            gpu: None,
            nodes: None,
            memory: None,
            setup: None,
            options: None,
            resumes: 3,
            max_jobs: 1000,
            grace: Duration::from_secs(120),
            lost_after: Duration::from_secs(120),
            files_within: Duration::from_secs(60),
            command_timeout: Duration::from_secs(60),
            local: Vec::new(),
            kind: BTreeMap::new(),
            stage: BTreeMap::new(),
        }
    }
}

/// The resources of jobs, as a table writes them.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct JobTable {
    partition: Option<String>,
    account: Option<String>,
    qos: Option<String>,
    #[serde(deserialize_with = "limits::duration")]
    time: Option<Duration>,
    cpus: Option<usize>,
    gpu: Option<usize>,
    nodes: Option<usize>,
    #[serde(deserialize_with = "limits::memory")]
    memory: Option<u64>,
    setup: Option<Vec<String>>,
    options: Option<Vec<String>>,
}

/// `[remote]`: where results are shared with other machines.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RemoteTable {
    /// `s3://bucket/prefix` or a folder.
    pub url: Option<String>,
}

/// The resources of one job. Jobs with equal resources are submitted together.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct JobResources {
    pub partition: Option<String>,
    pub account: Option<String>,
    pub qos: Option<String>,
    pub time: Option<Duration>,
    /// Per node.
    pub cpus: Option<usize>,
    /// Per node.
    pub gpu: usize,
    pub nodes: usize,
    /// Per node, in MiB.
    pub memory: Option<u64>,
    /// Lines of the job's script before the stage.
    pub setup: Vec<String>,
    /// Further options of the submission.
    pub options: Vec<String>,
}

/// The time that a job needs around the attempt of a stage: to load the program, and to commit the result.
const TIME_AROUND_ATTEMPT: Duration = Duration::from_secs(300);

impl SlurmTable {
    /// The names in `local` and in the tables of stages that are no kind and none of these stages.
    pub fn unknown_names(&self, registry: &Registry, stages: &BTreeSet<&str>) -> BTreeSet<String> {
        let local = self.local.iter().filter(|name| registry.iter().all(|kind| kind.name != name.as_str()));
        local.chain(self.stage.keys()).filter(|name| !stages.contains(name.as_str())).cloned().collect()
    }

    /// The resources of a stage's job: those of `[executor.slurm.stage.NAME]`, else of the stage's `limits`, else of
    /// `[executor.slurm.kind.KIND]`, else of `[executor.slurm]`.
    pub fn resources(&self, stage: &str, kind: &str, limits: &Limits) -> JobResources {
        let none = JobTable::default();
        let by_stage = self.stage.get(stage).unwrap_or(&none);
        let by_kind = self.kind.get(kind).unwrap_or(&none);
        let limits = JobTable {
            time: limits.time.map(|time| time.saturating_add(TIME_AROUND_ATTEMPT)),
            cpus: limits.cpus,
            gpu: limits.gpu,
            nodes: limits.nodes,
            memory: limits.memory,
            ..JobTable::default()
        };
        let SlurmTable { partition, account, qos, time, cpus, gpu, nodes, memory, setup, options, .. } = self.clone();
        let general = JobTable { partition, account, qos, time, cpus, gpu, nodes, memory, setup, options };
        let layers = [by_stage, &limits, by_kind, &general];
        JobResources {
            partition: first(layers, |table| table.partition.as_ref()),
            account: first(layers, |table| table.account.as_ref()),
            qos: first(layers, |table| table.qos.as_ref()),
            time: first(layers, |table| table.time.as_ref()),
            cpus: first(layers, |table| table.cpus.as_ref()),
            gpu: first(layers, |table| table.gpu.as_ref()).unwrap_or(0),
            nodes: first(layers, |table| table.nodes.as_ref()).unwrap_or(1),
            memory: first(layers, |table| table.memory.as_ref()),
            setup: first(layers, |table| table.setup.as_ref()).unwrap_or_default(),
            options: first(layers, |table| table.options.as_ref()).unwrap_or_default(),
        }
    }
}

/// The value of a key in the first table that has it.
fn first<T: Clone>(layers: [&JobTable; 4], key: impl Fn(&JobTable) -> Option<&T>) -> Option<T> {
    layers.into_iter().find_map(key).cloned()
}

impl Configuration {
    /// Reads the file of the project and the file of the user, or only `file` if it is given. Files that do not exist are
    /// left out, except `file`.
    pub fn load(file: Option<&Path>, registry: &Registry) -> Result<Configuration, Box<LoadError>> {
        let found = match file {
            Some(file) => vec![file.to_path_buf()],
            None => user_file().into_iter().chain(project_file()).collect(),
        };
        let (mut sources, mut diagnostics) = (Sources::default(), Diagnostics::default());
        let (mut merged, mut root, mut valid) = (Table::default(), None, true);
        for path in &found {
            match files::read_text(path) {
                Ok(text) => {
                    let source = sources.add(path.display().to_string(), text);
                    root = Some(Span { source, range: 0..0 });
                    match parse_document(source, &sources, &mut diagnostics) {
                        Some(table) => merged.merge(table),
                        None => valid = false,
                    }
                }
                Err(error) => diagnostics.push(Diagnostic::error(format!("{error:#}"))),
            }
        }
        let mut configuration = Configuration::default();
        if let (Some(header), true) = (root, valid) {
            let section = Section { path: "", table: &merged, header: &header };
            configuration = section.read(&mut diagnostics).unwrap_or_default();
            check(&configuration, &section, registry, &mut diagnostics);
        }
        if !diagnostics.is_empty() {
            return Err(Box::new(diagnostics.into_error(sources)));
        }
        configuration.files = found;
        Ok(configuration)
    }
}

fn check(configuration: &Configuration, section: &Section<'_>, registry: &Registry, diagnostics: &mut Diagnostics) {
    let slurm = &configuration.executor.slurm;
    for kind in slurm.kind.keys().filter(|name| registry.iter().all(|kind| kind.name != *name)) {
        let kinds = || registry.iter().map(|kind| kind.name);
        let help = match nearest(kind, kinds()) {
            Some(near) => format!("a kind of a similar name exists: `{near}`"),
            None => format!("the kinds are {}", list(kinds())),
        };
        let message = format!("there is no kind `{kind}`");
        section.wrong_key(&["executor", "slurm", "kind", kind], message, Some(help), diagnostics);
    }
    let mut counts = vec![
        (vec!["executor", "slurm", "max_jobs"], Some(slurm.max_jobs)),
        (vec!["executor", "slurm", "cpus"], slurm.cpus),
        (vec!["executor", "slurm", "nodes"], slurm.nodes),
    ];
    for (what, tables) in [("kind", &slurm.kind), ("stage", &slurm.stage)] {
        for (name, table) in tables {
            counts.push((vec!["executor", "slurm", what, name, "cpus"], table.cpus));
            counts.push((vec!["executor", "slurm", what, name, "nodes"], table.nodes));
        }
    }
    for (path, _) in counts.into_iter().filter(|(_, count)| *count == Some(0)) {
        section.wrong(&path, "at least 1 is needed", None, diagnostics);
    }
}

/// The nearest [`PROJECT_FILE`] in the working folder or above it.
fn project_file() -> Option<PathBuf> {
    let folder = std::env::current_dir().ok()?;
    folder.ancestors().map(|folder| folder.join(PROJECT_FILE)).find(|path| path.exists())
}

fn user_file() -> Option<PathBuf> {
    let home =
        || std::env::var_os("HOME").filter(|home| !home.is_empty()).map(|home| PathBuf::from(home).join(".config"));
    let folder =
        std::env::var_os("XDG_CONFIG_HOME").filter(|folder| !folder.is_empty()).map(PathBuf::from).or_else(home)?;
    Some(folder.join("ablate/config.toml")).filter(|path| path.exists())
}

fn duration<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    Ok(limits::duration(deserializer)?.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;
    use expect_test::expect;

    fn load(text: &str) -> Result<Configuration, String> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("config.toml");
        files::write_atomic(&path, text.as_bytes()).unwrap();
        let shown = path.display().to_string();
        Configuration::load(Some(&path), &[]).map_err(|error| error.to_string().replace(&shown, "config.toml"))
    }

    #[test]
    fn the_most_specific_table_gives_the_resources() {
        let text = r#"
            [executor]
            default = "slurm"
            [executor.slurm]
            partition = "main"
            time = "4h"
            memory = "16G"
            setup = ["module load cuda"]
            [executor.slurm.stage.dpo]
            partition = "gpu"
            gpu = 4
        "#;
        let configuration = load(text).unwrap();
        assert_eq!(configuration.executor.default, ExecutorName::Slurm);
        let slurm = &configuration.executor.slurm;
        let limits = Limits { gpu: Some(1), time: Some(Duration::from_secs(60)), ..Limits::default() };
        let resources = slurm.resources("dpo", "dpo", &limits);
        assert_eq!((resources.partition.as_deref(), resources.gpu, resources.memory), (Some("gpu"), 4, Some(16 << 10)));
        assert_eq!(resources.time, Some(Duration::from_secs(360)));
        let resources = slurm.resources("sft", "sft", &Limits::default());
        assert_eq!((resources.partition.as_deref(), resources.gpu, resources.nodes), (Some("main"), 0, 1));
        assert_eq!(resources.time, Some(Duration::from_secs(4 * 3600)));
        assert_eq!(resources.setup, ["module load cuda"]);
        assert_eq!(slurm.unknown_names(&[], &BTreeSet::from(["sft"])), BTreeSet::from(["dpo".to_string()]));
    }

    #[test]
    fn errors_have_their_place() {
        let text = "[executor.slurm]\npartion = \"main\"\nmemory = \"lots\"\nmax_jobs = 0\n[executor.slurm.kind.sft]\ngpu = -1\n";
        expect![[r#"
            error: `executor.slurm`: unknown key `partion`
             --> config.toml:2:1
              |
            2 | partion = "main"
              | ^^^^^^^
              |
              = help: a key of a similar name exists: `partition`

            error: `executor.slurm.memory`: this is not an amount of memory: write a text such as "16G" or "500M"
             --> config.toml:3:10
              |
            3 | memory = "lots"
              |          ^^^^^^

            error: `executor.slurm.kind.sft.gpu`: invalid value: integer `-1`, expected a whole number from 0
             --> config.toml:6:7
              |
            6 | gpu = -1
              |       ^^"#]]
        .assert_eq(&load(text).unwrap_err());
    }
}
