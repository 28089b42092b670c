//! Files of one JSON object per line. Knows no record type; every error names the file and the line.

use std::io::{BufRead, BufWriter, Seek, SeekFrom, Write};
use std::path::Path;

use anyhow::{Context, Result, anyhow, bail};
use serde::Serialize;
use serde::de::{DeserializeOwned, IgnoredAny};

use ablate_core::base::files;

/// ErrorList that are listed before the rest is only counted.
const MAX_LISTED: usize = 10;

/// Reads every line as a `T`. Empty lines are skipped; up to ten errors are reported at once.
pub fn read<T: DeserializeOwned>(path: &Path) -> Result<Vec<T>> {
    let mut records = Vec::new();
    for_each(path, |_, record| records.push(record))?;
    Ok(records)
}

/// Hands over every line as a `T` with the offset at which it begins, and holds one line at a time. ErrorList as in
/// [`read`].
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

/// The record whose line begins at an offset that [`for_each`] gave.
pub fn read_at<T: DeserializeOwned>(path: &Path, offset: u64) -> Result<T> {
    let mut file = files::open(path)?;
    let mut line = Vec::new();
    file.seek(SeekFrom::Start(offset))
        .and_then(|_| file.read_until(b'\n', &mut line))
        .with_context(|| format!("cannot read `{}`", path.display()))?;
    let text = if offset == 0 { strip_bom(&line)? } else { &line[..] };
    parse(text).map_err(|what| anyhow!("{}, byte {offset}: {what}", path.display()))
}

/// The first `count` records that are `wanted`, reading no further.
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

/// What is wrong with a file of which no line is a row.
pub(super) const MULTILINE_ROW: &str =
    "a row goes over several lines: write every row on a line of its own, or all of them as one JSON array";

/// The lines that are not empty, with their numbers from 1. A byte-order mark of UTF-8 is no part of them.
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

/// The beginning of a text without its byte-order mark; one of UTF-16 or UTF-32 is an error.
pub(super) fn strip_bom(bytes: &[u8]) -> Result<&[u8]> {
    let zeros = bytes.iter().take(4).filter(|&&byte| byte == 0).count();
    if bytes.starts_with(&[0xff, 0xfe]) || bytes.starts_with(&[0xfe, 0xff]) || zeros > 0 {
        bail!("is UTF-16 or UTF-32: save it as UTF-8");
    }
    Ok(bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes))
}

/// Whether the lines are no rows by themselves and all of them together are: objects that were written for reading.
pub(super) fn is_pretty_printed(lines: &[(usize, Vec<u8>)]) -> bool {
    let alone = |line: &[u8]| serde_json::from_slice::<IgnoredAny>(line).is_ok();
    if lines.first().is_none_or(|(_, first)| alone(first)) {
        return false;
    }
    let whole: Vec<u8> = lines.iter().flat_map(|(_, line)| line.iter().copied().chain([b'\n'])).collect();
    serde_json::Deserializer::from_slice(&whole).into_iter::<IgnoredAny>().all(|value| value.is_ok())
}

/// A line as a `T`, or what is wrong with it.
pub(super) fn parse<T: DeserializeOwned>(line: &[u8]) -> Result<T, String> {
    serde_json::from_slice(line).map_err(|error| describe_error(&error, line))
}

/// serde's words for one line: its own line number would always be 1.
pub(super) fn describe_error(error: &serde_json::Error, line: &[u8]) -> String {
    let text = error.to_string();
    let text = match text.rsplit_once(" at line ") {
        Some((text, _)) => format!("{text} (column {})", error.column()),
        None => text,
    };
    if error.is_data() { text } else { not_json(line, error.column()).unwrap_or(format!("not JSON: {text}")) }
}

/// Words that Python writes and JSON does not have.
const PYTHON_LITERALS: [&str; 6] = ["-Infinity", "Infinity", "NaN", "None", "True", "False"];

/// Why a line is not JSON, where there is a better word for it than serde's; `column` is where serde stopped.
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
    Some(format!("not JSON: `{word}` is no value there (column {column}); write {instead}"))
}

/// ErrorList that are reported together.
#[derive(Debug, Default)]
pub struct ErrorList {
    told: Vec<String>,
    more: usize,
    help: Option<String>,
}

impl ErrorList {
    /// Adds one; beyond ten they are only counted.
    pub fn add(&mut self, mistake: String) {
        if self.told.len() < MAX_LISTED {
            self.told.push(mistake);
        } else {
            self.more += 1;
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.told.is_empty()
    }

    /// A line that follows the errors; the first one stays.
    pub(super) fn help(&mut self, help: &str) {
        self.help.get_or_insert_with(|| help.to_string());
    }

    /// All errors as one error.
    pub fn check(&self) -> Result<()> {
        if self.told.is_empty() {
            return Ok(());
        }
        let more = if self.more > 0 { format!("\nand {} more", self.more) } else { String::new() };
        let help: String = self.help.iter().flat_map(|help| ["\n", help.as_str()]).collect();
        bail!("{}{more}{help}", self.told.join("\n"))
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
        for_each(&path, |offset, Point { x }| seen.push((offset, x))).unwrap();
        assert_eq!(seen, [(0, 1), (9, 22), (19, 3)]);
        for (offset, x) in seen {
            assert_eq!(read_at::<Point>(&path, offset).unwrap(), Point { x });
        }
        assert!(read_at::<Point>(&path, 100).is_err());
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
            points.jsonl:5: not UTF-8: the byte 0xFF (column 1); save the file as UTF-8"]]
        .assert_eq(&error);
    }

    #[test]
    fn texts_that_are_no_json_are_told_in_the_words_of_their_writer() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("points.jsonl");
        let told = |bytes: &[u8]| {
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
        let told: Vec<String> = cases.iter().map(|bytes| told(bytes)).collect();
        expect_test::expect![[r#"
            [Point { x: 1 }]
            `points.jsonl`: is UTF-16 or UTF-32: save it as UTF-8
            `points.jsonl`: is UTF-16 or UTF-32: save it as UTF-8
            points.jsonl:1: not JSON: `NaN` is no value there (column 7); write null
            points.jsonl:1: not JSON: `-Infinity` is no value there (column 8); write null
            points.jsonl:1: not JSON: `None` is no value there (column 7); write null
            points.jsonl:1: not JSON: `True` is no value there (column 7); write true
            points.jsonl:1: not UTF-8: the byte 0xE9 (column 3); save the file as UTF-8
            points.jsonl:1: a row goes over several lines: write every row on a line of its own, or all of them as one JSON array
            points.jsonl:1: invalid type: string "NaN", expected i32 (column 11)"#]]
        .assert_eq(&told.join("\n"));
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
