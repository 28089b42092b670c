//! The candidates for the values of arguments. An experiment file with errors, and a store that cannot be read, have none.

use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

use clap_complete::engine::{CompletionCandidate, PathCompleter, ValueCompleter};

use crate::cli::args::ExperimentArgs;
use crate::cli::session;
use ablate_core::stage::ArtifactKind;
use ablate_engine::history;
use ablate_experiment::{Expansion, Experiment};
use ablate_store::Store;

/// With more instances than this, only the names of stages are listed until an `@` is typed.
const MOST_INSTANCES: usize = 60;

/// The words of the command line that the shell completes.
fn words() -> Vec<String> {
    let words = std::env::args_os().skip_while(|word| word != "--").skip(1);
    words.map(|word| word.to_string_lossy().into_owned()).collect()
}

/// The values of an option on the command line.
fn option_values(words: &[String], option: &str) -> Vec<String> {
    let separate = words.windows(2).filter(|pair| pair[0] == option).map(|pair| pair[1].clone());
    let attached = words.iter().filter_map(|word| word.strip_prefix(option)?.strip_prefix('=').map(str::to_string));
    separate.chain(attached).collect()
}

/// The experiment on the command line with its changed keys.
fn experiment() -> Option<(Experiment, Expansion)> {
    let words = words();
    let file =
        words.iter().map(Path::new).find(|path| path.extension().is_some_and(|extension| extension == "toml"))?;
    let load = |overrides| session::load(&ExperimentArgs { file: file.to_path_buf(), overrides }).ok();
    // The last `--set` may be the word that is being typed.
    load(option_values(&words, "--set")).or_else(|| load(Vec::new()))
}

/// The store of the command line.
fn store() -> Option<Store> {
    let given = option_values(&words(), "--store").pop().map(PathBuf::from);
    let folder = given.or_else(|| std::env::var_os("ABLATE_STORE").map(PathBuf::from));
    let folder = folder.unwrap_or_else(|| PathBuf::from("cache"));
    folder.join("FORMAT").exists().then(|| Store::open(&folder).ok())?
}

/// The names that begin with what was typed.
fn matching<T: Into<OsString>>(typed: &OsStr, names: impl IntoIterator<Item = T>) -> Vec<CompletionCandidate> {
    let typed = typed.as_encoded_bytes();
    let names = names.into_iter().map(Into::into);
    names.filter(|name| name.as_encoded_bytes().starts_with(typed)).map(CompletionCandidate::new).collect()
}

pub(super) fn experiment_files(typed: &OsStr) -> Vec<CompletionCandidate> {
    PathCompleter::file().filter(|path| path.extension().is_some_and(|extension| extension == "toml")).complete(typed)
}

pub(super) fn files_and_instances(typed: &OsStr) -> Vec<CompletionCandidate> {
    let mut candidates = instances(typed);
    candidates.extend(experiment_files(typed));
    candidates
}

/// What `compare` takes: with a file on the line files and instances, otherwise files and runs.
pub(super) fn compared(typed: &OsStr) -> Vec<CompletionCandidate> {
    let mut candidates = files_and_instances(typed);
    if experiment().is_none() {
        candidates.extend(runs(typed));
    }
    candidates
}

/// Stages and instances.
pub(super) fn instances(typed: &OsStr) -> Vec<CompletionCandidate> {
    let Some((_, expansion)) = experiment() else { return Vec::new() };
    let stages: BTreeSet<&str> = expansion.instances.iter().map(|instance| instance.stage.as_str()).collect();
    let names = expansion.instances.iter().map(|instance| instance.name.as_str());
    let names: BTreeSet<&str> = names.chain(expansion.aliases.keys().map(String::as_str)).collect();
    let all: BTreeSet<&str> = stages.union(&names).copied().collect();
    let found = matching(typed, all);
    if found.len() > MOST_INSTANCES && !typed.to_string_lossy().contains('@') { matching(typed, stages) } else { found }
}

/// `stage.NAME.KEY=`, for every key of a stage's table.
pub(super) fn keys(typed: &OsStr) -> Vec<CompletionCandidate> {
    let Some((_, expansion)) = experiment() else { return Vec::new() };
    let mut keys = BTreeSet::new();
    for instance in &expansion.instances {
        let table = instance.table().ok();
        let names = table.iter().filter_map(|table| table.as_object()).flat_map(|table| table.keys());
        keys.extend(names.map(|key| format!("stage.{}.{key}=", instance.stage)));
    }
    matching(typed, keys)
}

pub(super) fn axes(typed: &OsStr) -> Vec<CompletionCandidate> {
    let Some((experiment, _)) = experiment() else { return Vec::new() };
    matching(typed, experiment.axes.into_iter().map(|(axis, _)| axis))
}

/// `AXIS=VALUE`.
pub(super) fn selectors(typed: &OsStr) -> Vec<CompletionCandidate> {
    let Some((_, expansion)) = experiment() else { return Vec::new() };
    let points = expansion.instances.iter().flat_map(|instance| &instance.point);
    let selectors: BTreeSet<String> = points.map(|(axis, label)| format!("{axis}={label}")).collect();
    matching(typed, selectors)
}

pub(super) fn reports(typed: &OsStr) -> Vec<CompletionCandidate> {
    let Some((experiment, _)) = experiment() else { return Vec::new() };
    matching(typed, experiment.reports.into_iter().map(|report| report.name))
}

pub(super) fn pins(typed: &OsStr) -> Vec<CompletionCandidate> {
    let pins = store().and_then(|store| store.pins().ok()).unwrap_or_default();
    matching(typed, pins.into_iter().map(|pin| pin.name))
}

/// The runs of the store, the latest first.
pub(super) fn runs(typed: &OsStr) -> Vec<CompletionCandidate> {
    let runs = store().and_then(|store| history::runs(&store).ok()).unwrap_or_default();
    matching(typed, ["latest".to_string(), "latest~1".to_string()].into_iter().chain(runs.into_iter().rev()))
}

pub(super) fn output_types(typed: &OsStr) -> Vec<CompletionCandidate> {
    matching(typed, ArtifactKind::ALL.map(ArtifactKind::name))
}
