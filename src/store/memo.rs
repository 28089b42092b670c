//! The memo of file hashes: a file whose size, times, inode and device have not changed is not read again.

use std::collections::BTreeMap;
use std::fs::{File, Metadata};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use rustix::fs::AtFlags;
use serde::{Deserialize, Serialize};

use super::memo_index::{Entry, MemoIndex};
use ablate_core::base::{Hash, files};

/// The coarsest time resolution of supported file systems (FAT: two seconds).
const TICK_NANOSECONDS: i128 = 2_000_000_000;

/// The metadata of a file at the time it was hashed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stamp {
    pub(super) size: u64,
    modified: i128,
    /// Time of the last change of content or metadata. Programs cannot set it back.
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

    /// Whether the file has this size and modification time.
    pub(super) fn matches(&self, size: u64, modified: SystemTime) -> bool {
        let since = modified.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        self.size == size && self.modified == since.as_nanos() as i128
    }

    /// Whether every edit from `now` on changes the stamp.
    pub(super) fn is_settled(&self, now: i128) -> bool {
        self.latest() + TICK_NANOSECONDS < now
    }

    pub(super) fn latest(&self) -> i128 {
        self.modified.max(self.changed)
    }

    fn entry(&self, hash: Hash) -> Entry {
        let mut entry = [0; size_of::<Entry>()];
        entry[..8].copy_from_slice(&self.size.to_le_bytes());
        // 64 bits of nanoseconds wrap around after 584 years.
        entry[8..16].copy_from_slice(&(self.modified as u64).to_le_bytes());
        entry[16..24].copy_from_slice(&(self.changed as u64).to_le_bytes());
        entry[24..32].copy_from_slice(&self.inode.to_le_bytes());
        entry[32..40].copy_from_slice(&self.device.to_le_bytes());
        entry[40..].copy_from_slice(hash.bytes());
        entry
    }

    /// The hash of an entry, if the entry has this stamp.
    pub(super) fn hash_in(&self, entry: &Entry) -> Option<Hash> {
        let hash = Hash::from_bytes(*entry.last_chunk()?);
        (self.entry(hash) == *entry).then_some(hash)
    }
}

/// An open folder, for many metadata queries of files in it.
#[derive(Debug)]
pub struct FolderHandle(File);

impl FolderHandle {
    pub fn open(path: &Path) -> std::io::Result<FolderHandle> {
        File::open(path).map(FolderHandle)
    }

    /// The stamp of a file in the folder. Follows links. `None` if the file does not exist.
    pub fn stat(&self, name: &str) -> Option<Stamp> {
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

/// Hashes by path: those on disk, read at the first query, and those added since.
#[derive(Debug)]
pub(super) struct Memo {
    file: PathBuf,
    on_disk: Option<Arc<MemoIndex>>,
    added: BTreeMap<String, Entry>,
}

impl Memo {
    pub(super) fn new(file: PathBuf) -> Memo {
        Memo { file, on_disk: None, added: BTreeMap::new() }
    }

    /// The hash of a file with the same stamp, added since the memo's file was read.
    pub(super) fn added(&self, key: &str, stamp: Stamp) -> Option<Hash> {
        self.added.get(key).and_then(|entry| stamp.hash_in(entry))
    }

    /// Adds the hash of a file whose stamp was settled before the file was read.
    pub(super) fn put(&mut self, key: String, stamp: Stamp, hash: Hash) {
        let entry = stamp.entry(hash);
        if self.on_disk().get(&key) != Some(&entry) {
            self.added.insert(key, entry);
        }
    }

    /// Removes all entries, also on disk. Entries that other processes write later stay.
    pub(super) fn clear(&mut self) {
        files::remove_file(&self.file).ok();
        self.on_disk = Some(Arc::default());
        self.added.clear();
    }

    /// Removes the entries that `keep` rejects, also on disk.
    pub(super) fn retain(&mut self, keep: impl FnMut(&str) -> bool) {
        let kept = self.merged(keep);
        files::write_private_unsynced(&self.file, kept.bytes()).ok();
        self.on_disk = Some(Arc::new(kept));
        self.added.clear();
    }

    /// Merges the new entries into the file, which other runs may have changed meanwhile. If the store is not
    /// writable, every invocation reads the files again.
    pub(super) fn save(&mut self) {
        if self.added.is_empty() {
            return;
        }
        let merged = self.merged(|_| true);
        if files::write_private_unsynced(&self.file, merged.bytes()).is_ok() {
            self.on_disk = Some(Arc::new(merged));
            self.added.clear();
        }
    }

    fn merged(&self, mut keep: impl FnMut(&str) -> bool) -> MemoIndex {
        let mut entries: BTreeMap<String, Entry> = MemoIndex::read(&self.file).iter().collect();
        entries.extend(self.added.clone());
        entries.retain(|key, _| keep(key));
        MemoIndex::new(entries.iter().map(|(key, entry)| (key.as_str(), entry)))
    }

    /// The entries on disk, for queries without a lock.
    pub(super) fn on_disk(&mut self) -> &Arc<MemoIndex> {
        let file = &self.file;
        self.on_disk.get_or_insert_with(|| Arc::new(MemoIndex::read(file)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: i128 = 1_000_000_000;

    #[test]
    fn settled_needs_both_times_older_than_tick() {
        let stamp = Stamp { size: 3, modified: 5 * SECOND, changed: 4 * SECOND, inode: 7, device: 8 };
        for stamp in [stamp, Stamp { modified: 4 * SECOND, changed: 5 * SECOND, ..stamp }] {
            assert!(!stamp.is_settled(4 * SECOND), "from the future");
            assert!(!stamp.is_settled(7 * SECOND), "within the tick");
            assert!(stamp.is_settled(7 * SECOND + 1));
        }
    }

    #[test]
    fn concurrent_runs_merge_their_entries() {
        let folder = tempfile::tempdir().unwrap();
        let memo = || Memo::new(folder.path().join("memo"));
        let stamp = Stamp { size: 3, modified: 5, changed: 6, inode: 7, device: 8 };
        let has_entry = |memo: &mut Memo, key: &str, stamp: Stamp| {
            memo.on_disk().get(key).and_then(|entry| stamp.hash_in(entry)) == Some(Hash::of_bytes(key.as_bytes()))
        };
        let (mut one, mut other) = (memo(), memo());
        one.put("one".into(), stamp, Hash::of_bytes(b"one"));
        other.put("the other".into(), stamp, Hash::of_bytes(b"the other"));
        one.save();
        other.save();
        assert!(has_entry(&mut memo(), "one", stamp) && has_entry(&mut memo(), "the other", stamp));
        for wrong in [
            Stamp { size: 4, ..stamp },
            Stamp { modified: 4, ..stamp },
            Stamp { changed: 4, ..stamp },
            Stamp { inode: 4, ..stamp },
            Stamp { device: 4, ..stamp },
        ] {
            assert!(!has_entry(&mut memo(), "one", wrong));
        }
        // An entry that one run removed does not come back from a run that read it before.
        let mut late = memo();
        assert!(has_entry(&mut late, "one", stamp));
        one.clear();
        late.put("late".into(), stamp, Hash::of_bytes(b"late"));
        late.save();
        one.put("two".into(), stamp, Hash::of_bytes(b"two"));
        one.save();
        let kept = |memo: &mut Memo| memo.on_disk().iter().map(|(key, _)| key).collect::<Vec<_>>();
        assert_eq!(kept(&mut memo()), ["late", "two"]);
        one.retain(|key| key != "late");
        assert_eq!(kept(&mut one), ["two"]);
        assert_eq!(kept(&mut memo()), ["two"]);
    }
}
