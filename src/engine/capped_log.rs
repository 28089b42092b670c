//! A log file of limited size: a program cannot fill the disk, and the end of its output is kept.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use anyhow::Result;

use ablate_core::base::escape::clean_log;
use ablate_core::base::{ErrorChain, files};

/// Size in bytes at which a log file is rotated. A log has at most two files.
const ROTATE_SIZE: u64 = 8 << 20;

/// Appends bytes to a file, which is created by the first of them. A full file is renamed to [`rotated_path`],
/// replacing an older one, and a new file is started.
#[derive(Debug)]
pub(super) struct CappedLog {
    path: PathBuf,
    file: Option<File>,
    written: u64,
}

impl CappedLog {
    pub(super) fn new(path: PathBuf) -> CappedLog {
        CappedLog { path, file: None, written: 0 }
    }

    /// Appends bytes. A write error does not stop the program.
    pub(super) fn write(&mut self, bytes: &[u8]) {
        if bytes.is_empty() {
            return;
        }
        if self.written >= ROTATE_SIZE {
            self.file = None;
            files::rename_unsynced(&self.path, &rotated_path(&self.path)).ok();
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

/// The path of the older part of a long log.
pub(super) fn rotated_path(log: &Path) -> PathBuf {
    let mut name = log.as_os_str().to_os_string();
    name.push(".1");
    PathBuf::from(name)
}

/// The start of the cause that quotes the log.
pub(super) const LOG_END: &str = "the end of its log: ";

/// The part of a log that one attempt writes. Earlier attempts may have written to the same file.
pub(super) struct AttemptLog<'a> {
    path: &'a Path,
    start: u64,
}

impl AttemptLog<'_> {
    /// The part of a log that is written from now on.
    pub(super) fn from_end_of(path: &Path) -> AttemptLog<'_> {
        AttemptLog { path, start: std::fs::metadata(path).map_or(0, |metadata| metadata.len()) }
    }

    /// Adds the last lines of the log to the causes.
    pub(super) fn append_end_to(&self, mut causes: ErrorChain) -> ErrorChain {
        let text = clean_log(&self.tail(4096).unwrap_or_default()).into_owned();
        let lines: Vec<&str> = text.lines().filter(|line| !line.trim().is_empty()).collect();
        if !lines.is_empty() {
            let last = lines[lines.len().saturating_sub(5)..].join("\n");
            causes.chain.push(format!("{LOG_END}{last}"));
        }
        causes
    }

    /// The last bytes as text.
    fn tail(&self, bytes: u64) -> Result<String> {
        let mut file = files::open_file(self.path)?;
        let length = file.metadata()?.len();
        // If the file is shorter than `start`, it was rotated in the meantime.
        let start = if self.start <= length { self.start } else { 0 };
        file.seek(SeekFrom::Start(length.saturating_sub(bytes).max(start)))?;
        let mut text = Vec::new();
        file.take(bytes).read_to_end(&mut text)?;
        Ok(String::from_utf8_lossy(&text).into_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_log_is_capped_and_keeps_its_end() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("logs/a.log");
        let mut log = CappedLog::new(path.clone());
        log.write(b"");
        assert!(!path.exists());
        let line = [b"x".repeat(99), b"\n".to_vec()].concat();
        for _ in 0..5 * ROTATE_SIZE / 100 {
            log.write(&line);
        }
        log.write(b"the end\n");
        let (new, old) = (files::read_bytes(&path).unwrap(), files::read_bytes(&rotated_path(&path)).unwrap());
        assert!(new.ends_with(b"x\nthe end\n") || new == b"the end\n");
        assert!(new.len() + old.len() <= 2 * (ROTATE_SIZE as usize + 100));
        assert!(new.len() + old.len() > ROTATE_SIZE as usize);
    }
}
