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
use std::io::{BufRead, BufReader, BufWriter, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use anyhow::{Context, Result, bail};

use ablate_core::base::{Hash, files};

const HEADER: &[u8] = b"ablate log 1\n";

/// Bytes of a line before its text: key and check, each with a space.
const PREFIX_LEN: usize = 64 + 1 + 16 + 1;

/// A longer line is not one of this program.
const MAX_LINE: u64 = 512 << 20;

#[derive(Debug)]
pub(super) struct Log {
    path: PathBuf,
    index: Mutex<LogIndex>,
}

/// Where the lines of the file are, as far as it was read. The texts stay in the file.
#[derive(Debug, Default)]
struct LogIndex {
    file: Option<File>,
    /// Device and inode of the file.
    id: Option<(u64, u64)>,
    /// Bytes that were read: whole lines only.
    length: u64,
    lines: Lines,
}

/// Start and length of the last line of each key, without the line break.
type Lines = HashMap<Hash, (u64, u64), BuildHasherDefault<FirstBytes>>;

/// The result of reading every line.
#[derive(Debug, Default)]
pub(super) struct LogScan {
    pub(super) entries: Vec<(Hash, String)>,
    /// Numbers of damaged lines.
    pub(super) damaged: Vec<usize>,
}

/// One line that [`Log::visit`] reads.
pub(super) enum Line<'a> {
    /// An undamaged line: its start in the file, its key and its text.
    Entry(u64, Hash, &'a str),
    /// A damaged line, by its number.
    Damaged(usize),
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
        index.get(key)
    }

    /// Every key with its last text, in the order of writing.
    pub(super) fn scan(&self) -> Result<LogScan> {
        let mut lines: Vec<(Hash, String)> = Vec::new();
        let mut last: HashMap<Hash, usize> = HashMap::new();
        let mut damaged = Vec::new();
        self.visit(&mut |line| {
            match line {
                Line::Entry(_, key, text) => {
                    last.insert(key, lines.len());
                    lines.push((key, text.to_string()));
                }
                Line::Damaged(number) => damaged.push(number),
            }
            Ok(())
        })?;
        let entries = lines.into_iter().enumerate().filter(|(at, (key, _))| last.get(key) == Some(at));
        Ok(LogScan { entries: entries.map(|(_, entry)| entry).collect(), damaged })
    }

    /// Reads every whole line, one at a time.
    pub(super) fn visit(&self, on_line: &mut dyn FnMut(Line) -> Result<()>) -> Result<()> {
        let file = match files::open_file(&self.path) {
            Ok(file) => file,
            Err(_) if !self.path.exists() => return Ok(()),
            Err(error) => return Err(error),
        };
        let mut reader = BufReader::with_capacity(1 << 16, file);
        let (mut start, mut number) = (0, 0);
        let mut line = Vec::new();
        loop {
            line.clear();
            let read = (&mut reader).take(MAX_LINE + 1).read_until(b'\n', &mut line);
            let read = read.with_context(|| format!("cannot read `{}`", self.path.display()))? as u64;
            self.check_length(read)?;
            // A last line without a line break is incomplete or still being written.
            if line.last() != Some(&b'\n') {
                return Ok(());
            }
            number += 1;
            match parse(&line[..line.len() - 1]) {
                Some((key, text)) => on_line(Line::Entry(start, key, text))?,
                None if number == 1 && line == HEADER => {}
                None => on_line(Line::Damaged(number))?,
            }
            start += read;
        }
    }

    /// Appends all lines or none. With `durable` they survive a power cut after this returns.
    pub(super) fn append(&self, lines: &[(Hash, String)], durable: bool) -> Result<()> {
        let mut text = Vec::new();
        for (key, line) in lines {
            write_line(&mut text, *key, line)?;
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
        if durable {
            file.sync_data().with_context(context)?;
            files::crash_point("log: synced");
            if length == 0 {
                files::sync_dir(self.path.parent().unwrap_or(Path::new("")))?;
            }
        }
        Ok(())
    }

    /// Keeps only the last line of each key that `keep` accepts.
    pub(super) fn rewrite(&self, keep: &dyn Fn(Hash, &str) -> bool) -> Result<()> {
        if !self.path.exists() {
            return Ok(());
        }
        let _lock = self.lock()?;
        let mut last: HashMap<Hash, u64> = HashMap::new();
        self.visit(&mut |line| {
            if let Line::Entry(start, key, _) = line {
                last.insert(key, start);
            }
            Ok(())
        })?;
        files::write_private_with(&self.path, &|file| {
            let mut writer = BufWriter::new(file);
            writer.write_all(HEADER)?;
            self.visit(&mut |line| match line {
                Line::Entry(start, key, text) if last.get(&key) == Some(&start) && keep(key, text) => {
                    write_line(&mut writer, key, text)
                }
                Line::Entry(..) | Line::Damaged(_) => Ok(()),
            })?;
            Ok(writer.flush()?)
        })
    }

    /// Removes a line that a writer left incomplete when it died, and returns the length of the rest.
    fn truncate_partial_line(&self, mut file: &File) -> Result<u64> {
        const BLOCK: u64 = 1 << 16;
        let context = || format!("cannot read `{}`", self.path.display());
        let length = file.metadata().with_context(context)?.len();
        let mut end = length;
        let mut block = Vec::new();
        while end > 0 {
            let start = end.saturating_sub(BLOCK);
            block.clear();
            file.seek(SeekFrom::Start(start)).with_context(context)?;
            file.take(end - start).read_to_end(&mut block).with_context(context)?;
            if let Some(at) = block.iter().rposition(|byte| *byte == b'\n') {
                end = start + at as u64 + 1;
                break;
            }
            end = start;
            self.check_length(length - end)?;
        }
        if end < length {
            file.set_len(end).with_context(|| format!("cannot shorten `{}`", self.path.display()))?;
        }
        Ok(end)
    }

    /// Fails for a line that is too long to be one of this program.
    fn check_length(&self, bytes: u64) -> Result<()> {
        if bytes > MAX_LINE {
            bail!("`{}` is damaged: it has a line of more than {} MiB", self.path.display(), MAX_LINE >> 20);
        }
        Ok(())
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
        let context = || format!("cannot read `{}`", self.path.display());
        let metadata = match fs::metadata(&self.path) {
            Ok(metadata) => metadata,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                *index = LogIndex::default();
                return Ok(());
            }
            Err(error) => return Err(error).with_context(context),
        };
        if index.id != Some(file_id(&metadata)) || metadata.len() < index.length {
            let file = files::open_file(&self.path)?;
            let id = file.metadata().with_context(context)?;
            *index = LogIndex { file: Some(file), id: Some(file_id(&id)), ..LogIndex::default() };
        }
        let LogIndex { file: Some(file), length, lines, .. } = index else { return Ok(()) };
        if metadata.len() == *length {
            return Ok(());
        }
        let mut reader = BufReader::with_capacity(1 << 18, &*file);
        reader.seek(SeekFrom::Start(*length)).with_context(context)?;
        let mut key = Vec::with_capacity(64);
        let mut bytes = 0;
        loop {
            let block = reader.fill_buf().with_context(context)?;
            if block.is_empty() {
                return Ok(());
            }
            let line_break = block.iter().position(|byte| *byte == b'\n');
            let part = &block[..line_break.unwrap_or(block.len())];
            key.extend_from_slice(&part[..part.len().min(64 - key.len())]);
            let used = part.len() + usize::from(line_break.is_some());
            bytes += part.len() as u64;
            reader.consume(used);
            if line_break.is_some() {
                // The check is verified by [`LogIndex::get`].
                if let Some(key) = std::str::from_utf8(&key).ok().and_then(|key| key.parse().ok()) {
                    lines.insert(key, (*length, bytes));
                }
                *length += bytes + 1;
                key.clear();
                bytes = 0;
            }
            self.check_length(bytes)?;
        }
    }

    fn index(&self) -> MutexGuard<'_, LogIndex> {
        // After a panic in another thread the index covers a prefix of the file; the next call completes it.
        self.index.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl LogIndex {
    /// The text of the last undamaged line of a key.
    fn get(&self, key: Hash) -> Option<String> {
        let (start, length) = *self.lines.get(&key)?;
        let file = self.file.as_ref()?;
        let mut line = vec![0; usize::try_from(length).ok()?];
        if file.read_exact_at(&mut line, start).is_ok()
            && let Some((_, text)) = parse(&line)
        {
            return Some(text.to_string());
        }
        // Damage is rare, so this reads all earlier lines.
        let mut reader = BufReader::new(file);
        reader.rewind().ok()?;
        let (mut at, mut found) = (0, None);
        while at < start {
            line.clear();
            at += reader.read_until(b'\n', &mut line).ok().filter(|read| *read > 0)? as u64;
            match parse(line.strip_suffix(b"\n")?) {
                Some((other, text)) if other == key => found = Some(text.to_string()),
                _ => {}
            }
        }
        found
    }
}

/// Writes a line with its check.
fn write_line(writer: &mut impl Write, key: Hash, text: &str) -> Result<()> {
    // Line breaks would break the format. Compact JSON has none.
    assert!(!text.contains('\n'), "BUG: a line break in a log's line");
    Ok(writeln!(writer, "{key} {} {text}", check(key, text.as_bytes()))?)
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
