//! Rows of CSV and TSV files. Every cell is a text; an empty one counts as null.

use std::fs::File;
use std::io::{BufReader, Read, Seek, SeekFrom};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::{Format, OpenError, Row, object};
use crate::jsonl;
use ablate_core::base::files;

/// A file whose header was read.
pub(super) struct Reader {
    path: PathBuf,
    columns: Vec<String>,
    delimiter: u8,
    records: csv::Reader<BufReader<File>>,
    /// The file again, for the lines of rows, and the offset at which the records begin.
    file: File,
    start: u64,
}

impl Reader {
    pub(super) fn open(path: &Path, format: Format, header: bool) -> Result<Reader, OpenError> {
        let name = path.display();
        let content = |what: String| OpenError::Content(format!("{name}: {what}"));
        let mut file = files::open(path)?;
        let mut head = [0; 4];
        let length = file.read(&mut head).map_err(|error| anyhow::anyhow!("cannot read `{name}`: {error}"))?;
        let text = jsonl::strip_bom(&head[..length]).map_err(|error| content(error.to_string()))?;
        let start = (length - text.len()) as u64;
        file.seek(SeekFrom::Start(start)).map_err(|error| anyhow::anyhow!("cannot read `{name}`: {error}"))?;
        let delimiter = if format == Format::Tsv { b'\t' } else { b',' };
        let mut records = csv::ReaderBuilder::new().delimiter(delimiter).has_headers(header).from_reader(file);
        // Without a header, this is the first record; it is read again later.
        let first = records.headers().map_err(|error| OpenError::Content(describe(path, &error)))?;
        let columns: Vec<String> = if header {
            first.iter().map(str::to_string).collect()
        } else {
            (0..first.len()).map(|at| at.to_string()).collect()
        };
        if let Some((at, twice)) =
            columns.iter().enumerate().find(|(at, name)| !name.is_empty() && columns[..*at].contains(name))
        {
            return Err(content(format!("the header names the column `{twice}` twice (column {})", at + 1)));
        }
        Ok(Reader { path: path.to_path_buf(), columns, delimiter, records, file: files::open_file(path)?, start })
    }

    pub(super) fn columns(&self) -> &[String] {
        &self.columns
    }

    pub(super) fn for_each(mut self, take: &mut dyn FnMut(Row) -> anyhow::Result<()>) -> Result<(), OpenError> {
        let name = self.path.display().to_string();
        let mut record = csv::StringRecord::new();
        let mut last = csv::Position::new();
        loop {
            match self.records.read_record(&mut record) {
                Ok(false) => return self.check_last_quote(&last),
                Ok(true) => {
                    let position = record.position().cloned().unwrap_or_else(csv::Position::new);
                    let line = position.line() + self.skipped_lines(position.byte())?;
                    last = position;
                    let cells = self.columns.iter().zip(&record);
                    let cells = cells.map(|(column, text)| {
                        let value = if text.is_empty() { Value::Null } else { Value::String(text.to_string()) };
                        (column.clone(), value)
                    });
                    take(Row { location: format!("{name}:{line}"), value: Ok(Value::Object(object(cells))) })?;
                }
                Err(error) if error.is_io_error() => {
                    return Err(OpenError::Io(anyhow::anyhow!("cannot read `{name}`: {error}")));
                }
                Err(error) => return Err(OpenError::Content(describe(&self.path, &error))),
            }
        }
    }
}

impl Reader {
    /// The number of line ends at an offset: a record's position is before the empty lines above it.
    fn skipped_lines(&self, offset: u64) -> Result<u64, OpenError> {
        let (mut at, mut lines) = (self.start + offset, 0);
        let mut bytes = [0; 64];
        loop {
            let length = self.file.read_at(&mut bytes, at).map_err(|error| self.unreadable(&error))?;
            let ends = bytes[..length].iter().take_while(|byte| matches!(byte, b'\r' | b'\n'));
            let (mut count, mut line_ends) = (0, 0);
            for end in ends {
                count += 1;
                line_ends += u64::from(*end == b'\n');
            }
            lines += line_ends;
            if count < length || length == 0 {
                return Ok(lines);
            }
            at += count as u64;
        }
    }

    /// Refuses a file whose last record has a quote that is not closed: the parser takes the rest of the file as the text
    /// of the cell. `last` is the record's position.
    fn check_last_quote(&self, last: &csv::Position) -> Result<(), OpenError> {
        let mut tail = Vec::new();
        let mut file = &self.file;
        file.seek(SeekFrom::Start(self.start + last.byte()))
            .and_then(|_| file.read_to_end(&mut tail))
            .map_err(|error| self.unreadable(&error))?;
        if !tail.contains(&b'"') {
            return Ok(());
        }
        tail.extend_from_slice(b"\nend");
        let mut records = csv::ReaderBuilder::new();
        let mut records = records.delimiter(self.delimiter).has_headers(false).flexible(true).from_reader(&tail[..]);
        let last_record = records.byte_records().last().and_then(Result::ok);
        if last_record.is_some_and(|record| record.iter().eq([&b"end"[..]])) {
            return Ok(());
        }
        let line = last.line() + self.skipped_lines(last.byte())?;
        Err(OpenError::Content(format!(
            "{}:{line}: a quote is not closed, so the row ends at the end of the file",
            self.path.display()
        )))
    }

    fn unreadable(&self, error: &std::io::Error) -> OpenError {
        OpenError::Io(anyhow::anyhow!("cannot read `{}`: {error}", self.path.display()))
    }
}

/// Describes an error with the line of the row.
fn describe(path: &Path, error: &csv::Error) -> String {
    let name = path.display();
    let line = error.position().map(|position| format!(":{}", position.line())).unwrap_or_default();
    match error.kind() {
        csv::ErrorKind::UnequalLengths { expected_len, len, .. } => format!(
            "{name}{line}: the row has {len} cells, but the first line has {expected_len}: a cell with a separator, a line \
             break or a quote must be quoted, and a quote inside it doubled"
        ),
        csv::ErrorKind::Utf8 { err, .. } => {
            format!("{name}{line}: cell {} is not UTF-8: save the file as UTF-8", err.field() + 1)
        }
        _ => format!("{name}{line}: {error}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(format: Format, header: bool, bytes: &[u8]) -> Result<Vec<String>, String> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.csv");
        files::write_atomic(&path, bytes).unwrap();
        let mut rows = Vec::new();
        let read = Reader::open(&path, format, header).and_then(|reader| {
            reader.for_each(&mut |row| {
                rows.push(format!("{} {}", row.location, row.value.unwrap()));
                Ok(())
            })
        });
        let root = format!("{}/", folder.path().display());
        match read {
            Ok(()) => Ok(rows.iter().map(|row| row.replace(&root, "")).collect()),
            Err(OpenError::Content(what)) => Err(what.replace(&root, "")),
            Err(OpenError::Io(error)) => Err(error.to_string().replace(&root, "")),
        }
    }

    #[test]
    fn quotes_line_breaks_and_byte_order_marks_are_read() {
        let text = "\u{feff}q,a\r\n\"one, \"\"two\"\"\nthree\",4\n\nfive,\n";
        let rows = read(Format::Csv, true, text.as_bytes()).unwrap();
        assert_eq!(rows, [r#"a.csv:2 {"q":"one, \"two\"\nthree","a":"4"}"#, r#"a.csv:5 {"q":"five"}"#]);
        let rows = read(Format::Tsv, true, b"q\ta\nit's \"x\"\t1,5\n\"a\tb\"\t2\n").unwrap();
        assert_eq!(rows, [r#"a.csv:2 {"q":"it's \"x\"","a":"1,5"}"#, r#"a.csv:3 {"q":"a\tb","a":"2"}"#]);
        let rows = read(Format::Csv, false, b"q,a\nx,y\n").unwrap();
        assert_eq!(rows, [r#"a.csv:1 {"0":"q","1":"a"}"#, r#"a.csv:2 {"0":"x","1":"y"}"#]);
        assert_eq!(read(Format::Csv, true, b"").unwrap(), [""; 0]);
    }

    #[test]
    fn malformed_files_are_errors() {
        let errors = [
            read(Format::Csv, true, b"q,a\nx,y\nx,y,z\n"),
            read(Format::Csv, true, b"q,a\nx,\"y\n"),
            read(Format::Csv, true, b"q,q\nx,y\n"),
            read(Format::Csv, true, b"q,a\nx,\xe9\n"),
            read(Format::Csv, true, &"q,a".encode_utf16().flat_map(u16::to_le_bytes).collect::<Vec<u8>>()),
        ];
        let errors: Vec<String> = errors.map(|result| format!("{result:?}")).to_vec();
        expect_test::expect![[r#"
            Err("a.csv:3: the row has 3 cells, but the first line has 2: a cell with a separator, a line break or a quote must be quoted, and a quote inside it doubled")
            Err("a.csv:2: a quote is not closed, so the row ends at the end of the file")
            Err("a.csv: the header names the column `q` twice (column 2)")
            Err("a.csv:2: cell 2 is not UTF-8: save the file as UTF-8")
            Err("a.csv: is UTF-16 or UTF-32: save it as UTF-8")"#]].assert_eq(&errors.join("\n"));
    }
}
