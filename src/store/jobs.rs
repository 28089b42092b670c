//! The jobs of a cluster's queue, by what they run: a log next to the folders of their submissions.

use std::collections::BTreeSet;
use std::path::PathBuf;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use super::{Lock, Store};
use ablate_core::base::Hash;

/// The last job that was submitted for a fingerprint, or for an instance whose fingerprint was not known.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobNote {
    /// The name of the submission, which is also the job's name in the queue.
    pub name: String,
    /// The job's index in the submission.
    pub index: usize,
    /// The queue's id of the job; `None` if the queue did not answer, or has not answered yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// The name of the instance, for people.
    pub instance: String,
    /// The run that submitted it.
    pub run: String,
    /// Time of the submission in seconds since 1970.
    pub submitted: i64,
    /// How many jobs before it ended without a result.
    #[serde(default)]
    pub resumes: u32,
    /// Whether its end was seen, so that no run follows it any more.
    #[serde(default)]
    pub ended: bool,
}

impl Store {
    /// The folder of all submissions. Each has a folder of its name in it.
    pub fn jobs_path(&self) -> PathBuf {
        self.root().join("jobs")
    }

    /// The last job of a key.
    pub fn job(&self, key: Hash) -> Option<JobNote> {
        serde_json::from_str(&self.jobs.get(key)?).ok()
    }

    /// Notes jobs. They survive a power cut after this returns.
    pub fn note_jobs(&self, notes: &[(Hash, JobNote)]) -> Result<()> {
        let lines = notes.iter().map(|(key, note)| Ok((*key, serde_json::to_string(note)?)));
        let lines: Vec<_> = lines.collect::<Result<_>>().context("BUG: a job is plain data")?;
        if lines.is_empty() { Ok(()) } else { self.jobs.append(&lines, true) }
    }

    /// The last job of every key, in the order of submission.
    pub fn all_jobs(&self) -> Result<Vec<(Hash, JobNote)>> {
        let entries = self.jobs.scan()?.entries.into_iter();
        Ok(entries.filter_map(|(key, text)| Some((key, serde_json::from_str(&text).ok()?))).collect())
    }

    /// Keeps only the notes of these submissions.
    pub(super) fn keep_jobs(&self, names: &BTreeSet<String>) -> Result<()> {
        let is_kept = |text: &str| serde_json::from_str::<JobNote>(text).is_ok_and(|note| names.contains(&note.name));
        self.jobs.rewrite(&|_, text| is_kept(text))
    }

    /// Takes the lock that is held while jobs are looked up and submitted, so that two runs do not submit the same work.
    pub fn lock_submission(&self) -> Result<Lock> {
        Lock::take(&self.root().join("locks/submission"))
    }
}
