//! Files of one JSON object per line. Knows no record type; every error names the file and the line.

use std::io::{BufRead, BufWriter, Seek, SeekFrom, Write};
use std::path::Path;

use anyhow::{Context, Result, anyhow, bail};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::base::files;

/// Mistakes that are listed before the rest is only counted.
const LISTED: usize = 10;

/// Reads every line as a `T`. Empty lines are skipped; up to ten mistakes are reported at once.
pub fn read<T: DeserializeOwned>(path: &Path) -> Result<Vec<T>> {
    let mut records = Vec::new();
    each(path, |_, record| records.push(record))?;
    Ok(records)
}

/// Hands over every line as a `T` with the offset at which it begins, and holds one line at a time. Mistakes as in
/// [`read`].
pub fn each<T: DeserializeOwned>(path: &Path, mut take: impl FnMut(u64, T)) -> Result<()> {
    let mut file = files::open(path)?;
    let mut mistakes = Mistakes::default();
    let (mut line, mut offset) = (Vec::new(), 0);
    for number in 1.. {
        line.clear();
        let length = file.read_until(b'\n', &mut line).with_context(|| format!("cannot read `{}`", path.display()))?;
        if length == 0 {
            break;
        }
        if !line.iter().all(u8::is_ascii_whitespace) {
            match serde_json::from_slice(line.strip_suffix(b"\n").unwrap_or(&line)) {
                Ok(record) => take(offset, record),
                Err(error) => mistakes.add(format!("{}:{number}: {}", path.display(), explain(&error))),
            }
        }
        offset += length as u64;
    }
    mistakes.check()
}

/// The record whose line begins at an offset that [`each`] gave.
pub fn at<T: DeserializeOwned>(path: &Path, offset: u64) -> Result<T> {
    let mut file = files::open(path)?;
    let mut line = Vec::new();
    file.seek(SeekFrom::Start(offset))
        .and_then(|_| file.read_until(b'\n', &mut line))
        .with_context(|| format!("cannot read `{}`", path.display()))?;
    serde_json::from_slice(&line).map_err(|error| anyhow!("{}, byte {offset}: {}", path.display(), explain(&error)))
}

/// The first `count` records that are `wanted`, reading no further.
pub fn first<T: DeserializeOwned>(path: &Path, count: usize, wanted: impl Fn(&T) -> bool) -> Result<Vec<T>> {
    let mut found = Vec::new();
    for (index, line) in files::open(path)?.lines().enumerate() {
        if found.len() == count {
            break;
        }
        let line = line.with_context(|| format!("cannot read `{}`", path.display()))?;
        let record = serde_json::from_str(&line)
            .map_err(|error| anyhow!("{}:{}: {}", path.display(), index + 1, explain(&error)))?;
        if wanted(&record) {
            found.push(record);
        }
    }
    Ok(found)
}

/// Writes one object per line.
pub fn write<T: Serialize>(path: &Path, records: &[T]) -> Result<()> {
    let mut writer = Writer::create(path)?;
    for record in records {
        writer.push(record)?;
    }
    writer.finish()
}

/// Writes records one by one, for stages that do not hold all of them.
pub struct Writer {
    path: std::path::PathBuf,
    file: BufWriter<std::fs::File>,
}

impl Writer {
    /// A new file; one that is there is replaced.
    pub fn create(path: &Path) -> Result<Writer> {
        Ok(Writer { path: path.to_path_buf(), file: BufWriter::new(files::create(path)?) })
    }

    /// Goes on at the end of a file; creates it if need be.
    pub fn append(path: &Path) -> Result<Writer> {
        Ok(Writer { path: path.to_path_buf(), file: BufWriter::new(files::append(path)?) })
    }

    pub fn push<T: Serialize>(&mut self, record: &T) -> Result<()> {
        serde_json::to_writer(&mut self.file, record)
            .map_err(anyhow::Error::from)
            .and_then(|()| self.file.write_all(b"\n").map_err(anyhow::Error::from))
            .with_context(|| format!("cannot write `{}`", self.path.display()))
    }

    /// Hands what was pushed so far to the operating system.
    pub fn flush(&mut self) -> Result<()> {
        self.file.flush().with_context(|| format!("cannot write `{}`", self.path.display()))
    }

    pub fn finish(mut self) -> Result<()> {
        self.flush()
    }
}

/// The lines that are not empty, with their numbers from 1.
pub(super) fn lines(path: &Path) -> Result<Vec<(usize, Vec<u8>)>> {
    let mut lines = Vec::new();
    for (index, line) in files::open(path)?.split(b'\n').enumerate() {
        let line = line.with_context(|| format!("cannot read `{}`", path.display()))?;
        if !line.iter().all(u8::is_ascii_whitespace) {
            lines.push((index + 1, line));
        }
    }
    Ok(lines)
}

/// serde's words for one line: its own line number would always be 1.
pub(super) fn explain(error: &serde_json::Error) -> String {
    let text = error.to_string();
    let text = match text.rsplit_once(" at line ") {
        Some((text, _)) => format!("{text} (column {})", error.column()),
        None => text,
    };
    if error.is_data() { text } else { format!("not JSON: {text}") }
}

/// Mistakes of one file, reported together.
#[derive(Debug, Default)]
pub struct Mistakes {
    told: Vec<String>,
    more: usize,
}

impl Mistakes {
    pub fn add(&mut self, mistake: String) {
        if self.told.len() < LISTED {
            self.told.push(mistake);
        } else {
            self.more += 1;
        }
    }

    /// All mistakes as one error.
    pub fn check(&self) -> Result<()> {
        if self.told.is_empty() {
            return Ok(());
        }
        let more = if self.more > 0 { format!("\nand {} more", self.more) } else { String::new() };
        bail!("{}{more}", self.told.join("\n"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde::Deserialize;

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Point {
        x: i32,
    }

    #[test]
    fn what_was_written_is_read() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("points.jsonl");
        write(&path, &[Point { x: 1 }, Point { x: -2 }]).unwrap();
        assert_eq!(files::read_text(&path).unwrap(), "{\"x\":1}\n{\"x\":-2}\n");
        assert_eq!(read::<Point>(&path).unwrap(), [Point { x: 1 }, Point { x: -2 }]);
    }

    #[test]
    fn a_line_is_found_again_by_its_offset() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("points.jsonl");
        files::write_atomic(&path, b"{\"x\":1}\n\n{\"x\":22}\r\n{\"x\":3}").unwrap();
        let mut seen = Vec::new();
        each(&path, |offset, Point { x }| seen.push((offset, x))).unwrap();
        assert_eq!(seen, [(0, 1), (9, 22), (19, 3)]);
        for (offset, x) in seen {
            assert_eq!(at::<Point>(&path, offset).unwrap(), Point { x });
        }
        assert!(at::<Point>(&path, 100).is_err());
    }

    #[test]
    fn every_mistake_has_its_line() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("points.jsonl");
        files::write_atomic(&path, b"{\"x\":1}\n\n{\"y\":1}\n{\"x\":\n\xff\n").unwrap();
        let error = read::<Point>(&path).unwrap_err().to_string().replace(&path.display().to_string(), "points.jsonl");
        expect_test::expect![[r"
            points.jsonl:3: missing field `x` (column 7)
            points.jsonl:4: not JSON: EOF while parsing a value (column 5)
            points.jsonl:5: not JSON: expected value (column 1)"]]
        .assert_eq(&error);
    }

    #[test]
    fn mistakes_beyond_ten_are_counted() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("points.jsonl");
        files::write_atomic(&path, "no\n".repeat(13).as_bytes()).unwrap();
        let error = read::<Point>(&path).unwrap_err().to_string();
        assert_eq!(error.lines().count(), 11);
        assert!(error.ends_with("and 3 more"), "{error}");
    }
}
