//! The memo of file hashes: a file whose size, times, inode and device are as remembered is not read again.
//! Knows nothing of what the files are, and reads none.

use std::collections::BTreeMap;
use std::fs::{File, Metadata};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use rustix::fs::AtFlags;

use serde::{Deserialize, Serialize};

use super::known::{Entry, Known};
use ablate_core::base::{Hash, files};

/// The coarsest clock of a file system that we expect (FAT has two seconds).
const TICK_NANOSECONDS: i128 = 2_000_000_000;

/// What a file looked like when it was hashed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stamp {
    pub(super) size: u64,
    modified: i128,
    /// Time of the last change of anything, which no program can set back.
    changed: i128,
    inode: u64,
    device: u64,
}

impl Stamp {
    pub(super) fn of(metadata: &Metadata) -> Stamp {
        let nanoseconds = |seconds: i64, rest: i64| i128::from(seconds) * 1_000_000_000 + i128::from(rest);
        Stamp {
            size: metadata.size(),
            modified: nanoseconds(metadata.mtime(), metadata.mtime_nsec()),
            changed: nanoseconds(metadata.ctime(), metadata.ctime_nsec()),
            inode: metadata.ino(),
            device: metadata.dev(),
        }
    }

    /// Whether a file has this size and was last modified at this time.
    pub(super) fn is_of(&self, size: u64, modified: SystemTime) -> bool {
        let since = modified.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        self.size == size && self.modified == since.as_nanos() as i128
    }

    /// Whether an edit from `now` on is sure to give another stamp.
    pub(super) fn settled(&self, now: i128) -> bool {
        self.latest() + TICK_NANOSECONDS < now
    }

    pub(super) fn latest(&self) -> i128 {
        self.modified.max(self.changed)
    }

    fn entry(&self, hash: Hash) -> Entry {
        let mut entry = [0; size_of::<Entry>()];
        entry[..8].copy_from_slice(&self.size.to_le_bytes());
        // 64 bits of nanoseconds come round after 584 years.
        entry[8..16].copy_from_slice(&(self.modified as u64).to_le_bytes());
        entry[16..24].copy_from_slice(&(self.changed as u64).to_le_bytes());
        entry[24..32].copy_from_slice(&self.inode.to_le_bytes());
        entry[32..40].copy_from_slice(&self.device.to_le_bytes());
        entry[40..].copy_from_slice(hash.bytes());
        entry
    }

    /// The hash of an entry, if it is of this stamp.
    pub(super) fn hash_in(&self, entry: &Entry) -> Option<Hash> {
        let hash = Hash::from_bytes(*entry.last_chunk()?);
        (self.entry(hash) == *entry).then_some(hash)
    }
}

/// An open folder, for many looks at what lies in it.
#[derive(Debug)]
pub struct Folder(File);

impl Folder {
    pub fn open(path: &Path) -> std::io::Result<Folder> {
        File::open(path).map(Folder)
    }

    /// What a file in the folder looks like, links followed; `None` where nothing is.
    pub fn look(&self, name: &str) -> Option<Stamp> {
        let found = rustix::fs::statat(&self.0, name, AtFlags::empty()).ok()?;
        let nanoseconds = |seconds: i64, rest: u64| i128::from(seconds) * 1_000_000_000 + i128::from(rest);
        Some(Stamp {
            size: found.st_size as u64,
            modified: nanoseconds(found.st_mtime, found.st_mtime_nsec as u64),
            changed: nanoseconds(found.st_ctime, found.st_ctime_nsec as u64),
            inode: found.st_ino,
            device: found.st_dev,
        })
    }
}

/// Hashes by path: those on disk, read at the first question, and those that were learned since.
#[derive(Debug)]
pub(super) struct Memo {
    file: PathBuf,
    known: Option<Arc<Known>>,
    learned: BTreeMap<String, Entry>,
}

impl Memo {
    pub(super) fn new(file: PathBuf) -> Memo {
        Memo { file, known: None, learned: BTreeMap::new() }
    }

    /// The hash of a file that still looks the same, learned since the file was read.
    pub(super) fn learned(&self, key: &str, stamp: Stamp) -> Option<Hash> {
        self.learned.get(key).and_then(|entry| stamp.hash_in(entry))
    }

    /// Remembers the hash of a file that was settled before it was read.
    pub(super) fn put(&mut self, key: String, stamp: Stamp, hash: Hash) {
        let entry = stamp.entry(hash);
        if self.known().get(&key) != Some(&entry) {
            self.learned.insert(key, entry);
        }
    }

    /// Forgets everything, on disk too: what a later `save` finds there was learned by others since.
    pub(super) fn forget(&mut self) {
        files::remove_file(&self.file).ok();
        self.known = Some(Arc::default());
        self.learned.clear();
    }

    /// Drops the entries that `keep` refuses, on disk too.
    pub(super) fn retain(&mut self, keep: impl FnMut(&str) -> bool) {
        let kept = self.merged(keep);
        files::write_private_soft(&self.file, kept.bytes()).ok();
        self.known = Some(Arc::new(kept));
        self.learned.clear();
    }

    /// Adds what was learned to what is on disk by now: other runs have been learning too. A store that cannot be
    /// written costs every invocation a reading of the files.
    pub(super) fn save(&mut self) {
        if self.learned.is_empty() {
            return;
        }
        let merged = self.merged(|_| true);
        if files::write_private_soft(&self.file, merged.bytes()).is_ok() {
            self.known = Some(Arc::new(merged));
            self.learned.clear();
        }
    }

    fn merged(&self, mut keep: impl FnMut(&str) -> bool) -> Known {
        let mut entries: BTreeMap<String, Entry> = Known::read(&self.file).iter().collect();
        entries.extend(self.learned.clone());
        entries.retain(|key, _| keep(key));
        Known::new(entries.iter().map(|(key, entry)| (key.as_str(), entry)))
    }

    /// What was on disk, to be asked without a lock.
    pub(super) fn known(&mut self) -> &Arc<Known> {
        let file = &self.file;
        self.known.get_or_insert_with(|| Arc::new(Known::read(file)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: i128 = 1_000_000_000;

    #[test]
    fn both_times_of_a_stamp_must_be_older_than_the_tick() {
        let stamp = Stamp { size: 3, modified: 5 * SECOND, changed: 4 * SECOND, inode: 7, device: 8 };
        for stamp in [stamp, Stamp { modified: 4 * SECOND, changed: 5 * SECOND, ..stamp }] {
            assert!(!stamp.settled(4 * SECOND), "from the future");
            assert!(!stamp.settled(7 * SECOND), "within the tick");
            assert!(stamp.settled(7 * SECOND + 1));
        }
    }

    #[test]
    fn runs_side_by_side_keep_what_each_of_them_learned() {
        let folder = tempfile::tempdir().unwrap();
        let memo = || Memo::new(folder.path().join("memo"));
        let stamp = Stamp { size: 3, modified: 5, changed: 6, inode: 7, device: 8 };
        let knows = |memo: &mut Memo, key: &str, stamp: Stamp| {
            memo.known().get(key).and_then(|entry| stamp.hash_in(entry)) == Some(Hash::of_bytes(key.as_bytes()))
        };
        let (mut one, mut other) = (memo(), memo());
        one.put("one".into(), stamp, Hash::of_bytes(b"one"));
        other.put("the other".into(), stamp, Hash::of_bytes(b"the other"));
        one.save();
        other.save();
        assert!(knows(&mut memo(), "one", stamp) && knows(&mut memo(), "the other", stamp));
        for wrong in [
            Stamp { size: 4, ..stamp },
            Stamp { modified: 4, ..stamp },
            Stamp { changed: 4, ..stamp },
            Stamp { inode: 4, ..stamp },
            Stamp { device: 4, ..stamp },
        ] {
            assert!(!knows(&mut memo(), "one", wrong));
        }
        // What one run forgets, another that read it before does not bring back.
        let mut late = memo();
        assert!(knows(&mut late, "one", stamp));
        one.forget();
        late.put("late".into(), stamp, Hash::of_bytes(b"late"));
        late.save();
        one.put("two".into(), stamp, Hash::of_bytes(b"two"));
        one.save();
        let kept = |memo: &mut Memo| memo.known().iter().map(|(key, _)| key).collect::<Vec<_>>();
        assert_eq!(kept(&mut memo()), ["late", "two"]);
        one.retain(|key| key != "late");
        assert_eq!(kept(&mut one), ["two"]);
        assert_eq!(kept(&mut memo()), ["two"]);
    }
}
