//! Runs that are over or under way, read from their folders: what they do now, and how two of them differ. Runs nothing.

use std::collections::BTreeMap;
use std::io::BufRead;
use std::path::Path;

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

use super::difference::differences;
use super::dirty::DirtyReason;
use super::journal::{Happening, What};
use super::run::ALIVE;
use ablate_core::base::diagnostic::nearest;
use ablate_core::base::{Hash, files};
use ablate_store::{Lock, Store};

/// The part of a run's record that is read back.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct PastRun {
    pub run: String,
    pub experiment: String,
    pub command: Vec<String>,
    pub started: String,
    pub seconds: f64,
    pub ended: bool,
    #[serde(default)]
    pub selected: usize,
    #[serde(default)]
    pub fresh: usize,
    #[serde(default, skip_serializing)]
    pub instances: Vec<PastInstance>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct PastInstance {
    pub name: String,
    pub outcome: String,
    pub fingerprint: Option<Hash>,
}

/// What a run is doing, or did last.
#[derive(Clone, Debug, Serialize)]
pub struct Status {
    #[serde(flatten)]
    pub run: PastRun,
    pub state: RunState,
    /// Seconds from its beginning to the last thing that happened.
    pub elapsed: f64,
    /// Outcomes and how many instances had them; those that the plan found fresh included.
    pub outcomes: BTreeMap<String, usize>,
    pub running: Vec<Working>,
    /// Instances that wait for another run.
    pub waiting: Vec<Waiting>,
    /// Names of the instances that failed.
    pub failed: Vec<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum RunState {
    Running,
    Ended,
    /// It has not ended, and nobody works on it any more.
    Killed,
}

/// An instance that was running when last heard of.
#[derive(Clone, Debug, Serialize)]
pub struct Working {
    pub instance: String,
    /// Seconds since it began, as of the last thing that happened.
    pub seconds: f64,
    /// Done, of how many, of what.
    pub progress: Option<(u64, u64, String)>,
    pub loss: Option<f64>,
}

/// An instance that waited for another run when last heard of.
#[derive(Clone, Debug, Serialize)]
pub struct Waiting {
    pub instance: String,
    pub why: String,
}

/// Names of the runs of a store, the latest last.
pub fn runs(store: &Store) -> Result<Vec<String>> {
    files::list_names(&store.runs_path())
}

/// The run that a name means: `latest`, `latest~1` for the one before it, or the beginning of a name.
pub fn find(store: &Store, name: &str) -> Result<String> {
    let runs = runs(store)?;
    if runs.is_empty() {
        bail!("the store `{}` has no run", store.root().display());
    }
    if let Some(rest) = name.strip_prefix("latest") {
        let back = match rest.strip_prefix('~') {
            Some(number) => number.parse().with_context(|| format!("`{name}` is not `latest~` and a number"))?,
            None if rest.is_empty() => 0,
            None => bail!("`{name}` is not `latest`, `latest~1` or the name of a run"),
        };
        return match runs.iter().rev().nth(back) {
            Some(run) => Ok(run.clone()),
            None => bail!("there are {} runs: `{name}` is before the first", runs.len()),
        };
    }
    let found: Vec<&String> = runs.iter().filter(|run| run.contains(name)).collect();
    match found.as_slice() {
        [one] => Ok((*one).clone()),
        [] => match nearest(name, runs.iter().map(String::as_str)) {
            Some(near) => bail!("there is no run `{name}`\nhelp: a run of a similar name exists: `{near}`"),
            None => bail!("there is no run `{name}`\nhelp: the latest is `{}`", runs[runs.len() - 1]),
        },
        many => bail!("`{name}` is part of the names of {} runs: say more of it", many.len()),
    }
}

/// A run's record.
pub fn read(store: &Store, run: &str) -> Result<PastRun> {
    files::read_json(&store.runs_path().join(run).join("run.json"))
}

/// What a run does now, or how it ended.
pub fn status(store: &Store, run: &str) -> Result<Status> {
    let folder = store.runs_path().join(run);
    // Asked first: what ends after that is told as ended by its record.
    let lives = is_alive(&folder);
    let run = read(store, run)?;
    let happened = happenings(&folder);
    let elapsed = if run.ended { run.seconds } else { happened.last().map_or(0.0, |last| last.at) };
    let mut outcomes: BTreeMap<String, usize> = BTreeMap::new();
    if run.fresh > 0 {
        outcomes.insert("fresh".to_string(), run.fresh);
    }
    let mut running: BTreeMap<String, (f64, Working)> = BTreeMap::new();
    let mut failed = Vec::new();
    let mut waiting: BTreeMap<String, String> = BTreeMap::new();
    for Happening { at, instance, what } in happened {
        match what {
            What::Waits { why } => drop(waiting.insert(instance, why)),
            What::Started => {
                waiting.remove(&instance);
                let working = Working { instance: instance.clone(), seconds: 0.0, progress: None, loss: None };
                running.insert(instance, (at, working));
            }
            What::Progress { done, total, unit, loss } => {
                if let Some((_, working)) = running.get_mut(&instance) {
                    working.progress = Some((done, total, unit));
                    working.loss = loss;
                }
            }
            What::Finished { outcome, .. } => {
                waiting.remove(&instance);
                running.remove(&instance);
                if outcome == "failed" {
                    failed.push(instance);
                }
                *outcomes.entry(outcome).or_default() += 1;
            }
        }
    }
    let state = match (run.ended, lives) {
        (true, _) => RunState::Ended,
        (false, true) => RunState::Running,
        (false, false) => RunState::Killed,
    };
    let working = |(at, working): (f64, Working)| Working { seconds: (elapsed - at).max(0.0), ..working };
    let running = running.into_values().map(working).collect();
    let waiting = waiting.into_iter().map(|(instance, why)| Waiting { instance, why }).collect();
    Ok(Status { run, state, elapsed, outcomes, running, waiting, failed })
}

fn is_alive(folder: &Path) -> bool {
    let lock = folder.join(ALIVE);
    // A lock that can be taken is nobody's; one that cannot be looked at proves nothing.
    lock.exists() && Lock::try_take(&lock).is_ok_and(|lock| lock.is_none())
}

fn happenings(folder: &Path) -> Vec<Happening> {
    let Ok(file) = files::open(&folder.join("events")) else { return Vec::new() };
    // The last line may be half written.
    file.lines().map_while(Result::ok).filter_map(|line| serde_json::from_str(&line).ok()).collect()
}

/// How an instance differs between two runs.
#[derive(Clone, Debug, Serialize)]
pub struct Difference {
    pub instance: String,
    /// Outcomes in the two runs; `None` where the run does not have the instance.
    pub outcomes: (Option<String>, Option<String>),
    /// From the first run to the second: what identifies the instance.
    pub reasons: Vec<DirtyReason>,
    /// Outputs whose content is not the same.
    pub outputs: Vec<String>,
}

/// The instances that are not the same in two runs, in the order of the second, then those that only the first has.
pub fn diff(store: &Store, first: &PastRun, second: &PastRun) -> Vec<Difference> {
    let named = |run: &PastRun| -> BTreeMap<String, PastInstance> {
        run.instances.iter().map(|instance| (instance.name.clone(), instance.clone())).collect()
    };
    let (before, after) = (named(first), named(second));
    let gone = first.instances.iter().filter(|instance| !after.contains_key(&instance.name));
    let names = second.instances.iter().chain(gone).map(|instance| &instance.name);
    names.filter_map(|name| difference(store, name, before.get(name), after.get(name))).collect()
}

fn difference(
    store: &Store,
    name: &str,
    before: Option<&PastInstance>,
    after: Option<&PastInstance>,
) -> Option<Difference> {
    let print = |instance: Option<&PastInstance>| instance.and_then(|instance| instance.fingerprint);
    let outcome = |instance: Option<&PastInstance>| instance.map(|instance| instance.outcome.clone());
    let done = |outcome: &Option<String>| outcome.as_deref().is_some_and(|word| word == "ran" || word == "fresh");
    let outcomes = (outcome(before), outcome(after));
    let same = print(before) == print(after) && done(&outcomes.0) == done(&outcomes.1);
    if same && before.is_some() == after.is_some() {
        return None;
    }
    let record = |instance| print(instance).and_then(|fingerprint| store.record(fingerprint));
    let (old, new) = (record(before), record(after));
    let (mut reasons, mut outputs) = (Vec::new(), Vec::new());
    if let (Some(old), Some(new)) = (&old, &new) {
        reasons = differences(&old.manifest, &new.manifest);
        let content = |record: &ablate_store::StageRecord, name: &str| record.outputs.get(name).map(|found| found.hash);
        let all: std::collections::BTreeSet<&String> = old.outputs.keys().chain(new.outputs.keys()).collect();
        outputs.extend(all.into_iter().filter(|name| content(old, name) != content(new, name)).cloned());
    }
    Some(Difference { instance: name.to_string(), outcomes, reasons, outputs })
}
