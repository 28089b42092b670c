//! Interrupted work: what stages that did not end have paid for, and go on from. Knows no kind.

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use anyhow::Result;
use serde::{Deserialize, Serialize};

use super::{StageRecord, Store};
use ablate_core::base::{Hash, files};

/// What a stage has done and spent, over all of its attempts.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Spent {
    pub instance: String,
    pub kind: String,
    /// Work done, out of `total` `unit`s.
    pub done: u64,
    pub total: u64,
    pub unit: String,
    pub seconds: f64,
}

/// A stage that did not end and left something to go on from.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Interrupted {
    pub fingerprint: Hash,
    pub path: PathBuf,
    pub bytes: u64,
    /// Seconds since the last write.
    pub age: u64,
    /// `None` where the stage was killed before it said anything.
    #[serde(flatten)]
    pub spent: Option<Spent>,
}

impl Store {
    /// Notes what an unfinished stage has spent. Lost where it cannot be written: it informs people only.
    pub fn note_spent(&self, fingerprint: Hash, spent: &Spent) {
        if let Ok(text) = serde_json::to_vec(spent) {
            files::write_soft(&self.spent_path(fingerprint), &text).ok();
        }
    }

    /// What the earlier attempts of an unfinished stage have spent.
    pub fn spent(&self, fingerprint: Hash) -> Option<Spent> {
        // One that was killed early has only said which it is.
        let paths = [self.spent_path(fingerprint), self.work_path(fingerprint).join("job.json")];
        paths.iter().filter(|path| path.is_file()).find_map(|path| files::read_json(path).ok())
    }

    /// Every stage that left something to go on from, the oldest first.
    pub fn interrupted(&self) -> Result<Vec<Interrupted>> {
        let now = SystemTime::from(jiff::Timestamp::now());
        let mut found = Vec::new();
        for fingerprint in self.unfinished()? {
            let path = self.work_path(fingerprint);
            let Some((bytes, written)) = weigh(&path.join("scratch")) else { continue };
            // A run that was killed between its commit and the removal of this folder has paid for nothing twice.
            if self.record(fingerprint).is_some_and(|record| written <= ended(&record)) {
                continue;
            }
            let age = now.duration_since(written).unwrap_or_default().as_secs();
            found.push(Interrupted { fingerprint, path, bytes, age, spent: self.spent(fingerprint) });
        }
        found.sort_by_key(|one| std::cmp::Reverse(one.age));
        Ok(found)
    }

    /// Fingerprints that have a work folder: running now, or interrupted and resumable.
    pub fn unfinished(&self) -> Result<Vec<Hash>> {
        Ok(files::list_if_there(&self.root().join("work"))?.iter().filter_map(|name| name.parse().ok()).collect())
    }

    fn spent_path(&self, fingerprint: Hash) -> PathBuf {
        self.work_path(fingerprint).join("spent.json")
    }
}

/// Bytes of the files in a folder and when one of them was written last; `None` where there are none.
fn weigh(folder: &Path) -> Option<(u64, SystemTime)> {
    let mut found: Option<(u64, SystemTime)> = None;
    for (_, path) in files::walk(folder).ok()? {
        let Ok(metadata) = path.symlink_metadata() else { continue };
        let written = metadata.modified().unwrap_or(SystemTime::UNIX_EPOCH);
        let (bytes, latest) = found.unwrap_or((0, written));
        found = Some((bytes + metadata.len(), latest.max(written)));
    }
    found
}

/// When a committed stage ended. A second is added for coarse clocks of file systems.
fn ended(record: &StageRecord) -> SystemTime {
    let started = record.provenance.started.parse::<jiff::Timestamp>().unwrap_or(jiff::Timestamp::MAX);
    let lasted = Duration::try_from_secs_f64(record.provenance.seconds + 1.0).unwrap_or(Duration::MAX);
    SystemTime::from(started).checked_add(lasted).unwrap_or_else(|| SystemTime::from(jiff::Timestamp::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_counts_as_interrupted_when_there_is_something_to_go_on_from() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(&folder.path().join("cache")).unwrap();
        let [paid, empty] = ["paid", "empty"].map(|name| Hash::of_bytes(name.as_bytes()));
        files::write_soft(&store.work_path(paid).join("scratch/replies.jsonl"), b"12345").unwrap();
        files::write_soft(&store.work_path(paid).join("out/half"), b"1").unwrap();
        files::create_dir(&store.work_path(empty).join("scratch")).unwrap();
        files::write_soft(&store.work_path(empty).join("job.json"), b"{}").unwrap();
        let spent = Spent { instance: "ask".into(), done: 3, total: 6, unit: "requests".into(), ..Spent::default() };
        store.note_spent(paid, &spent);
        let found = store.interrupted().unwrap();
        assert_eq!(found.len(), 1);
        assert_eq!((found[0].fingerprint, found[0].bytes, found[0].spent.as_ref()), (paid, 5, Some(&spent)));
        assert_eq!(store.unfinished().unwrap().len(), 2);
    }
}
