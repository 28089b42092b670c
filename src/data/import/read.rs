//! Reads the rows of files: determines format and layout of each file, and converts its rows.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::Path;

use anyhow::Result;

use super::columns::ColumnMap;
use super::example::{Context, Example};
use super::images::RowImages;
use super::layout::{Layout, RECOGNIZED};
use super::options::{ImportOptions, RowFile};
use super::{alpaca, conversations, rows, vlmevalkit};
use crate::jsonl::ErrorList;
use crate::records::{Item, Row};
use crate::tables::{OpenError, ReadOptions, Table, TextKeys, folder};

/// The keys whose numbers are kept as written if the user names no columns.
const TEXT_KEYS: &[&str] = &["id", "idx", "index", "answer", "answers", "options", "choices"];

/// What is read, besides the files.
#[derive(Clone, Copy, Debug)]
pub struct Source<'a> {
    pub columns: Option<&'a ColumnMap>,
    /// Whether the first line of a CSV or TSV file names the columns.
    pub header: bool,
    /// The split of folders.
    pub split: Option<&'a str>,
}

/// A record and its location: `file:line`, `file: row 17` or `file: element 3 (id `7`)`.
#[derive(Clone, Debug, PartialEq)]
pub struct Located<T> {
    pub location: String,
    /// Its image is the name of a member of the pack.
    pub record: T,
}

/// A file that was read, for messages.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReadFile {
    pub name: String,
    /// Layout and format.
    pub what: String,
    pub rows: usize,
    /// Columns that were not read.
    pub ignored: Vec<String>,
}

impl fmt::Display for ReadFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rows = if self.rows == 1 { "row" } else { "rows" };
        write!(f, "`{}`: {}, {} {rows}", self.name, self.what, grouped(self.rows))?;
        match self.ignored.len() {
            0 => Ok(()),
            _ => write!(f, "; not read: {}", rows::shown(&self.ignored)),
        }
    }
}

/// A number with commas between groups of three digits.
fn grouped(number: usize) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Why the files of a path cannot be chosen, before anything is read: missing or ambiguous splits, missing shards.
pub fn check_files(path: &Path, split: Option<&str>) -> Option<String> {
    folder::row_files(path, split).err().map(|error| format!("{error:#}"))
}

/// Reads items. Up to ten errors are reported together. If rows of a data set have equal ids, the second one is renamed
/// to `id#2`, and so on, skipping ids that another row has.
pub fn read_items(
    files: &[RowFile],
    source: Source<'_>,
    options: &ImportOptions,
    images: &mut RowImages,
) -> Result<(Vec<Located<Item>>, Vec<ReadFile>)> {
    let (mut located, read) = read(files, source, options, images, Example::item)?;
    rename_repeated(&mut located, |item| (&item.dataset, &mut item.id));
    Ok((located, read))
}

/// Reads training rows, as [`read_items`] reads items.
pub fn read_rows(
    files: &[RowFile],
    source: Source<'_>,
    images: &mut RowImages,
) -> Result<(Vec<Located<Row>>, Vec<ReadFile>)> {
    let (mut located, read) = read(files, source, &ImportOptions::default(), images, Example::row)?;
    rename_repeated(&mut located, |row| (&row.dataset, &mut row.id));
    Ok((located, read))
}

/// Converts a row, or returns all its errors.
type Convert<T> = fn(Example, &Context<'_>, &mut RowImages) -> Result<T, Vec<String>>;

fn read<T>(
    files: &[RowFile],
    source: Source<'_>,
    options: &ImportOptions,
    images: &mut RowImages,
    convert: Convert<T>,
) -> Result<(Vec<Located<T>>, Vec<ReadFile>)> {
    let mut reader = Reader { source, options, images, convert, errors: ErrorList::default(), located: Vec::new() };
    let mut read = Vec::new();
    for file in files {
        for path in folder::row_files(&file.path, source.split)? {
            let base = path.parent().filter(|_| path != file.path);
            match reader.file(&path, base, file) {
                Ok(file) => read.push(file),
                Err(OpenError::Io(error)) => return Err(error),
                Err(OpenError::Content(what)) => reader.errors.add(what),
            }
        }
    }
    reader.errors.check()?;
    Ok((reader.located, read))
}

struct Reader<'a, T> {
    source: Source<'a>,
    options: &'a ImportOptions,
    images: &'a mut RowImages,
    convert: Convert<T>,
    errors: ErrorList,
    located: Vec<Located<T>>,
}

impl<T> Reader<'_, T> {
    /// Reads one file. `base` is the folder of its image paths if the stage has none.
    fn file(&mut self, path: &Path, base: Option<&Path>, file: &RowFile) -> Result<ReadFile, OpenError> {
        let text_keys = if self.source.columns.is_some() { TextKeys::All } else { TextKeys::Named(TEXT_KEYS) };
        let mut table = Table::open(path, ReadOptions { header: self.source.header, text_keys }).inspect_err(|_| {
            // A file that is not JSON has no layout; most files are in LLaVA's.
            self.errors.help(super::llava::EXAMPLE);
        })?;
        let has = |name: &str| table.columns.iter().any(|column| column == name);
        if self.source.columns.is_none() && folder::is_metadata(path) && has("file_name") && !has("image") {
            table.rename("file_name", "image");
        }
        let layout = Layout::detect(&table.columns, self.source.columns).map_err(|what| {
            if self.source.columns.is_none() {
                self.errors.help(RECOGNIZED);
            }
            OpenError::Content(format!("{}: {what}", path.display()))
        })?;
        let read = ReadFile {
            name: path.file_name().unwrap_or_default().to_string_lossy().into_owned(),
            what: format!("{layout} of {}", table.format),
            rows: 0,
            ignored: table.columns.iter().filter(|column| !layout.reads(column)).cloned().collect(),
        };
        let mut pending = Vec::new();
        let mut rows = 0;
        let context = Context { file, base, options: self.options };
        let images = std::cell::RefCell::new(&mut *self.images);
        let (errors, located, convert) = (&mut self.errors, &mut self.located, self.convert);
        table.for_each(&|column| layout.reads(column), &mut |bytes| images.borrow_mut().store(bytes), &mut |row| {
            let mut images = images.borrow_mut();
            rows += 1;
            let example = match &layout {
                Layout::Conversations(_) | Layout::PromptCompletion => {
                    conversations::read(row.value, layout.keys(), &mut images)
                }
                Layout::Alpaca => alpaca::read(row.value, &mut images),
                Layout::Columns(map) => map.read(row.value, &mut images),
                Layout::Vlmevalkit => {
                    pending.push(vlmevalkit::read(row.location, row.value, &mut images));
                    return images.check();
                }
            };
            if example.is_err() {
                layout.example().into_iter().for_each(|help| errors.help(help));
            }
            let record = example.and_then(|example| convert(example, &context, &mut images));
            keep(row.location, record, located, errors);
            images.check()
        })?;
        vlmevalkit::resolve(&mut pending);
        for row in pending {
            let record = row.example.and_then(|example| convert(example, &context, self.images));
            keep(row.location, record, &mut self.located, &mut self.errors);
            self.images.check()?;
        }
        Ok(ReadFile { rows, ..read })
    }
}

fn keep<T>(location: String, record: Result<T, Vec<String>>, located: &mut Vec<Located<T>>, errors: &mut ErrorList) {
    match record {
        Ok(record) => located.push(Located { location, record }),
        Err(wrong) => wrong.into_iter().for_each(|what| errors.add(format!("{location}: {what}"))),
    }
}

/// Renames all but the first of the rows with equal id and data set.
fn rename_repeated<T>(located: &mut [Located<T>], parts: impl Fn(&mut T) -> (&String, &mut String)) {
    let name = |record: &mut T| {
        let (dataset, id) = parts(record);
        (dataset.clone(), id.clone())
    };
    let mut names: BTreeSet<(String, String)> = located.iter_mut().map(|row| name(&mut row.record)).collect();
    let mut counts: BTreeMap<(String, String), usize> = BTreeMap::new();
    for Located { record, .. } in located {
        let (dataset, given) = name(record);
        let count = counts.entry((dataset, given.clone())).or_default();
        *count += 1;
        while *count > 1 {
            parts(record).1.clone_from(&format!("{given}#{count}"));
            if names.insert(name(record)) {
                break;
            }
            *count += 1;
        }
    }
}
