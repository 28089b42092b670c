//! An append-only file of keyed lines, shared by processes.
//!
//! ```text
//! ablate log 1
//! <key: 64 hex digits> <check: 16 hex digits of the blake3 of key and text> <text>
//! ```
//!
//! The last line of a key is valid. A line with a flipped bit fails its check and counts as missing; other lines are
//! not affected. A line that was cut by a crash is removed by the next writer. A writer holds a lock on the file for
//! one write. A rewrite (by `gc`) replaces the file, and other processes notice by its inode.

use std::collections::HashMap;
use std::fs::{self, File};
use std::hash::{BuildHasherDefault, Hasher};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use anyhow::{Context, Result};

use ablate_core::base::{Hash, files};

const HEADER: &[u8] = b"ablate log 1\n";

/// Bytes of a line before its text: key and check, each with a space.
const PREFIX_LEN: usize = 64 + 1 + 16 + 1;

#[derive(Debug)]
pub(super) struct Log {
    path: PathBuf,
    index: Mutex<LogIndex>,
}

/// The part of the file that was read, with an index.
#[derive(Debug, Default)]
struct LogIndex {
    /// Device and inode of the file.
    file: Option<(u64, u64)>,
    /// Whole lines only.
    bytes: Vec<u8>,
    /// Start and end of the last line of each key.
    lines: HashMap<Hash, (usize, usize), BuildHasherDefault<FirstBytes>>,
}

/// The result of reading every line.
#[derive(Debug, Default)]
pub(super) struct LogScan {
    pub(super) entries: Vec<(Hash, String)>,
    /// Numbers of damaged lines.
    pub(super) damaged: Vec<usize>,
}

impl Log {
    pub(super) fn new(path: PathBuf) -> Log {
        Log { path, index: Mutex::default() }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// The last undamaged text of a key.
    pub(super) fn get(&self, key: Hash) -> Option<String> {
        let mut index = self.index();
        // An unreadable log counts as empty; writers report the error.
        self.refresh(&mut index).ok();
        index.get(key).map(|(_, text)| text.to_string())
    }

    /// Every key with its last text, in the order of writing.
    pub(super) fn scan(&self) -> Result<LogScan> {
        let mut index = self.index();
        *index = LogIndex::default();
        self.refresh(&mut index)?;
        let mut scan = LogScan::default();
        let mut start = 0;
        for (number, line) in index.bytes.split_inclusive(|byte| *byte == b'\n').enumerate() {
            let end = start + line.len() - 1;
            match parse(&index.bytes[start..end]) {
                Some((key, text)) if index.get(key).is_some_and(|(last, _)| last == start) => {
                    scan.entries.push((key, text.to_string()));
                }
                Some(_) => {}
                None if number == 0 && line == HEADER => {}
                None => scan.damaged.push(number + 1),
            }
            start += line.len();
        }
        Ok(scan)
    }

    /// Appends all lines or none. With `durable` they survive a power cut after this returns.
    pub(super) fn append(&self, lines: &[(Hash, String)], durable: bool) -> Result<()> {
        let mut text = Vec::new();
        for (key, line) in lines {
            // Line breaks would break the format. Compact JSON has none.
            assert!(!line.contains('\n'), "BUG: a line break in a log's line");
            let check = check(*key, line.as_bytes());
            text.extend_from_slice(format!("{key} {check} {line}\n").as_bytes());
        }
        let file = self.lock()?;
        let context = || format!("cannot write `{}`", self.path.display());
        let length = self.truncate_partial_line(&file)?;
        let header = if length == 0 { HEADER } else { b"" };
        if let Err(error) = (&file).write_all(&[header, &text].concat()) {
            // Removes a partly written line.
            file.set_len(length).ok();
            return Err(error).with_context(context);
        }
        files::crash_point("log: written");
        self.index_appended(&file, length, header, &text);
        if durable {
            file.sync_data().with_context(context)?;
            files::crash_point("log: synced");
            if length == 0 {
                files::sync_dir(self.path.parent().unwrap_or(Path::new("")))?;
            }
        }
        Ok(())
    }

    /// Adds the lines that were just written to the index, if the index covers everything before them.
    fn index_appended(&self, file: &File, length: u64, header: &[u8], text: &[u8]) {
        let mut index = self.index();
        let Ok(ours) = file.metadata().map(|metadata| file_id(&metadata)) else { return };
        if index.bytes.len() as u64 == length && (length == 0 || index.file == Some(ours)) {
            index.file = Some(ours);
            index.bytes.extend_from_slice(header);
            index.bytes.extend_from_slice(text);
            index.add_lines(length as usize);
        }
    }

    /// Keeps only the last line of each key that `keep` accepts.
    pub(super) fn rewrite(&self, keep: &dyn Fn(Hash, &str) -> bool) -> Result<()> {
        if !self.path.exists() {
            return Ok(());
        }
        let _lock = self.lock()?;
        let mut text = HEADER.to_vec();
        for (key, line) in self.scan()?.entries {
            if keep(key, &line) {
                text.extend_from_slice(format!("{key} {} {line}\n", check(key, line.as_bytes())).as_bytes());
            }
        }
        files::write_private(&self.path, &text)
    }

    /// Removes a line that a writer left incomplete when it died, and returns the length of the rest.
    fn truncate_partial_line(&self, mut file: &File) -> Result<u64> {
        let length = file.metadata().with_context(|| format!("cannot look at `{}`", self.path.display()))?.len();
        let mut last = [b'\n'];
        if length > 0 {
            let read = file.seek(SeekFrom::Start(length - 1)).and_then(|_| file.read_exact(&mut last));
            read.with_context(|| format!("cannot read `{}`", self.path.display()))?;
        }
        if last == *b"\n" {
            return Ok(length);
        }
        let bytes = files::read_bytes(&self.path)?;
        let whole = bytes.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at as u64 + 1);
        file.set_len(whole).with_context(|| format!("cannot shorten `{}`", self.path.display()))?;
        Ok(whole)
    }

    /// Locks the file, and makes sure that it still has its name after a rewrite.
    fn lock(&self) -> Result<File> {
        loop {
            let file = files::append_private(&self.path)?;
            file.lock().with_context(|| format!("cannot lock `{}`", self.path.display()))?;
            let ours = file.metadata().with_context(|| format!("cannot look at `{}`", self.path.display()))?;
            if fs::metadata(&self.path).is_ok_and(|named| file_id(&named) == file_id(&ours)) {
                return Ok(file);
            }
        }
    }

    /// Reads the lines added since the last call, or the whole file if it was replaced.
    fn refresh(&self, index: &mut LogIndex) -> Result<()> {
        let metadata = match fs::metadata(&self.path) {
            Ok(metadata) => metadata,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                *index = LogIndex::default();
                return Ok(());
            }
            Err(error) => return Err(error).with_context(|| format!("cannot look at `{}`", self.path.display())),
        };
        if index.file != Some(file_id(&metadata)) || metadata.len() < index.bytes.len() as u64 {
            *index = LogIndex { file: Some(file_id(&metadata)), ..LogIndex::default() };
        }
        let from = index.bytes.len();
        if metadata.len() == from as u64 {
            return Ok(());
        }
        let context = || format!("cannot read `{}`", self.path.display());
        let mut file = files::open_file(&self.path)?;
        file.seek(SeekFrom::Start(from as u64)).with_context(context)?;
        // A damaged file system may report a length that exceeds the memory.
        let more = usize::try_from(metadata.len()).unwrap_or(usize::MAX).saturating_sub(from);
        index.bytes.try_reserve(more).with_context(context)?;
        file.read_to_end(&mut index.bytes).with_context(context)?;
        // A last line without a line break is incomplete or still being written.
        let end = index.bytes.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
        index.bytes.truncate(end.max(from));
        index.add_lines(from);
        Ok(())
    }

    fn index(&self) -> MutexGuard<'_, LogIndex> {
        // After a panic in another thread the index covers a prefix of the file; the next call completes it.
        self.index.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl LogIndex {
    /// Start and text of the last undamaged line of a key.
    fn get(&self, key: Hash) -> Option<(usize, &str)> {
        let (start, end) = *self.lines.get(&key)?;
        if let Some((_, text)) = parse(&self.bytes[start..end]) {
            return Some((start, text));
        }
        // Damage is rare, so this searches backwards through all earlier lines.
        let mut end = start;
        for line in self.bytes[..start].split_inclusive(|byte| *byte == b'\n').rev() {
            let start = end - line.len();
            match parse(&self.bytes[start..end - 1]) {
                Some((found, text)) if found == key => return Some((start, text)),
                _ => end = start,
            }
        }
        None
    }

    /// Adds the lines from an offset on to the index. Their checks are verified by [`LogIndex::get`].
    fn add_lines(&mut self, from: usize) {
        let mut start = from;
        for line in self.bytes[from..].split_inclusive(|byte| *byte == b'\n') {
            let key = line.get(..64).and_then(|key| std::str::from_utf8(key).ok()).and_then(|key| key.parse().ok());
            if let Some(key) = key {
                self.lines.insert(key, (start, start + line.len() - 1));
            }
            start += line.len();
        }
    }
}

/// Key and text of a line; `None` if the check fails.
fn parse(line: &[u8]) -> Option<(Hash, &str)> {
    let line = std::str::from_utf8(line).ok()?;
    let (prefix, text) = (line.get(..PREFIX_LEN)?, line.get(PREFIX_LEN..)?);
    let key: Hash = prefix.get(..64)?.parse().ok()?;
    (prefix.get(64..)? == format!(" {} ", check(key, text.as_bytes()))).then_some((key, text))
}

fn check(key: Hash, text: &[u8]) -> String {
    let mut digits = Hash::of_bytes(&[key.bytes(), text].concat()).to_string();
    digits.truncate(16);
    digits
}

fn file_id(metadata: &fs::Metadata) -> (u64, u64) {
    (metadata.dev(), metadata.ino())
}

/// A hasher for keys that are hashes: it uses their first 8 bytes.
#[derive(Default)]
struct FirstBytes(u64);

impl Hasher for FirstBytes {
    fn write(&mut self, bytes: &[u8]) {
        if let Some(first) = bytes.first_chunk::<8>() {
            self.0 = u64::from_le_bytes(*first);
        }
    }

    // The length of the array, which is hashed before its bytes.
    fn write_usize(&mut self, _: usize) {}

    fn finish(&self) -> u64 {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(name: &str) -> Hash {
        Hash::of_bytes(name.as_bytes())
    }

    fn line(name: &str, text: &str) -> (Hash, String) {
        (key(name), text.to_string())
    }

    fn log() -> (tempfile::TempDir, Log) {
        let folder = tempfile::tempdir().unwrap();
        let log = Log::new(folder.path().join("records"));
        (folder, log)
    }

    #[test]
    fn last_line_of_a_key_wins() {
        let (_folder, log) = log();
        let other = Log::new(log.path.clone());
        assert_eq!(other.get(key("a")), None);
        log.append(&[line("a", "1"), line("b", "2")], true).unwrap();
        assert_eq!(other.get(key("a")).as_deref(), Some("1"));
        log.append(&[line("a", "3")], false).unwrap();
        assert_eq!(other.get(key("a")).as_deref(), Some("3"));
        assert_eq!(other.scan().unwrap().entries, [line("b", "2"), line("a", "3")]);
    }

    #[test]
    fn damaged_line_affects_no_other_line() {
        let (_folder, log) = log();
        log.append(&[line("a", "1"), line("b", "2"), line("c", "3")], true).unwrap();
        let whole = files::read_bytes(&log.path).unwrap();
        let intact_lines = |log: &Log| ["a", "b", "c"].iter().filter(|name| log.get(key(name)).is_some()).count();
        for cut in HEADER.len()..whole.len() {
            files::write_atomic(&log.path, &whole[..cut]).unwrap();
            let again = Log::new(log.path.clone());
            again.append(&[line("d", "4")], true).unwrap();
            assert_eq!(again.get(key("d")).as_deref(), Some("4"), "cut at {cut}");
            let lines = whole[HEADER.len()..cut].split(|byte| *byte == b'\n').count() - 1;
            assert_eq!(intact_lines(&again), lines, "cut at {cut}");
            assert_eq!(again.scan().unwrap().damaged, [0; 0], "cut at {cut}");
        }
        for place in HEADER.len()..whole.len() {
            let mut flipped = whole.clone();
            flipped[place] ^= 1;
            files::write_atomic(&log.path, &flipped).unwrap();
            let again = Log::new(log.path.clone());
            // A damaged line break also destroys the line after it.
            let lost = if whole[place] == b'\n' && place + 1 < whole.len() { 2 } else { 1 };
            assert_eq!(intact_lines(&again), 3 - lost, "flipped at {place}");
            assert!(!again.scan().unwrap().damaged.is_empty() || place + 1 == whole.len());
        }
    }

    #[test]
    fn cut_line_hides_no_earlier_line_of_its_key() {
        let (_folder, log) = log();
        log.append(&[line("a", "1"), line("b", "2"), line("a", "3")], true).unwrap();
        let whole = files::read_bytes(&log.path).unwrap();
        files::write_atomic(&log.path, &whole[..whole.len() - 3]).unwrap();
        log.append(&[line("c", "4")], true).unwrap();
        for log in [&log, &Log::new(log.path.clone())] {
            assert_eq!(log.get(key("a")).as_deref(), Some("1"));
            assert_eq!(log.scan().unwrap().entries, [line("a", "1"), line("b", "2"), line("c", "4")]);
        }
        log.rewrite(&|_, _| true).unwrap();
        assert_eq!(log.get(key("a")).as_deref(), Some("1"));
    }

    #[test]
    fn length_beyond_memory_is_an_error() {
        let (_folder, log) = log();
        log.append(&[line("a", "1")], true).unwrap();
        // A sparse file. Some file systems do not support this size.
        if files::append(&log.path).unwrap().set_len(1 << 62).is_ok() {
            assert_eq!(Log::new(log.path.clone()).get(key("a")), None);
            assert!(log.scan().is_err());
        }
    }

    #[test]
    fn rewrite_is_noticed_by_other_processes() {
        let (_folder, log) = log();
        let other = Log::new(log.path.clone());
        log.append(&[line("a", "1"), line("b", "2"), line("a", "3")], true).unwrap();
        assert_eq!(other.get(key("b")).as_deref(), Some("2"));
        log.rewrite(&|found, _| found == key("a")).unwrap();
        assert_eq!(other.get(key("b")), None);
        other.append(&[line("c", "4")], true).unwrap();
        assert_eq!(log.scan().unwrap().entries, [line("a", "3"), line("c", "4")]);
    }

    #[test]
    fn concurrent_writers_lose_no_lines() {
        let (_folder, log) = log();
        std::thread::scope(|scope| {
            for writer in 0..4 {
                let path = log.path.clone();
                scope.spawn(move || {
                    let log = Log::new(path);
                    for number in 0..50 {
                        log.append(&[line(&format!("{writer}/{number}"), &"x".repeat(number * 7))], false).unwrap();
                    }
                });
            }
        });
        let scan = log.scan().unwrap();
        assert_eq!((scan.entries.len(), scan.damaged.len()), (200, 0));
    }
}
