//! The format of a file, from its first bytes. The extension decides only between kinds of text that is not JSON.

use std::fmt;
use std::io::Read;
use std::path::Path;

use super::OpenError;
use crate::jsonl;
use ablate_core::base::files;

/// A format of rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    JsonArray,
    JsonLines,
    Csv,
    Tsv,
    Parquet,
    /// Arrow's file format, with a footer (also called Feather).
    ArrowFile,
    /// Arrow's stream format, as `datasets` writes it.
    ArrowStream,
}

/// Number of bytes that are looked at.
const HEAD: u64 = 4096;

/// Formats that are not read: their first bytes, their name, and what to do.
const REFUSED: &[(&[u8], &str, &str)] = &[
    (b"\x1f\x8b", "compressed with gzip", "unpack it with `gunzip`"),
    (b"\x28\xb5\x2f\xfd", "compressed with zstd", "unpack it with `unzstd`"),
    (b"BZh", "compressed with bzip2", "unpack it with `bunzip2`"),
    (b"\xfd7zXZ\0", "compressed with xz", "unpack it with `unxz`"),
    (b"PK\x03\x04", "a zip archive or an Excel file", "unpack it, or save the table as CSV"),
    (b"\x89HDF", "an HDF5 file", "write its rows as JSONL, CSV or Parquet"),
    (b"\x93NUMPY", "a NumPy array", "write its rows as JSONL, CSV or Parquet"),
    (b"SQLite format 3", "an SQLite database", "write the rows of a query as CSV or JSONL"),
    (b"\x80\x04\x95", "a Python pickle", "write its rows as JSONL, CSV or Parquet"),
    (b"ORC", "an ORC file", "write its rows as Parquet"),
    (b"Obj\x01", "an Avro file", "write its rows as Parquet"),
    (b"FEA1", "a Feather file of version 1", "write it with `version=2`, or as Parquet"),
    (b"version https://git-lfs.github.com", "a pointer of Git LFS, not the data", "fetch the data with `git lfs pull`"),
];

impl Format {
    /// Determines the format of a file.
    pub fn of_file(path: &Path) -> Result<Format, OpenError> {
        let mut head = Vec::new();
        files::open(path)?
            .take(HEAD)
            .read_to_end(&mut head)
            .map_err(|error| anyhow::anyhow!("cannot read `{}`: {error}", path.display()))?;
        Format::of_bytes(&head, &extension(path))
            .map_err(|what| OpenError::Content(format!("{}: {what}", path.display())))
    }

    fn of_bytes(head: &[u8], extension: &str) -> Result<Format, String> {
        if head.starts_with(b"PAR1") {
            return Ok(Format::Parquet);
        }
        if head.starts_with(b"PARE") {
            return Err("the Parquet file is encrypted: write it without encryption".to_string());
        }
        if head.starts_with(b"ARROW1") {
            return Ok(Format::ArrowFile);
        }
        if head.starts_with(&[0xff; 4]) {
            return Ok(Format::ArrowStream);
        }
        if let Some((_, what, instead)) = REFUSED.iter().find(|(magic, ..)| head.starts_with(magic)) {
            return Err(format!("the file is {what}: {instead}"));
        }
        match extension {
            "csv" => return Ok(Format::Csv),
            "tsv" | "tab" => return Ok(Format::Tsv),
            "parquet" => return Err("the file ends in `.parquet`, but does not begin like a Parquet file".to_string()),
            "arrow" | "feather" => {
                return Err("the file ends like an Arrow file, but does not begin like one".to_string());
            }
            _ => {}
        }
        let text = jsonl::strip_bom(head).unwrap_or(head).trim_ascii_start();
        match text.first() {
            Some(b'[') => Ok(Format::JsonArray),
            // Text with another beginning is an error of the first row, with its line and column.
            Some(b'{') | None => Ok(Format::JsonLines),
            Some(_) if ["json", "jsonl", "ndjson"].contains(&extension) => Ok(Format::JsonLines),
            Some(_) if text.split(|byte| *byte == b'\n').next().is_some_and(|line| line.contains(&b'\t')) => {
                Ok(Format::Tsv)
            }
            Some(_) => {
                Err("the file is neither JSON, CSV, TSV, Parquet nor Arrow; a CSV file must end in `.csv`, a TSV \
                            file in `.tsv`"
                    .to_string())
            }
        }
    }
}

/// The extension of a file in lower case.
pub(super) fn extension(path: &Path) -> String {
    path.extension().unwrap_or_default().to_string_lossy().to_lowercase()
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Format::JsonArray => "a JSON array",
            Format::JsonLines => "JSONL",
            Format::Csv => "CSV",
            Format::Tsv => "TSV",
            Format::Parquet => "Parquet",
            Format::ArrowFile | Format::ArrowStream => "Arrow",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_format_follows_from_content() {
        let of = |head: &[u8], extension: &str| Format::of_bytes(head, extension);
        assert_eq!(of(b"\xef\xbb\xbf [1]", "txt"), Ok(Format::JsonArray));
        assert_eq!(of(b"{\"a\": 1}", ""), Ok(Format::JsonLines));
        assert_eq!(of(b"hello", "jsonl"), Ok(Format::JsonLines));
        assert_eq!(of(b"PAR1....", "json"), Ok(Format::Parquet));
        assert_eq!(of(b"ARROW1\0\0", ""), Ok(Format::ArrowFile));
        assert_eq!(of(b"\xff\xff\xff\xff\x10\0\0\0", "arrow"), Ok(Format::ArrowStream));
        assert_eq!(of(b"a,b\n[1],2", "csv"), Ok(Format::Csv));
        assert_eq!(of(b"index\tquestion\n", "txt"), Ok(Format::Tsv));
        let messages: Vec<String> = [
            of(b"\x1f\x8b\x08", "jsonl"),
            of(b"PK\x03\x04", "xlsx"),
            of(b"a,b\n1,2", "txt"),
            of(b"nothing", "parquet"),
            of(b"version https://git-lfs.github.com/spec/v1", "parquet"),
        ]
        .into_iter()
        .map(|result| result.unwrap_err())
        .collect();
        expect_test::expect![[r#"
            the file is compressed with gzip: unpack it with `gunzip`
            the file is a zip archive or an Excel file: unpack it, or save the table as CSV
            the file is neither JSON, CSV, TSV, Parquet nor Arrow; a CSV file must end in `.csv`, a TSV file in `.tsv`
            the file ends in `.parquet`, but does not begin like a Parquet file
            the file is a pointer of Git LFS, not the data: fetch the data with `git lfs pull`"#]]
        .assert_eq(&messages.join("\n"));
    }
}
