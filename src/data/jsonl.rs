//! Reads and writes JSONL: one JSON object per line. Every error names the file and the line.

use std::io::{BufRead, BufWriter, Seek, SeekFrom, Write};
use std::path::Path;

use anyhow::{Context, Result, anyhow, bail};
use serde::Serialize;
use serde::de::{DeserializeOwned, IgnoredAny};

use ablate_core::base::files;

/// Maximum number of errors that are listed; further ones are counted.
const MAX_LISTED: usize = 10;

/// Reads every line as a `T`. Empty lines are skipped. Up to ten errors are reported together.
pub fn read<T: DeserializeOwned>(path: &Path) -> Result<Vec<T>> {
    let mut records = Vec::new();
    for_each(path, |_, record| records.push(record))?;
    Ok(records)
}

/// Calls `take` with every line as a `T` and the offset at which the line begins. Holds one line in memory at a time.
/// Errors are reported as in [`read`].
pub fn for_each<T: DeserializeOwned>(path: &Path, mut take: impl FnMut(u64, T)) -> Result<()> {
    let mut file = files::open(path)?;
    let mut errors = ErrorList::default();
    let (mut line, mut offset) = (Vec::new(), 0);
    for number in 1.. {
        line.clear();
        let length = file.read_until(b'\n', &mut line).with_context(|| format!("cannot read `{}`", path.display()))?;
        if length == 0 {
            break;
        }
        if !line.iter().all(u8::is_ascii_whitespace) {
            let text = line.strip_suffix(b"\n").unwrap_or(&line);
            let text =
                if offset == 0 { strip_bom(text).with_context(|| format!("`{}`", path.display()))? } else { text };
            match parse(text) {
                Ok(record) => take(offset, record),
                Err(_) if errors.is_empty() && is_pretty_printed(&lines(path)?) => {
                    bail!("{}:{number}: {MULTILINE_ROW}", path.display())
                }
                Err(what) => errors.add(format!("{}:{number}: {what}", path.display())),
            }
        }
        offset += length as u64;
    }
    errors.check()
}

/// Reads the record whose line begins at `offset`, an offset from [`for_each`].
pub fn read_at<T: DeserializeOwned>(path: &Path, offset: u64) -> Result<T> {
    let mut file = files::open(path)?;
    let mut line = Vec::new();
    file.seek(SeekFrom::Start(offset))
        .and_then(|_| file.read_until(b'\n', &mut line))
        .with_context(|| format!("cannot read `{}`", path.display()))?;
    let text = if offset == 0 { strip_bom(&line)? } else { &line[..] };
    parse(text).map_err(|what| anyhow!("{}, byte {offset}: {what}", path.display()))
}

/// Calls `take` with the records whose lines begin at `offsets`, which increase. The offsets are from [`for_each`].
pub fn for_each_at<T: DeserializeOwned>(path: &Path, offsets: &[u64], mut take: impl FnMut(T)) -> Result<()> {
    let mut file = files::open(path)?;
    let (mut line, mut position) = (Vec::new(), 0);
    for &offset in offsets {
        line.clear();
        // A relative seek keeps what the reader has buffered.
        let read = file.seek_relative(offset as i64 - position as i64).and_then(|()| file.read_until(b'\n', &mut line));
        position = offset + read.with_context(|| format!("cannot read `{}`", path.display()))? as u64;
        let text = if offset == 0 { strip_bom(&line)? } else { &line[..] };
        take(parse(text).map_err(|what| anyhow!("{}, byte {offset}: {what}", path.display()))?);
    }
    Ok(())
}

/// Reads the first `count` records that are `wanted`, and no further lines.
pub fn read_first<T: DeserializeOwned>(path: &Path, count: usize, wanted: impl Fn(&T) -> bool) -> Result<Vec<T>> {
    let mut found = Vec::new();
    for (index, line) in files::open(path)?.split(b'\n').enumerate() {
        if found.len() == count {
            break;
        }
        let line = line.with_context(|| format!("cannot read `{}`", path.display()))?;
        let record = parse(&line).map_err(|what| anyhow!("{}:{}: {what}", path.display(), index + 1))?;
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

/// Writes records one by one, for stages that do not hold all of them in memory.
pub struct Writer {
    path: std::path::PathBuf,
    file: BufWriter<std::fs::File>,
}

impl Writer {
    /// Creates a file, or replaces it.
    pub fn create(path: &Path) -> Result<Writer> {
        Ok(Writer { path: path.to_path_buf(), file: BufWriter::new(files::create(path)?) })
    }

    /// Appends to a file; creates it if it does not exist.
    pub fn append(path: &Path) -> Result<Writer> {
        Ok(Writer { path: path.to_path_buf(), file: BufWriter::new(files::append(path)?) })
    }

    pub fn push<T: Serialize>(&mut self, record: &T) -> Result<()> {
        serde_json::to_writer(&mut self.file, record)
            .map_err(anyhow::Error::from)
            .and_then(|()| self.file.write_all(b"\n").map_err(anyhow::Error::from))
            .with_context(|| format!("cannot write `{}`", self.path.display()))
    }

    /// Passes all pushed records to the operating system.
    pub fn flush(&mut self) -> Result<()> {
        self.file.flush().with_context(|| format!("cannot write `{}`", self.path.display()))
    }

    pub fn finish(mut self) -> Result<()> {
        self.flush()
    }
}

/// The error for a file whose objects span several lines.
pub(super) const MULTILINE_ROW: &str =
    "a row spans several lines: write each row on one line, or all rows as one JSON array";

/// The lines that are not empty, with their numbers from 1. The byte-order mark of UTF-8 is removed.
pub(super) fn lines(path: &Path) -> Result<Vec<(usize, Vec<u8>)>> {
    let mut lines = Vec::new();
    for (index, line) in files::open(path)?.split(b'\n').enumerate() {
        let mut line = line.with_context(|| format!("cannot read `{}`", path.display()))?;
        if index == 0 {
            let marks = line.len() - strip_bom(&line).with_context(|| format!("`{}`", path.display()))?.len();
            line.drain(..marks);
        }
        if !line.iter().all(u8::is_ascii_whitespace) {
            lines.push((index + 1, line));
        }
    }
    Ok(lines)
}

/// Removes the byte-order mark of UTF-8; one of UTF-16 or UTF-32 is an error.
pub(super) fn strip_bom(bytes: &[u8]) -> Result<&[u8]> {
    let zeros = bytes.iter().take(4).filter(|&&byte| byte == 0).count();
    if bytes.starts_with(&[0xff, 0xfe]) || bytes.starts_with(&[0xfe, 0xff]) || zeros > 0 {
        bail!("is UTF-16 or UTF-32: save it as UTF-8");
    }
    Ok(bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes))
}

/// Whether the objects of a file span several lines: the first line alone is not JSON, all lines together are.
pub(super) fn is_pretty_printed(lines: &[(usize, Vec<u8>)]) -> bool {
    let alone = |line: &[u8]| serde_json::from_slice::<IgnoredAny>(line).is_ok();
    if lines.first().is_none_or(|(_, first)| alone(first)) {
        return false;
    }
    let whole: Vec<u8> = lines.iter().flat_map(|(_, line)| line.iter().copied().chain([b'\n'])).collect();
    serde_json::Deserializer::from_slice(&whole).into_iter::<IgnoredAny>().all(|value| value.is_ok())
}

/// Parses a line as a `T`.
pub(super) fn parse<T: DeserializeOwned>(line: &[u8]) -> Result<T, String> {
    serde_json::from_slice(line).map_err(|error| describe_error(&error, line))
}

/// Describes an error within one line. serde's own line number would always be 1.
pub(super) fn describe_error(error: &serde_json::Error, line: &[u8]) -> String {
    let text = error.to_string();
    let text = match text.rsplit_once(" at line ") {
        Some((text, _)) => format!("{text} (column {})", error.column()),
        None => text,
    };
    if error.is_data() { text } else { not_json(line, error.column()).unwrap_or(format!("not JSON: {text}")) }
}

/// Literals of Python that are not JSON.
const PYTHON_LITERALS: [&str; 6] = ["-Infinity", "Infinity", "NaN", "None", "True", "False"];

/// A more specific reason than serde's why a line is not JSON; `column` is where serde stopped.
fn not_json(line: &[u8], column: usize) -> Option<String> {
    if let Err(error) = std::str::from_utf8(line) {
        let at = error.valid_up_to();
        return Some(format!("not UTF-8: the byte 0x{:02X} (column {}); save the file as UTF-8", line[at], at + 1));
    }
    let near = (column.saturating_sub(3)..=column).filter_map(|at| line.get(at..));
    let found = near.filter_map(|ahead| PYTHON_LITERALS.iter().find(|word| ahead.starts_with(word.as_bytes())));
    let word = found.max_by_key(|word| word.len())?;
    let instead = match *word {
        "True" | "False" => word.to_lowercase(),
        _ => "null".to_string(),
    };
    Some(format!("not JSON: `{word}` is not a JSON value (column {column}); write {instead}"))
}

/// Errors that are reported together.
#[derive(Debug, Default)]
pub struct ErrorList {
    listed: Vec<String>,
    more: usize,
    help: Option<String>,
}

impl ErrorList {
    /// Adds an error. Only the first ten are listed.
    pub fn add(&mut self, error: String) {
        if self.listed.len() < MAX_LISTED {
            self.listed.push(error);
        } else {
            self.more += 1;
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.listed.is_empty()
    }

    /// Sets the line after the errors; the first call wins.
    pub(super) fn help(&mut self, help: &str) {
        self.help.get_or_insert_with(|| help.to_string());
    }

    /// All errors as one.
    pub fn check(&self) -> Result<()> {
        if self.listed.is_empty() {
            return Ok(());
        }
        let more = if self.more > 0 { format!("\nand {} more", self.more) } else { String::new() };
        let help: String = self.help.iter().flat_map(|help| ["\n", help.as_str()]).collect();
        bail!("{}{more}{help}", self.listed.join("\n"))
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
    fn written_records_are_read_back() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("points.jsonl");
        write(&path, &[Point { x: 1 }, Point { x: -2 }]).unwrap();
        assert_eq!(files::read_text(&path).unwrap(), "{\"x\":1}\n{\"x\":-2}\n");
        assert_eq!(read::<Point>(&path).unwrap(), [Point { x: 1 }, Point { x: -2 }]);
    }

    #[test]
    fn a_record_is_read_by_its_offset() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("points.jsonl");
        files::write_atomic(&path, b"{\"x\":1}\n\n{\"x\":22}\r\n{\"x\":3}").unwrap();
        let mut seen = Vec::new();
        for_each(&path, |offset, Point { x }| seen.push((offset, x))).unwrap();
        assert_eq!(seen, [(0, 1), (9, 22), (19, 3)]);
        for (offset, x) in seen {
            assert_eq!(read_at::<Point>(&path, offset).unwrap(), Point { x });
        }
        assert!(read_at::<Point>(&path, 100).is_err());
    }

    #[test]
    fn every_error_names_its_line() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("points.jsonl");
        files::write_atomic(&path, b"{\"x\":1}\n\n{\"y\":1}\n{\"x\":\n\xff\n").unwrap();
        let error = read::<Point>(&path).unwrap_err().to_string().replace(&path.display().to_string(), "points.jsonl");
        expect_test::expect![[r"
            points.jsonl:3: missing field `x` (column 7)
            points.jsonl:4: not JSON: EOF while parsing a value (column 5)
            points.jsonl:5: not UTF-8: the byte 0xFF (column 1); save the file as UTF-8"]]
        .assert_eq(&error);
    }

    #[test]
    fn errors_name_bom_python_literals_and_encoding() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("points.jsonl");
        let read_text = |bytes: &[u8]| {
            files::write_atomic(&path, bytes).unwrap();
            match read::<Point>(&path) {
                Ok(points) => format!("{points:?}"),
                Err(error) => format!("{error:#}").replace(&path.display().to_string(), "points.jsonl"),
            }
        };
        let utf16: Vec<u8> = "{\"x\":1}".encode_utf16().flat_map(u16::to_le_bytes).collect();
        let cases: [&[u8]; 10] = [
            b"\xef\xbb\xbf{\"x\":1}\n",
            &[&[0xff, 0xfe], utf16.as_slice()].concat(),
            &utf16,
            b"{\"x\": NaN}",
            b"{\"x\": -Infinity}",
            b"{\"x\": None}",
            b"{\"x\": True}",
            b"{\"\xe9\": 1}",
            b"{\n  \"x\": 1\n}\n{\n  \"x\": 2\n}\n",
            b"{\"x\": \"NaN\"}",
        ];
        let read_text: Vec<String> = cases.iter().map(|bytes| read_text(bytes)).collect();
        expect_test::expect![[r#"
            [Point { x: 1 }]
            `points.jsonl`: is UTF-16 or UTF-32: save it as UTF-8
            `points.jsonl`: is UTF-16 or UTF-32: save it as UTF-8
            points.jsonl:1: not JSON: `NaN` is not a JSON value (column 7); write null
            points.jsonl:1: not JSON: `-Infinity` is not a JSON value (column 8); write null
            points.jsonl:1: not JSON: `None` is not a JSON value (column 7); write null
            points.jsonl:1: not JSON: `True` is not a JSON value (column 7); write true
            points.jsonl:1: not UTF-8: the byte 0xE9 (column 3); save the file as UTF-8
            points.jsonl:1: a row spans several lines: write each row on one line, or all rows as one JSON array
            points.jsonl:1: invalid type: string "NaN", expected i32 (column 11)"#]]
        .assert_eq(&read_text.join("\n"));
    }

    #[test]
    fn errors_beyond_ten_are_counted() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("points.jsonl");
        files::write_atomic(&path, "no\n".repeat(13).as_bytes()).unwrap();
        let error = read::<Point>(&path).unwrap_err().to_string();
        assert_eq!(error.lines().count(), 11);
        assert!(error.ends_with("and 3 more"), "{error}");
    }
}
