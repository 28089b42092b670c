//! Tests of hashing files through the memo, with a clock that the test sets.

use std::fs;
use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::Result;

use crate::file_hasher::FileHasher;
use crate::memo::{Memo, Stamp};
use ablate_core::base::hash::OnRead;
use ablate_core::base::{Hash, files};

const SECOND: i128 = 1_000_000_000;

/// A file, a memo, a clock set by the test, and the number of bytes read.
struct Fixture {
    folder: tempfile::TempDir,
    memo: Mutex<Memo>,
    /// Seconds between the last change of the file and the clock.
    ahead: AtomicI64,
    read: AtomicU64,
}

impl Fixture {
    fn new() -> Fixture {
        let folder = tempfile::tempdir().unwrap();
        let memo = Mutex::new(Memo::new(folder.path().join("memo")));
        let fixture = Fixture { folder, memo, ahead: AtomicI64::new(100), read: AtomicU64::new(0) };
        fixture.write(b"one");
        fixture
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

    fn hash_while(&self, on_read: OnRead) -> Result<Hash> {
        let changed = self.changed();
        let now = || changed + i128::from(self.ahead.load(Ordering::Relaxed)) * SECOND;
        let count = |bytes| {
            self.read.fetch_add(bytes, Ordering::Relaxed);
            on_read(bytes);
        };
        Ok(FileHasher::new(&self.memo, &count).with_clock(&now).hash("data", &self.path())?.unwrap().0)
    }

    /// The hash of the file and the number of bytes read for it.
    fn hash(&self) -> (Hash, u64) {
        let hash = self.hash_while(&|_| ()).unwrap();
        (hash, self.read.swap(0, Ordering::Relaxed))
    }

    fn is_remembered(&self) -> bool {
        let stamp = Stamp::of(&fs::metadata(self.path()).unwrap());
        self.memo.lock().unwrap().added("data", stamp).is_some()
    }
}

fn of(text: &str) -> Hash {
    Hash::of_bytes(text.as_bytes())
}

#[test]
fn settled_file_is_read_once() {
    let fixture = Fixture::new();
    assert_eq!(fixture.hash(), (of("one"), 3));
    assert_eq!(fixture.hash(), (of("one"), 0));
    fixture.write(b"two");
    assert_eq!(fixture.hash(), (of("two"), 3));
    assert_eq!(fixture.hash(), (of("two"), 0));
}

#[test]
fn recently_changed_file_is_read_every_time() {
    let fixture = Fixture::new();
    fixture.ahead.store(1, Ordering::Relaxed);
    assert_eq!(fixture.hash(), (of("one"), 3));
    assert!(!fixture.is_remembered());
    // A stamp with a resolution of two seconds would not show this edit.
    fixture.write(b"two");
    assert_eq!(fixture.hash(), (of("two"), 3));
    // A modification time set back by hand does not hide a recent change.
    fixture.set_modified(UNIX_EPOCH + Duration::from_secs(1000));
    assert_eq!(fixture.hash(), (of("two"), 3));
    assert!(!fixture.is_remembered());
}

#[test]
fn clock_set_back_causes_reads() {
    let fixture = Fixture::new();
    fixture.hash();
    fixture.ahead.store(-10, Ordering::Relaxed);
    assert_eq!(fixture.hash(), (of("one"), 3));
    assert_eq!(fixture.hash(), (of("one"), 3));
    fixture.ahead.store(100, Ordering::Relaxed);
    assert_eq!(fixture.hash(), (of("one"), 0));
}

#[test]
fn future_time_stamp_is_not_trusted() {
    let fixture = Fixture::new();
    fixture.set_modified(SystemTime::UNIX_EPOCH + Duration::from_secs(1 << 33));
    assert_eq!(fixture.hash(), (of("one"), 3));
    assert_eq!(fixture.hash(), (of("one"), 3));
    assert!(!fixture.is_remembered());
}

#[test]
fn replaced_file_is_read_despite_equal_times() {
    let fixture = Fixture::new();
    let old = UNIX_EPOCH + Duration::from_secs(1000);
    fixture.set_modified(old);
    fixture.hash();
    let other = fixture.folder.path().join("other");
    files::write_unsynced(&other, b"two").unwrap();
    fs::File::open(&other).unwrap().set_modified(old).unwrap();
    files::rename(&other, &fixture.path()).unwrap();
    assert_eq!(fixture.hash(), (of("two"), 3));
}

#[test]
fn file_changing_during_the_read_is_retried() {
    let fixture = Fixture::new();
    let append = |text: &str| files::append(&fixture.path()).unwrap().write_all(text.as_bytes()).unwrap();
    let once = std::sync::Once::new();
    let hash = fixture.hash_while(&|_| once.call_once(|| append(", two"))).unwrap();
    assert_eq!(hash, of("one, two"));
    fixture.memo.lock().unwrap().clear();
    let error = fixture.hash_while(&|_| append("!")).unwrap_err().to_string();
    let path = fixture.path();
    let wanted = format!("`{}` changes while it is read\nhelp: wait until nothing writes to it", path.display());
    assert_eq!(error, wanted);
    assert!(!fixture.is_remembered());
    // A file that becomes shorter and is large enough to be read in chunks.
    fixture.write(&vec![1; 5 << 20]);
    let cut_to = |len| files::append(&path).unwrap().set_len(len).unwrap();
    let cut = |_| cut_to(2 << 20);
    let len = AtomicU64::new(4 << 20);
    let cut_more = |_| cut_to(len.fetch_sub(1000, Ordering::Relaxed));
    assert_eq!(fixture.hash_while(&cut_more).unwrap_err().to_string(), wanted);
    let once = std::sync::Once::new();
    fixture.write(&vec![1; 5 << 20]);
    let hash = fixture.hash_while(&|bytes| once.call_once(|| cut(bytes))).unwrap();
    assert_eq!(hash, Hash::of_bytes(&vec![1; 2 << 20]));
}

#[test]
fn hard_link_created_during_the_read_is_harmless() {
    let fixture = Fixture::new();
    let made = AtomicU64::new(0);
    let link = |_| {
        let count = made.fetch_add(1, Ordering::Relaxed);
        fs::hard_link(fixture.path(), fixture.folder.path().join(format!("link{count}"))).unwrap();
    };
    let before = fixture.changed();
    assert_eq!(fixture.hash_while(&link).unwrap(), of("one"));
    // Every read creates a link. Two reads were enough, and a changing file is not remembered.
    assert_eq!(made.load(Ordering::Relaxed), 2);
    assert!(fixture.changed() >= before && !fixture.is_remembered());
    assert_eq!(fixture.read.swap(0, Ordering::Relaxed), 6);
    assert_eq!(fixture.hash(), (of("one"), 3));
}

#[test]
fn unwritable_memo_works_in_memory() {
    let mut fixture = Fixture::new();
    fixture.memo = Mutex::new(Memo::new(fixture.path().join("memo")));
    fixture.hash();
    fixture.memo.lock().unwrap().save();
    assert_eq!(fixture.hash(), (of("one"), 0));
    fixture.memo.lock().unwrap().clear();
    assert_eq!(fixture.hash(), (of("one"), 3));
}
