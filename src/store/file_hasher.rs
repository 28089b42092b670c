//! Hashes files through the memo.
//!
//! As in git's index, a time stamp is not trusted if the file changed shortly before it was read: a second edit
//! within the tick of the file system's clock would leave the same stamp. Such a hash is used once and not
//! remembered. A stamp in the future, which a clock that was set back leaves behind, is not trusted either.

use std::fs::{self, Metadata};
use std::io::ErrorKind;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::{Context, Result, bail};

use super::memo::{Memo, Stamp};
use super::memo_index::MemoIndex;
use ablate_core::base::hash::OnRead;
use ablate_core::base::{Hash, files, modes};

/// How often a file that changes during the read is read again.
const ATTEMPTS: usize = 3;

/// Hashes files through the memo; can be shared between threads.
pub(super) struct FileHasher<'a> {
    memo: &'a Mutex<Memo>,
    on_disk: Arc<MemoIndex>,
    on_read: OnRead<'a>,
    now: &'a (dyn Fn() -> i128 + Sync),
}

impl<'a> FileHasher<'a> {
    pub(super) fn new(memo: &'a Mutex<Memo>, on_read: OnRead<'a>) -> FileHasher<'a> {
        FileHasher {
            memo,
            on_disk: lock(memo).on_disk().clone(),
            on_read,
            now: &|| jiff::Timestamp::now().as_nanosecond(),
        }
    }

    /// The hasher with another clock.
    #[cfg(test)]
    pub(super) fn with_clock(self, now: &'a (dyn Fn() -> i128 + Sync)) -> FileHasher<'a> {
        FileHasher { now, ..self }
    }

    /// The hash and size of a file; `None` if the path does not exist.
    pub(super) fn hash(&self, key: &str, path: &Path) -> Result<Option<(Hash, u64)>> {
        let Some(metadata) = metadata_if_exists(path)? else { return Ok(None) };
        self.hash_with_metadata(key, path, &metadata).map(Some)
    }

    /// As [`FileHasher::hash`], for a file whose metadata was already read.
    pub(super) fn hash_with_metadata(&self, key: &str, path: &Path, metadata: &Metadata) -> Result<(Hash, u64)> {
        let (bytes, size) = self.hash_bytes(key, path, metadata)?;
        Ok((file_identity(bytes, modes::is_executable(metadata)), size))
    }

    /// The hash of a file's bytes, independent of its mode.
    pub(super) fn hash_bytes(&self, key: &str, path: &Path, metadata: &Metadata) -> Result<(Hash, u64)> {
        // Opening a pipe would block forever.
        if !metadata.is_file() {
            bail!("`{}` is neither a file nor a folder", path.display());
        }
        let stamp = Stamp::of(metadata);
        match self.remembered(key, stamp) {
            Some(hash) if stamp.latest() <= (self.now)() => Ok((hash, stamp.size)),
            _ => self.read(key, path),
        }
    }

    fn remembered(&self, key: &str, stamp: Stamp) -> Option<Hash> {
        let hash = self.on_disk.get(key).and_then(|entry| stamp.hash_in(entry));
        hash.or_else(|| lock(self.memo).added(key, stamp))
    }

    fn read(&self, key: &str, path: &Path) -> Result<(Hash, u64)> {
        let context = || format!("cannot read `{}`", path.display());
        let mut last = None;
        for _ in 0..ATTEMPTS {
            let now = (self.now)();
            let file = files::open_file(path)?;
            let before = Stamp::of(&file.metadata().with_context(context)?);
            let hash = match Hash::of_open_file(&file, before.size, self.on_read) {
                Err(error) if error.kind() == ErrorKind::UnexpectedEof => continue,
                hash => hash.with_context(context)?,
            };
            if Stamp::of(&file.metadata().with_context(context)?) == before {
                if before.is_settled(now) {
                    lock(self.memo).put(key.to_string(), before, hash);
                }
                return Ok((hash, before.size));
            }
            // A new hard link or a `touch` changes the stamp but not the bytes. If two reads give the same bytes, the
            // hash is used but not remembered.
            if last.replace((hash, before.size)) == Some((hash, before.size)) {
                return Ok((hash, before.size));
            }
        }
        bail!("`{}` changes while it is read\nhelp: wait until nothing writes to it", path.display())
    }
}

/// The content hash of a file: the hash of its bytes, or for an executable file a hash of that hash.
pub(super) fn file_identity(bytes: Hash, executable: bool) -> Hash {
    if executable { Hash::of_bytes(&[b"executable\n", &bytes.bytes()[..]].concat()) } else { bytes }
}

/// The hash of a file's bytes through the memo; `None` if the path does not exist.
pub(super) fn hash_file(memo: &Mutex<Memo>, key: &str, path: &Path) -> Result<Option<Hash>> {
    let Some(metadata) = metadata_if_exists(path)? else { return Ok(None) };
    Ok(Some(FileHasher::new(memo, &|_| ()).hash_bytes(key, path, &metadata)?.0))
}

/// The metadata of a path; `None` if it does not exist. Follows links.
pub(super) fn metadata_if_exists(path: &Path) -> Result<Option<Metadata>> {
    match fs::metadata(path) {
        Ok(metadata) => Ok(Some(metadata)),
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => Ok(None),
        Err(error) => Err(error).with_context(|| format!("cannot look at `{}`", path.display())),
    }
}

fn lock(memo: &Mutex<Memo>) -> MutexGuard<'_, Memo> {
    // The memo stays usable after a panic in another thread: its entries are checked against the files.
    memo.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::os::unix::fs::MetadataExt;
    use std::path::PathBuf;
    use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
    use std::time::{Duration, SystemTime, UNIX_EPOCH};

    const SECOND: i128 = 1_000_000_000;

    /// A file and a memo, a clock that is set by hand, and a count of the bytes that were read.
    struct Bench {
        folder: tempfile::TempDir,
        memo: Mutex<Memo>,
        /// Seconds by which the clock is ahead of the last change of the file.
        ahead: AtomicI64,
        read: AtomicU64,
    }

    impl Bench {
        fn new() -> Bench {
            let folder = tempfile::tempdir().unwrap();
            let memo = Mutex::new(Memo::new(folder.path().join("memo")));
            let bench = Bench { folder, memo, ahead: AtomicI64::new(100), read: AtomicU64::new(0) };
            bench.write(b"one");
            bench
        }

        fn path(&self) -> PathBuf {
            self.folder.path().join("data")
        }

        fn write(&self, bytes: &[u8]) {
            files::write_unsynced(&self.path(), bytes).unwrap();
        }

        fn set_modified(&self, time: SystemTime) {
            fs::File::open(self.path()).unwrap().set_modified(time).unwrap();
        }

        fn changed(&self) -> i128 {
            let metadata = fs::metadata(self.path()).unwrap();
            i128::from(metadata.ctime()) * SECOND + i128::from(metadata.ctime_nsec())
        }

        fn hash_while(&self, told: OnRead) -> Result<Hash> {
            let changed = self.changed();
            let now = || changed + i128::from(self.ahead.load(Ordering::Relaxed)) * SECOND;
            let count = |bytes| {
                self.read.fetch_add(bytes, Ordering::Relaxed);
                told(bytes);
            };
            Ok(FileHasher::new(&self.memo, &count).with_clock(&now).hash("data", &self.path())?.unwrap().0)
        }

        /// The hash of the file and how many bytes were read for it.
        fn hash(&self) -> (Hash, u64) {
            let hash = self.hash_while(&|_| ()).unwrap();
            (hash, self.read.swap(0, Ordering::Relaxed))
        }

        fn remembers(&self) -> bool {
            let stamp = Stamp::of(&fs::metadata(self.path()).unwrap());
            lock(&self.memo).added("data", stamp).is_some()
        }
    }

    fn of(text: &str) -> Hash {
        Hash::of_bytes(text.as_bytes())
    }

    #[test]
    fn a_settled_file_is_read_once_and_an_edited_one_again() {
        let bench = Bench::new();
        assert_eq!(bench.hash(), (of("one"), 3));
        assert_eq!(bench.hash(), (of("one"), 0));
        bench.write(b"two");
        assert_eq!(bench.hash(), (of("two"), 3));
        assert_eq!(bench.hash(), (of("two"), 0));
    }

    #[test]
    fn a_file_of_this_moment_is_read_every_time_for_it_can_change_within_the_tick() {
        let bench = Bench::new();
        bench.ahead.store(1, Ordering::Relaxed);
        assert_eq!(bench.hash(), (of("one"), 3));
        assert!(!bench.remembers());
        // The edit that no stamp would show on a file system of two seconds.
        bench.write(b"two");
        assert_eq!(bench.hash(), (of("two"), 3));
        // A stamp that was set back by hand does not hide that something happened a moment ago.
        bench.set_modified(UNIX_EPOCH + Duration::from_secs(1000));
        assert_eq!(bench.hash(), (of("two"), 3));
        assert!(!bench.remembers());
    }

    #[test]
    fn a_clock_that_was_set_back_makes_files_be_read() {
        let bench = Bench::new();
        bench.hash();
        bench.ahead.store(-10, Ordering::Relaxed);
        assert_eq!(bench.hash(), (of("one"), 3));
        assert_eq!(bench.hash(), (of("one"), 3));
        bench.ahead.store(100, Ordering::Relaxed);
        assert_eq!(bench.hash(), (of("one"), 0));
    }

    #[test]
    fn a_time_stamp_from_the_future_is_never_believed() {
        let bench = Bench::new();
        bench.set_modified(SystemTime::UNIX_EPOCH + Duration::from_secs(1 << 33));
        assert_eq!(bench.hash(), (of("one"), 3));
        assert_eq!(bench.hash(), (of("one"), 3));
        assert!(!bench.remembers());
    }

    #[test]
    fn a_file_put_in_anothers_place_is_read_although_size_and_time_are_equal() {
        let bench = Bench::new();
        let old = UNIX_EPOCH + Duration::from_secs(1000);
        bench.set_modified(old);
        bench.hash();
        let other = bench.folder.path().join("other");
        files::write_unsynced(&other, b"two").unwrap();
        fs::File::open(&other).unwrap().set_modified(old).unwrap();
        files::rename(&other, &bench.path()).unwrap();
        assert_eq!(bench.hash(), (of("two"), 3));
    }

    #[test]
    fn a_file_that_changes_while_it_is_read_is_read_again_or_an_error() {
        let bench = Bench::new();
        let append = |text: &str| files::append(&bench.path()).unwrap().write_all(text.as_bytes()).unwrap();
        let once = std::sync::Once::new();
        let hash = bench.hash_while(&|_| once.call_once(|| append(", two"))).unwrap();
        assert_eq!(hash, of("one, two"));
        lock(&bench.memo).clear();
        let error = bench.hash_while(&|_| append("!")).unwrap_err().to_string();
        let path = bench.path();
        let wanted = format!("`{}` changes while it is read\nhelp: wait until nothing writes to it", path.display());
        assert_eq!(error, wanted);
        assert!(!bench.remembers());
        // A file that becomes shorter; one that is large enough to be read in parts.
        bench.write(&vec![1; 5 << 20]);
        let cut_to = |len| files::append(&path).unwrap().set_len(len).unwrap();
        let cut = |_| cut_to(2 << 20);
        let len = AtomicU64::new(4 << 20);
        let cut_more = |_| cut_to(len.fetch_sub(1000, Ordering::Relaxed));
        assert_eq!(bench.hash_while(&cut_more).unwrap_err().to_string(), wanted);
        let once = std::sync::Once::new();
        bench.write(&vec![1; 5 << 20]);
        let hash = bench.hash_while(&|bytes| once.call_once(|| cut(bytes))).unwrap();
        assert_eq!(hash, Hash::of_bytes(&vec![1; 2 << 20]));
    }

    #[test]
    fn a_link_made_beside_a_file_while_it_is_read_changes_nothing() {
        let bench = Bench::new();
        let made = AtomicU64::new(0);
        let link = |_| {
            let count = made.fetch_add(1, Ordering::Relaxed);
            fs::hard_link(bench.path(), bench.folder.path().join(format!("link{count}"))).unwrap();
        };
        let before = bench.changed();
        assert_eq!(bench.hash_while(&link).unwrap(), of("one"));
        // A link at every reading: two readings were enough, and nothing is remembered of a file in motion.
        assert_eq!(made.load(Ordering::Relaxed), 2);
        assert!(bench.changed() >= before && !bench.remembers());
        assert_eq!(bench.read.swap(0, Ordering::Relaxed), 6);
        assert_eq!(bench.hash(), (of("one"), 3));
    }

    #[test]
    fn a_memo_that_cannot_be_written_serves_as_long_as_it_lives() {
        let mut bench = Bench::new();
        bench.memo = Mutex::new(Memo::new(bench.path().join("memo")));
        bench.hash();
        lock(&bench.memo).save();
        assert_eq!(bench.hash(), (of("one"), 0));
        lock(&bench.memo).clear();
        assert_eq!(bench.hash(), (of("one"), 3));
    }
}
