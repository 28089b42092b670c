//! Reads past and running runs from their folders: a list of them for `runs`, and their state for `status`.

use std::collections::BTreeMap;
use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use serde::Serialize;

use super::follow::RunFollower;
pub use super::past_run::{PastInstance, PastRun, RunningInstance, Status, WaitingInstance, read};
use super::report::RunPhase;
use super::run_folder::{is_alive, log_path};
use super::run_number::numbers;
use ablate_core::base::diagnostic::nearest;
use ablate_core::base::files;
use ablate_store::Store;

/// One run of a list.
#[derive(Clone, Debug, Serialize)]
pub struct RunSummary {
    #[serde(flatten)]
    pub run: PastRun,
    pub state: RunPhase,
    /// Seconds from the start of the run to its end, or to its last event.
    pub elapsed: f64,
    /// Number of instances by outcome, including those that the plan found fresh.
    pub outcomes: BTreeMap<String, usize>,
}

/// Names of the runs in a store, oldest first.
pub fn runs(store: &Store) -> Result<Vec<String>> {
    files::list_names(&store.runs_path())
}

/// The shortest accepted start of a run's id. A shorter one could be a number that the user took for a position.
const MIN_ID_LENGTH: usize = 4;

/// Finds a run by `latest`, by `latest~1` for the one before it, by its number, by the start of its name, or by the start
/// of the id at the end of its name.
pub fn find(store: &Store, name: &str) -> Result<String> {
    let runs = runs(store)?;
    if runs.is_empty() {
        bail!("the store `{}` has no runs", store.root().display());
    }
    if let Some(rest) = name.strip_prefix("latest") {
        let back = match rest.strip_prefix('~') {
            Some(number) => number.parse().with_context(|| format!("`{name}` is not `latest~` and a number"))?,
            None if rest.is_empty() => 0,
            None => bail!("`{name}` is not `latest`, `latest~1` or the name of a run"),
        };
        let run = runs.iter().rev().nth(back).cloned();
        let count = if runs.len() == 1 { "is 1 run".to_string() } else { format!("are {} runs", runs.len()) };
        return run.with_context(|| format!("there {count}: `{name}` is older than the oldest"));
    }
    let has_id =
        |run: &str| name.len() >= MIN_ID_LENGTH && run.rsplit_once('-').is_some_and(|(_, id)| id.starts_with(name));
    let number = name.parse::<u64>().ok();
    let numbers = if number.is_some() { numbers(store)? } else { BTreeMap::new() };
    let has_number = |run: &String| number.is_some() && numbers.get(run).copied() == number;
    // A short number is not the start of a name: all names start with a year.
    let is_start = |run: &str| (number.is_none() || name.len() >= MIN_ID_LENGTH) && run.starts_with(name);
    let found: Vec<&String> = runs.iter().filter(|run| has_number(run) || is_start(run) || has_id(run)).collect();
    match found.as_slice() {
        [one] => Ok((*one).clone()),
        [] => match nearest(name, runs.iter().map(String::as_str)) {
            Some(near) => bail!("there is no run `{name}`\nhelp: a run of a similar name exists: `{near}`"),
            None => bail!("there is no run `{name}`\nhelp: the latest run is `{}`", runs[runs.len() - 1]),
        },
        many => bail!("{} runs match `{name}`: give more characters of the name, such as `{}`", many.len(), many[0]),
    }
}

/// The latest runs that `wanted` accepts, oldest first, at most `count`, and the names of runs that cannot be read.
pub fn list(
    store: &Store,
    count: usize,
    wanted: &dyn Fn(&RunSummary) -> bool,
) -> Result<(Vec<RunSummary>, Vec<String>)> {
    let (mut found, mut unreadable) = (Vec::new(), Vec::new());
    for name in runs(store)?.into_iter().rev() {
        if found.len() >= count {
            break;
        }
        match summarize(store, &name) {
            Ok(summary) if wanted(&summary) => found.push(summary),
            Ok(_) => {}
            Err(_) => unreadable.push(name),
        }
    }
    found.reverse();
    unreadable.reverse();
    Ok((found, unreadable))
}

fn summarize(store: &Store, name: &str) -> Result<RunSummary> {
    let run = read(store, name)?;
    if let Some(state) = run.end() {
        let mut outcomes: BTreeMap<String, usize> = BTreeMap::new();
        for instance in &run.instances {
            *outcomes.entry(instance.outcome.clone()).or_default() += 1;
        }
        return Ok(RunSummary { elapsed: run.seconds, state, outcomes, run });
    }
    let Status { run, state, elapsed, outcomes, .. } = status(store, name)?;
    Ok(RunSummary { run, state, elapsed, outcomes })
}

/// The names of the runs that are going on, oldest first.
pub fn running(store: &Store) -> Result<Vec<String>> {
    Ok(runs(store)?.into_iter().filter(|run| is_alive(&store.runs_path().join(run))).collect())
}

/// The current state of a run, from its report and its events.
pub fn status(store: &Store, run: &str) -> Result<Status> {
    Ok(RunFollower::open(store, run)?.status())
}

/// The log of an instance in a run. The file does not exist if the instance wrote nothing.
pub fn log(store: &Store, run: &str, instance: &str) -> PathBuf {
    log_path(&store.runs_path().join(run), instance)
}

#[cfg(test)]
mod tests {
    use super::*;
    use ablate_core::base::RequestProgress;
    use expect_test::expect;

    #[test]
    fn events_of_earlier_versions_are_read() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(&folder.path().join("cache")).unwrap();
        let run = store.runs_path().join("20260101T120000.001Z-abcd12");
        let report = r#"{"run": "r", "experiment": "e", "command": [], "started": "", "seconds": 0, "ended": false}"#;
        files::write_unsynced(&run.join("run.json"), report.as_bytes()).unwrap();
        let events = [
            r#"{"at": 1, "instance": "a", "what": "started"}"#,
            r#"{"at": 2, "instance": "a", "what": "progress", "done": 1, "total": 2, "unit": "rows", "loss": null}"#,
            r#"{"at": 2, "instance": "b", "what": "started"}"#,
            r#"{"at": 3, "instance": "b", "what": "progress", "done": 1, "total": 9, "unit": "requests", "loss": null,
                "requests": {"received": 1, "retries": 0, "bad": 0, "tokens": 20}}"#,
            r#"{"at": 4, "instance": "c", "what": "finished", "outcome": "ran", "seconds": 1}"#,
        ];
        let lines: String = events.iter().map(|event| event.replace('\n', " ") + "\n").collect();
        files::write_unsynced(&run.join("events"), lines.as_bytes()).unwrap();
        let status = status(&store, "20260101T120000.001Z-abcd12").unwrap();
        assert_eq!(status.outcomes, BTreeMap::from([("ran".to_string(), 1)]));
        let progress: Vec<_> =
            status.running.iter().map(|one| (one.progress.clone().unwrap().0, &one.requests)).collect();
        let requests = Some(RequestProgress { received: 1, tokens: 20, ..RequestProgress::default() });
        assert_eq!(progress, [(1, &None), (1, &requests)]);
    }

    #[test]
    fn a_run_is_found_by_the_start_of_name_or_id() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(&folder.path().join("cache")).unwrap();
        let runs = ["20260101T120000.001Z-abcd12", "20260102T120000.002Z-abcd34", "20260102T130000.003Z-120000"];
        for run in runs {
            files::create_dir(&store.runs_path().join(run)).unwrap();
        }
        let find = |name: &str| find(&store, name).map_err(|error| error.to_string());
        assert_eq!(find("20260101").as_deref(), Ok(runs[0]));
        assert_eq!(find("abcd3").as_deref(), Ok(runs[1]));
        assert_eq!(find("1200").as_deref(), Ok(runs[2]));
        assert_eq!(find("latest~2").as_deref(), Ok(runs[0]));
        assert_eq!(find("1").as_deref(), Ok(runs[0]), "its number");
        let errors = ["4", "202", "abc", "abcd", "20260102", "0000", "latest~3"].map(|name| find(name).unwrap_err());
        expect![[r#"
            there is no run `4`
            help: the latest run is `20260102T130000.003Z-120000`
            there is no run `202`
            help: the latest run is `20260102T130000.003Z-120000`
            there is no run `abc`
            help: the latest run is `20260102T130000.003Z-120000`
            2 runs match `abcd`: give more characters of the name, such as `20260101T120000.001Z-abcd12`
            2 runs match `20260102`: give more characters of the name, such as `20260102T120000.002Z-abcd34`
            there is no run `0000`
            help: the latest run is `20260102T130000.003Z-120000`
            there are 3 runs: `latest~3` is older than the oldest"#]]
        .assert_eq(&errors.join("\n"));
    }
}
