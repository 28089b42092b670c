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
