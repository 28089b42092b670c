//! A log: one file of keyed lines that is only ever appended to, shared by processes. Knows nothing of what the lines say.
//!
//! ```text
//! ablate log 1
//! <key: 64 hex digits> <check: 16 hex digits of the blake3 of key and text> <text>
//! ```
//!
//! The last line of a key counts. A line of which a bit has flipped fails its check and is as good as not there; the
//! lines around it are not touched by that. One that was cut by a crash is taken away by the next writer. Writers take turns by a lock on the file;
//! nobody holds it for longer than one write. A rewrite (by `gc`) replaces the file, which every process notices by
//! its inode.

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

/// Bytes of a line before its text: key, check, and a space after each.
const PREFIX: usize = 64 + 1 + 16 + 1;

/// One log.
#[derive(Debug)]
pub(super) struct Log {
    path: PathBuf,
    known: Mutex<Known>,
}

/// What was read of the file so far.
#[derive(Debug, Default)]
struct Known {
    /// Device and inode of the file that was read.
    file: Option<(u64, u64)>,
    /// Whole lines only.
    bytes: Vec<u8>,
    /// Key to where its last line begins and ends.
    lines: HashMap<Hash, (usize, usize), BuildHasherDefault<FirstBytes>>,
}

/// What a look at every line finds.
#[derive(Debug, Default)]
pub(super) struct Survey {
    pub(super) entries: Vec<(Hash, String)>,
    /// Numbers of the lines that are damaged.
    pub(super) damaged: Vec<usize>,
}

impl Log {
    pub(super) fn new(path: PathBuf) -> Log {
        Log { path, known: Mutex::default() }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// The last text under a key that is not damaged.
    pub(super) fn get(&self, key: Hash) -> Option<String> {
        let mut known = self.known();
        // A log that cannot be read says nothing; its writers will say why.
        self.refresh(&mut known).ok();
        known.get(key).map(|(_, text)| text.to_string())
    }

    /// Every key with its last text, in the order in which they were written.
    pub(super) fn survey(&self) -> Result<Survey> {
        let mut known = self.known();
        *known = Known::default();
        self.refresh(&mut known)?;
        let mut survey = Survey::default();
        let mut start = 0;
        for (index, line) in known.bytes.split_inclusive(|byte| *byte == b'\n').enumerate() {
            let end = start + line.len() - 1;
            match parse(&known.bytes[start..end]) {
                Some((key, text)) if known.get(key).is_some_and(|(last, _)| last == start) => {
                    survey.entries.push((key, text.to_string()));
                }
                Some(_) => {}
                None if index == 0 && line == HEADER => {}
                None => survey.damaged.push(index + 1),
            }
            start += line.len();
        }
        Ok(survey)
    }

    /// Adds lines, all or none; with `durable` they survive a power cut once this returns.
    pub(super) fn append(&self, lines: &[(Hash, String)], durable: bool) -> Result<()> {
        let mut text = Vec::new();
        for (key, line) in lines {
            // A text of several lines would break the format: ours is compact JSON, which has none.
            assert!(!line.contains('\n'), "BUG: a line break in a log's line");
            let check = check(*key, line.as_bytes());
            text.extend_from_slice(format!("{key} {check} {line}\n").as_bytes());
        }
        let file = self.lock()?;
        let wrote = || format!("cannot write `{}`", self.path.display());
        let length = self.mend(&file)?;
        let begin = if length == 0 { HEADER } else { b"" };
        if let Err(error) = (&file).write_all(&[begin, &text].concat()) {
            // Half a line would do no harm, but it is nobody's.
            file.set_len(length).ok();
            return Err(error).with_context(wrote);
        }
        files::step("log: written");
        self.take_over(&file, length, begin, &text);
        if durable {
            file.sync_data().with_context(wrote)?;
            files::step("log: synced");
            if length == 0 {
                files::sync_dir(self.path.parent().unwrap_or(Path::new("")))?;
            }
        }
        Ok(())
    }

    /// What was just written need not be read again, if all before it is known.
    fn take_over(&self, file: &File, length: u64, begin: &[u8], text: &[u8]) {
        let mut known = self.known();
        let Ok(ours) = file.metadata().map(|metadata| id(&metadata)) else { return };
        if known.bytes.len() as u64 == length && (length == 0 || known.file == Some(ours)) {
            known.file = Some(ours);
            known.bytes.extend_from_slice(begin);
            known.bytes.extend_from_slice(text);
            known.note(length as usize);
        }
    }

    /// Keeps only the last line of each key that `keep` accepts.
    pub(super) fn rewrite(&self, keep: &dyn Fn(Hash, &str) -> bool) -> Result<()> {
        if !self.path.exists() {
            return Ok(());
        }
        let _lock = self.lock()?;
        let mut text = HEADER.to_vec();
        for (key, line) in self.survey()?.entries {
            if keep(key, &line) {
                text.extend_from_slice(format!("{key} {} {line}\n", check(key, line.as_bytes())).as_bytes());
            }
        }
        files::write_private(&self.path, &text)
    }

    /// Takes away what the last writer left of a line when it died, and tells the length of what is whole.
    fn mend(&self, mut file: &File) -> Result<u64> {
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

    /// The file, locked, and still the one that has the name.
    fn lock(&self) -> Result<File> {
        loop {
            let file = files::append_private(&self.path)?;
            file.lock().with_context(|| format!("cannot lock `{}`", self.path.display()))?;
            let ours = file.metadata().with_context(|| format!("cannot look at `{}`", self.path.display()))?;
            if fs::metadata(&self.path).is_ok_and(|named| id(&named) == id(&ours)) {
                return Ok(file);
            }
        }
    }

    /// Reads what was added since the last look, or everything if the file is another one.
    fn refresh(&self, known: &mut Known) -> Result<()> {
        let metadata = match fs::metadata(&self.path) {
            Ok(metadata) => metadata,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                *known = Known::default();
                return Ok(());
            }
            Err(error) => return Err(error).with_context(|| format!("cannot look at `{}`", self.path.display())),
        };
        if known.file != Some(id(&metadata)) || metadata.len() < known.bytes.len() as u64 {
            *known = Known { file: Some(id(&metadata)), ..Known::default() };
        }
        let from = known.bytes.len();
        if metadata.len() == from as u64 {
            return Ok(());
        }
        let read = || format!("cannot read `{}`", self.path.display());
        let mut file = files::open_plain(&self.path)?;
        file.seek(SeekFrom::Start(from as u64)).with_context(read)?;
        // The length of a file that a damaged file system tells may be more than there is memory.
        let more = usize::try_from(metadata.len()).unwrap_or(usize::MAX).saturating_sub(from);
        known.bytes.try_reserve(more).with_context(read)?;
        file.read_to_end(&mut known.bytes).with_context(read)?;
        // What has no line break yet is still being written, or never will be whole.
        let end = known.bytes.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
        known.bytes.truncate(end.max(from));
        known.note(from);
        Ok(())
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        // A panic elsewhere leaves a prefix of the file, which the next look completes.
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Known {
    /// Where the last line of a key that is whole begins, and its text.
    fn get(&self, key: Hash) -> Option<(usize, &str)> {
        let (start, end) = *self.lines.get(&key)?;
        if let Some((_, text)) = parse(&self.bytes[start..end]) {
            return Some((start, text));
        }
        // Damage is rare: whoever meets it looks at everything before it.
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

    /// Notes the keys of the lines from an offset on. Their checks are made when they are asked for.
    fn note(&mut self, from: usize) {
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

/// Key and text of a line, if it is what was written.
fn parse(line: &[u8]) -> Option<(Hash, &str)> {
    let line = std::str::from_utf8(line).ok()?;
    let (prefix, text) = (line.get(..PREFIX)?, line.get(PREFIX..)?);
    let key: Hash = prefix.get(..64)?.parse().ok()?;
    (prefix.get(64..)? == format!(" {} ", check(key, text.as_bytes()))).then_some((key, text))
}

fn check(key: Hash, text: &[u8]) -> String {
    let mut digits = Hash::of_bytes(&[key.bytes(), text].concat()).to_string();
    digits.truncate(16);
    digits
}

fn id(metadata: &fs::Metadata) -> (u64, u64) {
    (metadata.dev(), metadata.ino())
}

/// Keys are hashes already: their first bytes are as good as any.
#[derive(Default)]
struct FirstBytes(u64);

impl Hasher for FirstBytes {
    fn write(&mut self, bytes: &[u8]) {
        if let Some(first) = bytes.first_chunk::<8>() {
            self.0 = u64::from_le_bytes(*first);
        }
    }

    // The length of the array, which comes before its bytes.
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
    fn the_last_line_of_a_key_counts_and_others_see_it() {
        let (_folder, log) = log();
        let other = Log::new(log.path.clone());
        assert_eq!(other.get(key("a")), None);
        log.append(&[line("a", "1"), line("b", "2")], true).unwrap();
        assert_eq!(other.get(key("a")).as_deref(), Some("1"));
        log.append(&[line("a", "3")], false).unwrap();
        assert_eq!(other.get(key("a")).as_deref(), Some("3"));
        assert_eq!(other.survey().unwrap().entries, [line("b", "2"), line("a", "3")]);
    }

    #[test]
    fn a_line_that_was_cut_or_changed_is_not_there_and_costs_no_other() {
        let (_folder, log) = log();
        log.append(&[line("a", "1"), line("b", "2"), line("c", "3")], true).unwrap();
        let whole = files::read_bytes(&log.path).unwrap();
        for cut in HEADER.len()..whole.len() {
            files::write_atomic(&log.path, &whole[..cut]).unwrap();
            let again = Log::new(log.path.clone());
            again.append(&[line("d", "4")], true).unwrap();
            assert_eq!(again.get(key("d")).as_deref(), Some("4"), "cut at {cut}");
            let intact = ["a", "b", "c"].iter().filter(|name| again.get(key(name)).is_some()).count();
            let lines = whole[HEADER.len()..cut].split(|byte| *byte == b'\n').count() - 1;
            assert_eq!(intact, lines, "cut at {cut}");
            assert_eq!(again.survey().unwrap().damaged, [0; 0], "cut at {cut}");
        }
        for place in HEADER.len()..whole.len() {
            let mut flipped = whole.clone();
            flipped[place] ^= 1;
            files::write_atomic(&log.path, &flipped).unwrap();
            let again = Log::new(log.path.clone());
            let intact = ["a", "b", "c"].iter().filter(|name| again.get(key(name)).is_some()).count();
            // A line break that is none any more takes the line after it along.
            let lost = if whole[place] == b'\n' && place + 1 < whole.len() { 2 } else { 1 };
            assert_eq!(intact, 3 - lost, "flipped at {place}");
            assert!(!again.survey().unwrap().damaged.is_empty() || place + 1 == whole.len());
        }
    }

    #[test]
    fn a_line_that_was_cut_hides_no_earlier_one_of_its_key() {
        let (_folder, log) = log();
        log.append(&[line("a", "1"), line("b", "2"), line("a", "3")], true).unwrap();
        let whole = files::read_bytes(&log.path).unwrap();
        files::write_atomic(&log.path, &whole[..whole.len() - 3]).unwrap();
        log.append(&[line("c", "4")], true).unwrap();
        for log in [&log, &Log::new(log.path.clone())] {
            assert_eq!(log.get(key("a")).as_deref(), Some("1"));
            assert_eq!(log.survey().unwrap().entries, [line("a", "1"), line("b", "2"), line("c", "4")]);
        }
        log.rewrite(&|_, _| true).unwrap();
        assert_eq!(log.get(key("a")).as_deref(), Some("1"));
    }

    #[test]
    fn a_length_that_no_memory_has_is_an_error() {
        let (_folder, log) = log();
        log.append(&[line("a", "1")], true).unwrap();
        // A file of holes. File systems that have none so large cannot be damaged in this way.
        if files::append(&log.path).unwrap().set_len(1 << 62).is_ok() {
            assert_eq!(Log::new(log.path.clone()).get(key("a")), None);
            assert!(log.survey().is_err());
        }
    }

    #[test]
    fn a_rewrite_is_noticed_by_readers_and_writers() {
        let (_folder, log) = log();
        let other = Log::new(log.path.clone());
        log.append(&[line("a", "1"), line("b", "2"), line("a", "3")], true).unwrap();
        assert_eq!(other.get(key("b")).as_deref(), Some("2"));
        log.rewrite(&|found, _| found == key("a")).unwrap();
        assert_eq!(other.get(key("b")), None);
        other.append(&[line("c", "4")], true).unwrap();
        assert_eq!(log.survey().unwrap().entries, [line("a", "3"), line("c", "4")]);
    }

    #[test]
    fn writers_take_turns() {
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
        let survey = log.survey().unwrap();
        assert_eq!((survey.entries.len(), survey.damaged.len()), (200, 0));
    }
}
