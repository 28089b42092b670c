//! The files in the folder of a run: `run.json` (the report), `events` (one JSON line per event), `alive` (a lock that
//! the run holds) and `logs/`.

use std::io::BufRead;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use ablate_core::base::{RequestProgress, files};
use ablate_store::{Lock, file_name};

/// One line of `events`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct RunEvent {
    /// Seconds since the start of the run.
    #[serde(rename = "at")]
    pub(super) seconds: f64,
    pub(super) instance: String,
    #[serde(flatten)]
    pub(super) kind: EventKind,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "what")]
pub(super) enum EventKind {
    /// The stage starts.
    Started,
    /// Another run holds a resource that the instance needs.
    Waits { why: String },
    /// The running stage reports its work done.
    Progress {
        done: u64,
        total: u64,
        unit: String,
        loss: Option<f64>,
        /// The requests to an endpoint so far.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        requests: Option<RequestProgress>,
    },
    /// The outcome in one word: `ran`, `fresh`, `failed`, `skipped`, `interrupted`, `detached`.
    Finished {
        outcome: String,
        seconds: f64,
        /// What a detached instance waits for.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        waits_for: Option<String>,
    },
}

pub(super) fn events_path(folder: &Path) -> PathBuf {
    folder.join("events")
}

pub(super) fn report_path(folder: &Path) -> PathBuf {
    folder.join("run.json")
}

pub(super) fn log_path(folder: &Path, instance: &str) -> PathBuf {
    folder.join("logs").join(format!("{}.log", file_name(instance)))
}

/// The lock that a run holds while it is alive.
pub(super) fn alive_path(folder: &Path) -> PathBuf {
    folder.join("alive")
}

/// Whether a process still holds the lock of the run. A lock that cannot be opened counts as free.
pub(super) fn is_alive(folder: &Path) -> bool {
    let lock = alive_path(folder);
    lock.exists() && Lock::try_take(&lock).is_ok_and(|lock| lock.is_none())
}

pub(super) fn read_events(folder: &Path) -> Vec<RunEvent> {
    let Ok(file) = files::open(&events_path(folder)) else { return Vec::new() };
    // The last line may be incomplete.
    file.lines().map_while(Result::ok).filter_map(|line| serde_json::from_str(&line).ok()).collect()
}
