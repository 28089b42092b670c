//! Tables: files of rows in the formats in which data sets are published, chosen by content. Every reader gives rows as
//! JSON values with their locations. Rows of CSV, Parquet and Arrow files are read one batch at a time.

mod arrow_file;
mod batches;
mod cells;
mod class_labels;
mod delimited;
pub mod folder;
mod format;
mod json;
mod lossless_json;
mod parquet_file;
pub mod parquet_writer;

use std::path::{Path, PathBuf};

use anyhow::Result;
use serde_json::{Map, Value};

pub use format::Format;
pub use lossless_json::TextKeys;

/// One row of a file.
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    /// `file:line`, `file: row 17`, or `file: element 3 (id `7`)`.
    pub location: String,
    /// An object, or whatever else a JSON file has in place of a row; or why the text is not JSON.
    pub value: Result<Value, String>,
}

/// How files are read.
#[derive(Clone, Copy, Debug)]
pub struct ReadOptions<'a> {
    /// Whether the first line of a CSV or TSV file names the columns. Without it, they are named `0`, `1`, ...
    pub header: bool,
    /// The keys whose numbers are kept as they are written.
    pub text_keys: TextKeys<'a>,
}

/// Stores the bytes of a binary cell and returns the value that stands for them in the row.
pub type StoreBytes<'a> = dyn FnMut(&[u8]) -> Result<Value> + 'a;

/// An open file of rows.
pub struct Table {
    pub path: PathBuf,
    pub format: Format,
    /// The names of the columns, in the order of the file; of a JSON file the keys of its objects.
    pub columns: Vec<String>,
    /// A column with another name than in the file: its name there, and its name.
    renamed: Option<(String, String)>,
    rows: Rows,
}

enum Rows {
    Json(Vec<Row>),
    Delimited(delimited::Reader),
    Parquet(parquet_file::Reader),
    Arrow(arrow_file::Reader),
}

/// Why a file cannot be read as a table. The text begins with the path.
#[derive(Debug)]
pub enum OpenError {
    /// The file system failed.
    Io(anyhow::Error),
    /// The content is wrong.
    Content(String),
}

impl From<anyhow::Error> for OpenError {
    fn from(error: anyhow::Error) -> OpenError {
        OpenError::Io(error)
    }
}

impl Table {
    /// Opens a file: reads its header, or a JSON file as a whole.
    pub fn open(path: &Path, options: ReadOptions<'_>) -> Result<Table, OpenError> {
        let format = Format::of_file(path)?;
        let (columns, rows) = match format {
            Format::JsonArray | Format::JsonLines => {
                let rows = json::read(path, format, options.text_keys)?;
                (json::columns(&rows), Rows::Json(rows))
            }
            Format::Csv | Format::Tsv => {
                let reader = delimited::Reader::open(path, format, options.header)?;
                (reader.columns().to_vec(), Rows::Delimited(reader))
            }
            Format::Parquet => {
                let reader = parquet_file::Reader::open(path)?;
                (reader.columns(), Rows::Parquet(reader))
            }
            Format::ArrowFile | Format::ArrowStream => {
                let reader = arrow_file::Reader::open(path, format)?;
                (reader.columns(), Rows::Arrow(reader))
            }
        };
        Ok(Table { path: path.to_path_buf(), format, columns, renamed: None, rows })
    }

    /// Gives a column another name.
    pub fn rename(&mut self, from: &str, to: &str) {
        for column in self.columns.iter_mut().filter(|column| *column == from) {
            *column = to.to_string();
        }
        self.renamed = Some((from.to_string(), to.to_string()));
    }

    /// Calls `take` with every row. Only the `wanted` columns are read from files that store columns; `store` gets the
    /// bytes of their binary cells.
    pub fn for_each(
        self,
        wanted: &dyn Fn(&str) -> bool,
        store: &mut StoreBytes<'_>,
        take: &mut dyn FnMut(Row) -> Result<()>,
    ) -> Result<(), OpenError> {
        let renamed = self.renamed;
        let name = |column: &str| match &renamed {
            Some((from, to)) if from == column => to.clone(),
            _ => column.to_string(),
        };
        let wanted: &dyn Fn(&str) -> bool = &|column| wanted(&name(column));
        let take: &mut dyn FnMut(Row) -> Result<()> = &mut |mut row| {
            if let (Some((from, to)), Ok(Value::Object(fields))) = (&renamed, &mut row.value)
                && let Some(value) = fields.remove(from)
            {
                fields.insert(to.clone(), value);
            }
            take(row)
        };
        match self.rows {
            Rows::Json(rows) => Ok(rows.into_iter().try_for_each(take)?),
            Rows::Delimited(reader) => reader.for_each(take),
            Rows::Parquet(reader) => reader.for_each(wanted, store, take),
            Rows::Arrow(reader) => reader.for_each(wanted, store, take),
        }
    }
}

/// An object of the cells that are not null.
fn object(cells: impl Iterator<Item = (String, Value)>) -> Map<String, Value> {
    cells.filter(|(_, value)| !value.is_null()).collect()
}
