//! What made a report: the file, its overrides and its values, the data, the code, the machines, and the commands that
//! make its numbers again.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use serde::Serialize;

use ablate_core::base::Hash;
use ablate_engine::history::PastRun;
use ablate_engine::{GitState, Plan, RunPhase};
use ablate_experiment::{Expansion, Experiment, ReportSpec, Upstream};
use ablate_store::{StageRecord, Store, list_files};

/// Where the results of a report come from.
#[derive(Clone, Debug, Default)]
pub struct Origin {
    /// The values of `--set`.
    pub overrides: Vec<String>,
    /// The working tree of the experiment's file.
    pub git: Option<GitState>,
    /// The run whose results are shown. `None` for the current results.
    pub run: Option<PastRun>,
}

/// What made a report.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct MadeBy {
    /// The experiment's file.
    pub file: String,
    pub overrides: Vec<String>,
    /// The run whose results are shown; `None` for the current results.
    pub run: Option<RunOrigin>,
    /// Every axis, fan-out key and `seed`, with its values.
    pub varies: Vec<Axis>,
    /// The files and folders outside of the store.
    pub inputs: Vec<ExternalInput>,
    pub git: Option<GitState>,
    /// Versions or builds of ablate that made the results.
    pub builds: Vec<String>,
    pub devices: Vec<String>,
    pub hosts: Vec<String>,
    /// The first and the last start of a stage (RFC 3339, UTC).
    pub started: Option<(String, String)>,
    /// The commands that make the numbers again.
    pub commands: Vec<Command>,
}

/// The run whose results a report shows.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct RunOrigin {
    pub number: u64,
    pub run: String,
    pub started: String,
    pub command: Vec<String>,
    /// How it ended; `None` if it did not end.
    pub ended: Option<RunPhase>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Axis {
    pub axis: String,
    pub values: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ExternalInput {
    /// Relative to the folder of the experiment's file if it is below that.
    pub path: String,
    /// The content hash that the stages read.
    pub hash: Hash,
    /// Size in bytes. `None` if the content has changed since.
    pub size: Option<u64>,
    /// The stages that read it.
    pub read_by: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Command {
    /// What it makes: the name of a table, or `one row per item`.
    pub makes: String,
    pub command: String,
}

impl MadeBy {
    pub(super) fn collect(
        experiment: &Experiment,
        expansion: &Expansion,
        plan: &Plan,
        store: &Store,
        records: &[StageRecord],
        specs: &[&ReportSpec],
        origin: &Origin,
    ) -> MadeBy {
        let distinct = |field: &dyn Fn(&StageRecord) -> String| -> Vec<String> {
            let texts: BTreeSet<String> = records.iter().map(field).filter(|text| !text.is_empty()).collect();
            texts.into_iter().collect()
        };
        let build = |record: &StageRecord| {
            let provenance = &record.provenance;
            if provenance.build.is_unknown() { provenance.version.clone() } else { provenance.build.to_string() }
        };
        let run = origin.run.as_ref().map(|run| RunOrigin {
            number: run.number,
            run: run.run.clone(),
            started: run.started.clone(),
            command: without_folder(&run.command),
            ended: run.end(),
        });
        // RFC 3339 times in UTC are sorted as text.
        let started = distinct(&|record| record.provenance.started.clone());
        MadeBy {
            file: experiment.path.display().to_string(),
            overrides: origin.overrides.clone(),
            varies: varying_values(experiment, expansion),
            inputs: external_inputs(experiment, expansion, plan, store),
            run,
            git: origin.git.clone(),
            builds: distinct(&build),
            devices: distinct(&|record| record.provenance.device.clone()),
            hosts: distinct(&|record| record.provenance.host.clone()),
            started: started.first().cloned().zip(started.last().cloned()),
            commands: commands(&experiment.path, &origin.overrides, specs),
        }
    }

    /// All facts as names and values. Facts without a value are left out.
    pub fn facts(&self) -> Vec<(String, String)> {
        let mut facts = self.general_facts();
        facts.extend(self.varies.iter().map(|Axis { axis, values }| (format!("values of {axis}"), values.join(", "))));
        for input in &self.inputs {
            let size = input.size.map(|size| format!("{size} bytes, ")).unwrap_or_default();
            let hash = input.hash.short();
            let read_by = input.read_by.join(", ");
            facts.push((format!("data {}", input.path), format!("{size}hash {hash}, read by {read_by}")));
        }
        let command = |one: &Command| (format!("to make {} again", one.makes), one.command.clone());
        facts.extend(self.commands.iter().map(command));
        facts
    }

    /// The facts except lists: values, data and commands.
    pub(super) fn general_facts(&self) -> Vec<(String, String)> {
        let mut facts: Vec<(String, String)> = Vec::new();
        let mut add = |name: &str, value: String| {
            if !value.is_empty() {
                facts.push((name.to_string(), value));
            }
        };
        let file = Path::new(&self.file).file_name();
        add("experiment", file.map(|name| name.to_string_lossy().into_owned()).unwrap_or_default());
        add("changed keys", self.overrides.join("; "));
        if let Some(run) = &self.run {
            add("run", format!("{} ({}), {}", run.number, run.run, run.ended.map_or("not ended", RunPhase::name)));
            add("command of the run", run.command.iter().map(|word| quote(word)).collect::<Vec<_>>().join(" "));
        }
        add("git commit", self.git.as_ref().map(commit).unwrap_or_default());
        add("ablate", self.builds.join("; "));
        add("device", self.devices.join(", "));
        add("host", self.hosts.join(", "));
        let dates = self.started.as_ref().map(|(first, last)| format!("{} to {}", minute(first), minute(last)));
        add("stages started", dates.unwrap_or_default());
        facts
    }

    /// The shortest statement, for the terminal. `None` if nothing is known.
    pub fn line(&self) -> Option<String> {
        let mut parts = Vec::new();
        parts.extend(self.run.as_ref().map(|run| format!("run {}", run.number)));
        parts.extend(self.overrides.iter().map(|text| format!("--set {}", quote(text))));
        parts.extend(self.git.as_ref().map(|git| format!("git {}", commit(git))));
        // The details of a build are in the other renderings.
        let versions: BTreeSet<&str> = self.builds.iter().filter_map(|build| build.split(' ').next()).collect();
        parts.extend(versions.into_iter().map(|version| format!("ablate {version}")));
        let (devices, hosts) = (self.devices.join(", "), self.hosts.join(", "));
        parts.extend((!devices.is_empty()).then(|| format!("{devices} on {hosts}")));
        (!parts.is_empty()).then(|| parts.join(", "))
    }
}

/// A command line whose program has no folder: the page may be read on other machines.
fn without_folder(command: &[String]) -> Vec<String> {
    let mut command = command.to_vec();
    if let Some(program) = command.first_mut()
        && let Some(name) = Path::new(program.as_str()).file_name()
    {
        *program = name.to_string_lossy().into_owned();
    }
    command
}

fn commit(git: &GitState) -> String {
    let state = match git.dirty {
        Some(true) => " with uncommitted changes",
        Some(false) => "",
        None => " (not known whether files differ)",
    };
    format!("{}{state}", git.short())
}

/// The axes in the order of the file, then fan-out keys.
fn varying_values(experiment: &Experiment, expansion: &Expansion) -> Vec<Axis> {
    let mut axes: Vec<Axis> = Vec::new();
    let mut places: BTreeMap<String, usize> = BTreeMap::new();
    let mut add = |axis: &str, value: &str| {
        let place = *places.entry(axis.to_string()).or_insert_with(|| {
            axes.push(Axis { axis: axis.to_string(), values: Vec::new() });
            axes.len() - 1
        });
        if !axes[place].values.iter().any(|known| known == value) {
            axes[place].values.push(value.to_string());
        }
    };
    for (axis, labels) in &experiment.axes {
        for label in labels {
            add(axis, label);
        }
    }
    for instance in &expansion.instances {
        for (axis, value) in &instance.point {
            add(axis, value);
        }
    }
    axes
}

/// The files and folders that stages read, by path.
fn external_inputs(experiment: &Experiment, expansion: &Expansion, plan: &Plan, store: &Store) -> Vec<ExternalInput> {
    let folder = std::path::absolute(&experiment.path).ok().and_then(|path| path.parent().map(Path::to_path_buf));
    let mut found: BTreeMap<(PathBuf, Hash), BTreeSet<&str>> = BTreeMap::new();
    for id in expansion.ids() {
        let Some(identity) = &plan.get(id).identity else { continue };
        let instance = expansion.get(id);
        for (input, hash) in instance.inputs.iter().zip(&identity.inputs) {
            if let Upstream::External { path } = &input.upstream {
                found.entry((path.clone(), *hash)).or_default().insert(&instance.stage);
            }
        }
    }
    let input = |((path, hash), stages): ((PathBuf, Hash), BTreeSet<&str>)| {
        let is_current = store.hash_external(&path, &|_| ()).is_ok_and(|found| found == Some(hash));
        let below = folder.as_deref().and_then(|folder| path.strip_prefix(folder).ok());
        ExternalInput {
            path: below.unwrap_or(&path).display().to_string(),
            hash,
            size: if is_current { size(&path) } else { None },
            read_by: stages.into_iter().map(str::to_string).collect(),
        }
    };
    found.into_iter().map(input).collect()
}

/// The size of a file, or of the files in a folder that count as its content.
fn size(path: &Path) -> Option<u64> {
    let length = |path: &Path| path.metadata().ok().map(|found| found.len());
    if path.is_dir() { list_files(path).ok()?.files.iter().map(|(_, path)| length(path)).sum() } else { length(path) }
}

/// One command per table, and one for the scores of the items.
fn commands(file: &Path, overrides: &[String], specs: &[&ReportSpec]) -> Vec<Command> {
    let mut arguments = quote(&file.display().to_string());
    for text in overrides {
        arguments.push_str(&format!(" --set {}", quote(text)));
    }
    let tables = specs.iter().map(|spec| Command {
        makes: spec.name.clone(),
        command: format!(
            "ablate run {arguments} {} && ablate report {arguments} --report {}",
            quote(&spec.stage),
            quote(&spec.name)
        ),
    });
    let items =
        Command { makes: "one row per item".to_string(), command: format!("ablate results {arguments} --items") };
    tables.chain((!specs.is_empty()).then_some(items)).collect()
}

/// A word of a command line, in single quotes if a shell would change it.
fn quote(word: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_=./,@:+%".contains(&byte);
    if !word.is_empty() && word.bytes().all(plain) {
        return word.to_string();
    }
    format!("'{}'", word.replace('\'', "'\\''"))
}

/// Renders `2025-03-01T10:20:30Z` as `2025-03-01 10:20 UTC`. Other text is returned unchanged.
fn minute(time: &str) -> String {
    match (time.get(..10), time.get(10..11), time.get(11..16)) {
        (Some(day), Some("T"), Some(minute)) if time.ends_with('Z') => format!("{day} {minute} UTC"),
        _ => time.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn facts_without_a_value_are_left_out() {
        assert_eq!(MadeBy::default().facts(), []);
        assert_eq!(MadeBy::default().line(), None);
        let git = Some(GitState { commit: "0123456789abcdef".to_string(), dirty: Some(true) });
        let overrides = vec!["a.b=\"it's\"".to_string()];
        let made = MadeBy { git, overrides, builds: vec!["0.1.0 (x86_64-linux)".to_string()], ..MadeBy::default() };
        let line = r#"--set 'a.b="it'\''s"', git 0123456789ab with uncommitted changes, ablate 0.1.0"#;
        assert_eq!(made.line().as_deref(), Some(line));
        let facts: Vec<(String, String)> = made.facts();
        let names: Vec<&str> = facts.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["changed keys", "git commit", "ablate"]);
    }

    #[test]
    fn the_program_of_a_command_has_no_folder() {
        let command = ["/opt/bin/ablate", "run", "/data/a.toml"].map(str::to_string);
        assert_eq!(without_folder(&command), ["ablate", "run", "/data/a.toml"]);
        assert_eq!(without_folder(&[]), Vec::<String>::new());
    }

    #[test]
    fn commands_can_be_pasted_into_a_shell() {
        let spec = ReportSpec { name: "main".to_string(), stage: "eval".to_string(), ..ReportSpec::default() };
        let made = commands(Path::new("my study.toml"), &["a.b=[1, 2]".to_string()], &[&spec]);
        let made: Vec<&str> = made.iter().map(|one| one.command.as_str()).collect();
        assert_eq!(
            made,
            [
                "ablate run 'my study.toml' --set 'a.b=[1, 2]' eval && \
                 ablate report 'my study.toml' --set 'a.b=[1, 2]' --report main",
                "ablate results 'my study.toml' --set 'a.b=[1, 2]' --items"
            ]
        );
    }
}
