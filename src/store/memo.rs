//! The memo of file hashes: a file whose size, times and inode are as remembered is not read again.
//! Knows nothing of what the files are.
//!
//! As in git's index, a time stamp proves nothing for a file that was changed a moment ago: a second edit within
//! the tick of the file system's clock would look the same. Such hashes are used once and not remembered.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs::{self, Metadata};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::base::{Hash, files};

/// The coarsest clock of a file system that we expect (FAT has two seconds).
const TICK_NANOSECONDS: i128 = 2_000_000_000;

const HEADER: &str = "ablate memo 1";

/// What a file looked like when it was hashed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stamp {
    size: u64,
    modified: i128,
    /// Time of the last change of anything, which no program can set back.
    changed: i128,
    inode: u64,
}

impl Stamp {
    pub(super) fn of(metadata: &Metadata) -> Stamp {
        let nanoseconds = |seconds: i64, rest: i64| i128::from(seconds) * 1_000_000_000 + i128::from(rest);
        Stamp {
            size: metadata.size(),
            modified: nanoseconds(metadata.mtime(), metadata.mtime_nsec()),
            changed: nanoseconds(metadata.ctime(), metadata.ctime_nsec()),
            inode: metadata.ino(),
        }
    }

    /// Whether a later edit would be sure to give another stamp.
    fn settled(&self) -> bool {
        self.modified + TICK_NANOSECONDS < jiff::Timestamp::now().as_nanosecond()
    }
}

/// Hashes by path, read from disk at the first question.
#[derive(Debug)]
pub(super) struct Memo {
    file: PathBuf,
    entries: Option<BTreeMap<String, (Stamp, Hash)>>,
    changed: bool,
}

impl Memo {
    pub(super) fn new(file: PathBuf) -> Memo {
        Memo { file, entries: None, changed: false }
    }

    /// The remembered hash of a file that still looks the same.
    pub(super) fn get(&mut self, key: &str, stamp: Stamp) -> Option<Hash> {
        self.entries().get(key).filter(|(known, _)| *known == stamp).map(|(_, hash)| *hash)
    }

    /// Remembers the hash of a file that was settled before it was read.
    pub(super) fn put(&mut self, key: String, stamp: Stamp, hash: Hash) {
        if self.entries().get(&key) != Some(&(stamp, hash)) {
            self.entries().insert(key, (stamp, hash));
            self.changed = true;
        }
    }

    pub(super) fn forget(&mut self) {
        self.entries = Some(BTreeMap::new());
        self.changed = true;
    }

    /// Drops the entries that `keep` refuses.
    pub(super) fn retain(&mut self, mut keep: impl FnMut(&str) -> bool) {
        let before = self.entries().len();
        self.entries().retain(|key, _| keep(key));
        self.changed |= self.entries().len() != before;
    }

    pub(super) fn save(&mut self) {
        let (true, Some(entries)) = (self.changed, &self.entries) else { return };
        let mut text = format!("{HEADER}\n");
        for (key, (stamp, hash)) in entries {
            // A path with a line break would break the file's lines; it is hashed every time instead.
            if !key.contains('\n') {
                let _ =
                    writeln!(text, "{hash} {} {} {} {} {key}", stamp.size, stamp.modified, stamp.changed, stamp.inode);
            }
        }
        // What another run remembered meanwhile is lost and costs it one more reading. A store that cannot be
        // written costs every invocation that reading.
        self.changed = files::write_soft(&self.file, text.as_bytes()).is_err();
    }

    fn entries(&mut self) -> &mut BTreeMap<String, (Stamp, Hash)> {
        let file = &self.file;
        self.entries.get_or_insert_with(|| read(file))
    }
}

/// The hash of a file, through the memo. `None` for a path where nothing is.
pub(super) fn hash_file(memo: &std::sync::Mutex<Memo>, key: &str, path: &Path) -> Result<Option<Hash>> {
    let lock = || memo.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let Some(metadata) = look(path)? else { return Ok(None) };
    let stamp = Stamp::of(&metadata);
    if let Some(hash) = lock().get(key, stamp) {
        return Ok(Some(hash));
    }
    let settled = stamp.settled();
    let hash = Hash::of_file(path)?;
    if settled {
        lock().put(key.to_string(), stamp, hash);
    }
    Ok(Some(hash))
}

/// A path's metadata, links followed; `None` where nothing is.
pub(super) fn look(path: &Path) -> Result<Option<Metadata>> {
    match fs::metadata(path) {
        Ok(metadata) => Ok(Some(metadata)),
        Err(error) if matches!(error.kind(), std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory) => {
            Ok(None)
        }
        Err(error) => Err(error).with_context(|| format!("cannot look at `{}`", path.display())),
    }
}

/// A memo that cannot be read is an empty one: it only saves time.
fn read(file: &Path) -> BTreeMap<String, (Stamp, Hash)> {
    let text = fs::read_to_string(file).unwrap_or_default();
    let mut lines = text.lines();
    if lines.next() != Some(HEADER) {
        return BTreeMap::new();
    }
    lines.filter_map(parse).collect()
}

fn parse(line: &str) -> Option<(String, (Stamp, Hash))> {
    let mut fields = line.splitn(6, ' ');
    let hash = fields.next()?.parse().ok()?;
    let size = fields.next()?.parse().ok()?;
    let modified = fields.next()?.parse().ok()?;
    let changed = fields.next()?.parse().ok()?;
    let inode = fields.next()?.parse().ok()?;
    Some((fields.next()?.to_string(), (Stamp { size, modified, changed, inode }, hash)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Mutex;
    use std::time::{Duration, UNIX_EPOCH};

    #[test]
    fn a_settled_file_is_read_once_and_a_fresh_one_every_time() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("data.jsonl");
        let memo = Mutex::new(Memo::new(folder.path().join("memo")));
        let hash = || hash_file(&memo, "data", &path).unwrap().unwrap();
        let known = || memo.lock().unwrap().entries().contains_key("data");

        files::write_atomic(&path, b"one").unwrap();
        assert_eq!(hash(), Hash::of_bytes(b"one"));
        assert!(!known(), "a file of this moment can change within the tick");

        let old = UNIX_EPOCH + Duration::from_secs(1000);
        fs::File::open(&path).unwrap().set_modified(old).unwrap();
        assert_eq!(hash(), Hash::of_bytes(b"one"));
        assert!(known());

        // Equal size, another time: read again.
        files::write_atomic(&path, b"two").unwrap();
        assert_eq!(hash(), Hash::of_bytes(b"two"));
    }

    #[test]
    fn the_memo_survives_on_disk_and_nonsense_is_ignored() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("memo");
        let stamp = Stamp { size: 3, modified: 5, changed: 6, inode: 7 };
        let mut memo = Memo::new(file.clone());
        memo.put("a path with spaces".into(), stamp, Hash::of_bytes(b"x"));
        memo.save();
        assert_eq!(Memo::new(file.clone()).get("a path with spaces", stamp), Some(Hash::of_bytes(b"x")));
        assert_eq!(Memo::new(file.clone()).get("a path with spaces", Stamp { size: 4, ..stamp }), None);
        files::write_atomic(&file, b"ablate memo 1\nnot a line\n").unwrap();
        assert_eq!(Memo::new(file.clone()).get("a path with spaces", stamp), None);
        files::write_atomic(&file, &[0xff, 0xfe]).unwrap();
        assert_eq!(Memo::new(file).get("a path with spaces", stamp), None);
    }
}
