//! A log with bounds: whatever a program says, its end is kept and the disk is not filled.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use anyhow::Result;

use ablate_core::base::escape::clean_log;
use ablate_core::base::{ErrorChain, files};

/// Bytes of one file of a log; there are two at most.
const LIMIT: u64 = 8 << 20;

/// Takes bytes into a file, which is made at the first of them. A full file moves to [`older`], over the one that is
/// there, and a new one begins.
#[derive(Debug)]
pub(super) struct BoundedLog {
    path: PathBuf,
    file: Option<File>,
    written: u64,
}

impl BoundedLog {
    pub(super) fn new(path: PathBuf) -> BoundedLog {
        BoundedLog { path, file: None, written: 0 }
    }

    /// Adds bytes. A log that cannot be written is no reason to stop.
    pub(super) fn write(&mut self, bytes: &[u8]) {
        if bytes.is_empty() {
            return;
        }
        if self.written >= LIMIT {
            self.file = None;
            files::rename_unsynced(&self.path, &older(&self.path)).ok();
        }
        if self.file.is_none() {
            self.file = files::append(&self.path).ok();
            self.written =
                self.file.as_ref().and_then(|file| file.metadata().ok()).map_or(0, |metadata| metadata.len());
        }
        if let Some(file) = &mut self.file
            && file.write_all(bytes).is_ok()
        {
            self.written += bytes.len() as u64;
        }
    }
}

/// Where the older part of a long log is.
pub(super) fn older(log: &Path) -> PathBuf {
    let mut name = log.as_os_str().to_os_string();
    name.push(".1");
    PathBuf::from(name)
}

/// How the cause begins that quotes the log.
pub(super) const LAST_WORDS: &str = "the end of its log: ";

/// The part of a log that an attempt has written: earlier attempts have written to it too.
pub(super) struct LogEnd<'a> {
    path: &'a Path,
    begin: u64,
}

impl LogEnd<'_> {
    pub(super) fn of(path: &Path) -> LogEnd<'_> {
        LogEnd { path, begin: std::fs::metadata(path).map_or(0, |metadata| metadata.len()) }
    }

    /// Adds the last lines to the causes.
    pub(super) fn with_last_words(&self, mut causes: ErrorChain) -> ErrorChain {
        let words = clean_log(&self.tail(4096).unwrap_or_default()).into_owned();
        let lines: Vec<&str> = words.lines().filter(|line| !line.trim().is_empty()).collect();
        if !lines.is_empty() {
            let last = lines[lines.len().saturating_sub(5)..].join("\n");
            causes.chain.push(format!("{LAST_WORDS}{last}"));
        }
        causes
    }

    /// The last bytes as text.
    fn tail(&self, bytes: u64) -> Result<String> {
        let mut file = files::open_file(self.path)?;
        let length = file.metadata()?.len();
        // A full log has begun anew meanwhile.
        let begin = if self.begin <= length { self.begin } else { 0 };
        file.seek(SeekFrom::Start(length.saturating_sub(bytes).max(begin)))?;
        let mut text = Vec::new();
        file.take(bytes).read_to_end(&mut text)?;
        Ok(String::from_utf8_lossy(&text).into_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_a_long_log_is_kept_within_bounds() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("logs/a.log");
        let mut log = BoundedLog::new(path.clone());
        log.write(b"");
        assert!(!path.exists());
        let line = [b"x".repeat(99), b"\n".to_vec()].concat();
        for _ in 0..5 * LIMIT / 100 {
            log.write(&line);
        }
        log.write(b"the end\n");
        let (new, old) = (files::read_bytes(&path).unwrap(), files::read_bytes(&older(&path)).unwrap());
        assert!(new.ends_with(b"x\nthe end\n") || new == b"the end\n");
        assert!(new.len() + old.len() <= 2 * (LIMIT as usize + 100));
        assert!(new.len() + old.len() > LIMIT as usize);
    }
}
