//! The files in the folder of a run: `run.json` (the report), `instances` (the names of those that may run), `events` (one
//! JSON line per event), `stop` (what is to be stopped), `alive` (a lock that the run holds) and `logs/`.

use std::io::{Read, Seek, SeekFrom};
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
    /// The outcome in one word: `ran`, `fresh`, `fetched`, `failed`, `skipped`, `interrupted`, `detached`.
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

/// The requests to stop instances of the run, see [`super::stop`].
pub(super) fn stop_path(folder: &Path) -> PathBuf {
    folder.join("stop")
}

/// The names of the instances that the run may execute, as a JSON list.
pub(super) fn instances_path(folder: &Path) -> PathBuf {
    folder.join("instances")
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

/// Reads the events of a run as they arrive.
#[derive(Debug)]
pub(super) struct EventReader {
    path: PathBuf,
    /// Number of bytes that were read.
    read: u64,
}

impl EventReader {
    pub(super) fn new(folder: &Path) -> EventReader {
        EventReader { path: events_path(folder), read: 0 }
    }

    /// The events since the last call. A line that is not complete is read by a later call.
    pub(super) fn read(&mut self) -> Vec<RunEvent> {
        let lines = new_lines(&self.path, &mut self.read);
        lines.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
    }
}

/// The complete lines of a growing file after the first `read` bytes, and moves `read` behind them.
pub(super) fn new_lines(path: &Path, read: &mut u64) -> String {
    if std::fs::metadata(path).map_or(0, |file| file.len()) <= *read {
        return String::new();
    }
    let mut text = Vec::new();
    let new = files::open_file(path).and_then(|mut file| {
        file.seek(SeekFrom::Start(*read))?;
        Ok(file.read_to_end(&mut text)?)
    });
    if new.is_err() {
        return String::new();
    }
    text.truncate(text.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1));
    *read += text.len() as u64;
    String::from_utf8_lossy(&text).into_owned()
}
