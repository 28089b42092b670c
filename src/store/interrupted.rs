//! Interrupted stages: the work they have done and can resume.

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use anyhow::Result;
use serde::{Deserialize, Serialize};

use super::{StageRecord, Store};
use ablate_core::base::{Hash, files};

/// The work of a stage so far, over all of its attempts.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct WorkDone {
    pub instance: String,
    pub kind: String,
    /// Units done, out of `total`.
    pub done: u64,
    pub total: u64,
    pub unit: String,
    pub seconds: f64,
}

/// An unfinished stage that can resume.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct InterruptedStage {
    pub fingerprint: Hash,
    pub path: PathBuf,
    pub bytes: u64,
    /// Seconds since the last write.
    pub age: u64,
    /// `None` if the stage was killed before it reported progress.
    #[serde(flatten)]
    pub work_done: Option<WorkDone>,
}

impl Store {
    /// Stores the work done by an unfinished stage. Write errors are ignored, because the data is only displayed.
    pub fn save_work_done(&self, fingerprint: Hash, work: &WorkDone) {
        if let Ok(text) = serde_json::to_vec(work) {
            files::write_unsynced(&self.work_done_path(fingerprint), &text).ok();
        }
    }

    /// The work done by earlier attempts of an unfinished stage.
    pub fn work_done(&self, fingerprint: Hash) -> Option<WorkDone> {
        // A stage that was killed early has only a `job.json`, with its name and kind.
        let paths = [self.work_done_path(fingerprint), self.work_path(fingerprint).join("job.json")];
        paths.iter().filter(|path| path.is_file()).find_map(|path| files::read_json(path).ok())
    }

    /// Every stage that can resume, oldest first.
    pub fn interrupted(&self) -> Result<Vec<InterruptedStage>> {
        let now = SystemTime::from(jiff::Timestamp::now());
        let mut found = Vec::new();
        for fingerprint in self.unfinished()? {
            let path = self.work_path(fingerprint);
            let Some((bytes, written)) = size_and_last_write(&path.join("scratch")) else { continue };
            // A run that was killed between the commit and the removal of the work folder has nothing to resume.
            if self.record(fingerprint).is_some_and(|record| written <= ended(&record)) {
                continue;
            }
            let age = now.duration_since(written).unwrap_or_default().as_secs();
            found.push(InterruptedStage { fingerprint, path, bytes, age, work_done: self.work_done(fingerprint) });
        }
        found.sort_by_key(|one| std::cmp::Reverse(one.age));
        Ok(found)
    }

    /// Fingerprints with a work folder: running, or interrupted.
    pub fn unfinished(&self) -> Result<Vec<Hash>> {
        Ok(files::list_names(&self.root().join("work"))?.iter().filter_map(|name| name.parse().ok()).collect())
    }

    fn work_done_path(&self, fingerprint: Hash) -> PathBuf {
        self.work_path(fingerprint).join("spent.json")
    }
}

/// Total size of the files in a folder and the time of the last write; `None` if there are no files.
fn size_and_last_write(folder: &Path) -> Option<(u64, SystemTime)> {
    let mut found: Option<(u64, SystemTime)> = None;
    for (_, path) in files::walk(folder).ok()? {
        let Ok(metadata) = path.symlink_metadata() else { continue };
        let written = metadata.modified().unwrap_or(SystemTime::UNIX_EPOCH);
        let (bytes, latest) = found.unwrap_or((0, written));
        found = Some((bytes + metadata.len(), latest.max(written)));
    }
    found
}

/// The end time of a committed stage, plus one second for coarse clocks of file systems.
fn ended(record: &StageRecord) -> SystemTime {
    let started = record.provenance.started.parse::<jiff::Timestamp>().unwrap_or(jiff::Timestamp::MAX);
    let lasted = Duration::try_from_secs_f64(record.provenance.seconds + 1.0).unwrap_or(Duration::MAX);
    SystemTime::from(started).checked_add(lasted).unwrap_or_else(|| SystemTime::from(jiff::Timestamp::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::support::temp_store;

    #[test]
    fn interrupted_work_needs_saved_files() {
        let (_folder, store) = temp_store();
        let [paid, empty] = ["paid", "empty"].map(|name| Hash::of_bytes(name.as_bytes()));
        files::write_unsynced(&store.work_path(paid).join("scratch/replies.jsonl"), b"12345").unwrap();
        files::write_unsynced(&store.work_path(paid).join("out/half"), b"1").unwrap();
        files::create_dir(&store.work_path(empty).join("scratch")).unwrap();
        files::write_unsynced(&store.work_path(empty).join("job.json"), b"{}").unwrap();
        let work =
            WorkDone { instance: "ask".into(), done: 3, total: 6, unit: "requests".into(), ..WorkDone::default() };
        store.save_work_done(paid, &work);
        let found = store.interrupted().unwrap();
        assert_eq!(found.len(), 1);
        assert_eq!((found[0].fingerprint, found[0].bytes, found[0].work_done.as_ref()), (paid, 5, Some(&work)));
        assert_eq!(store.unfinished().unwrap().len(), 2);
    }
}
