//! Locks between processes: a locked file, released when its holder ends.

use std::fs::{File, TryLockError};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};

use ablate_core::base::files;

/// A held lock. Dropping it, or the end of the process, releases it.
#[derive(Debug)]
pub struct Lock {
    /// The file to remove on release; `None` for a shared lock file.
    path: Option<PathBuf>,
    file: File,
}

impl Lock {
    /// Takes the lock; `None` if another holder has it.
    pub fn try_take(path: &Path) -> Result<Option<Lock>> {
        while let Some(file) = try_lock(path)? {
            if let Some(lock) = Lock::if_named(path, file)? {
                return Ok(Some(lock));
            }
        }
        Ok(None)
    }

    /// Takes the lock and waits for its holder.
    pub fn take(path: &Path) -> Result<Lock> {
        loop {
            let file = files::append(path)?;
            file.lock().with_context(|| format!("cannot lock `{}`", path.display()))?;
            if let Some(lock) = Lock::if_named(path, file)? {
                return Ok(lock);
            }
        }
    }

    /// A holder removes the file before it releases the lock. A process that opened the file earlier then holds a
    /// lock on a file without a name, which excludes no other process, so it must try again.
    fn if_named(path: &Path, file: File) -> Result<Option<Lock>> {
        let ours = file.metadata().with_context(|| format!("cannot look at `{}`", path.display()))?;
        let named = std::fs::metadata(path);
        let is_named = named.is_ok_and(|named| named.ino() == ours.ino() && named.dev() == ours.dev());
        Ok(is_named.then(|| Lock { path: Some(path.to_path_buf()), file }))
    }

    /// Takes a shared lock and waits for an exclusive holder.
    pub fn shared(path: &Path) -> Result<Lock> {
        let file = files::append(path)?;
        file.lock_shared().with_context(|| format!("cannot lock `{}`", path.display()))?;
        Ok(Lock { path: None, file })
    }

    /// Takes a lock exclusively that other processes share; `None` while any holder has it.
    pub fn try_exclusive(path: &Path) -> Result<Option<Lock>> {
        Ok(try_lock(path)?.map(|file| Lock { path: None, file }))
    }

    /// Whether locks work on this file. Some file systems accept every lock and exclude no holder.
    pub(super) fn excludes(path: &Path) -> Result<bool> {
        let (one, other) = (files::append(path)?, files::append(path)?);
        one.lock().with_context(|| format!("cannot lock `{}`", path.display()))?;
        Ok(matches!(other.try_lock(), Err(TryLockError::WouldBlock)))
    }

    /// Tries to take the lock `tries` times with `pause` in between.
    pub fn take_within(path: &Path, tries: usize, pause: Duration) -> Result<Option<Lock>> {
        for attempt in 0..tries {
            if attempt > 0 {
                std::thread::sleep(pause);
            }
            if let Some(lock) = Lock::try_take(path)? {
                return Ok(Some(lock));
            }
        }
        Ok(None)
    }
}

/// Opens and locks a file; `None` if another holder has its lock.
fn try_lock(path: &Path) -> Result<Option<File>> {
    let file = files::append(path)?;
    match file.try_lock() {
        Ok(()) => Ok(Some(file)),
        Err(TryLockError::WouldBlock) => Ok(None),
        Err(TryLockError::Error(error)) => Err(error).with_context(|| format!("cannot lock `{}`", path.display())),
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        if let Some(path) = &self.path {
            files::remove_file(path).ok();
        }
        self.file.unlock().ok();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lock_excludes_until_dropped() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("deep/lock");
        let held = Lock::try_take(&path).unwrap().unwrap();
        assert!(Lock::try_take(&path).unwrap().is_none());
        drop(held);
        let again = Lock::try_take(&path).unwrap();
        assert!(again.is_some());
        drop(again);
        assert!(!path.exists());
        assert!(Lock::excludes(&path).unwrap(), "the file system of the tests supports locks");
    }

    #[test]
    fn lock_admits_one_thread_at_a_time() {
        use std::sync::atomic::{AtomicUsize, Ordering};
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("lock");
        let (inside, most) = (AtomicUsize::new(0), AtomicUsize::new(0));
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..50 {
                        let lock = Lock::take_within(&path, 100_000, Duration::from_micros(50)).unwrap().unwrap();
                        most.fetch_max(inside.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                        inside.fetch_sub(1, Ordering::SeqCst);
                        drop(lock);
                    }
                });
            }
        });
        assert_eq!(most.load(Ordering::SeqCst), 1);
    }
}
