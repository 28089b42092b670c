//! Rows of JSON files: the elements of an array, or one row per line.

use std::collections::BTreeSet;
use std::path::Path;

use anyhow::Context;
use serde_json::Value;

use super::lossless_json::{self, TextKeys};
use super::{Format, OpenError, Row};
use crate::jsonl;
use ablate_core::base::files;

/// All rows of a file, each with its location or the error of its text.
pub(super) fn read(path: &Path, format: Format, keys: TextKeys<'_>) -> Result<Vec<Row>, OpenError> {
    if format == Format::JsonArray { elements(path, keys) } else { lines(path, keys) }
}

/// The keys of the rows in the order in which they occur; of rows that are lists, their positions.
pub(super) fn columns(rows: &[Row]) -> Vec<String> {
    let mut seen = BTreeSet::new();
    let mut columns = Vec::new();
    let mut add = |key: String| {
        if seen.insert(key.clone()) {
            columns.push(key);
        }
    };
    for value in rows.iter().filter_map(|row| row.value.as_ref().ok()) {
        match value {
            Value::Object(fields) => fields.keys().for_each(|key| add(key.clone())),
            Value::Array(values) => (0..values.len()).for_each(|at| add(at.to_string())),
            _ => {}
        }
    }
    columns
}

fn lines(path: &Path, keys: TextKeys<'_>) -> Result<Vec<Row>, OpenError> {
    let name = path.display();
    let lines = jsonl::lines(path)?;
    let read = |line: &[u8]| lossless_json::parse(line, keys).map_err(|error| error.message);
    let rows: Vec<Row> =
        lines.iter().map(|(number, line)| Row { location: format!("{name}:{number}"), value: read(line) }).collect();
    match rows.first() {
        Some(Row { location, value: Err(_) }) if jsonl::is_pretty_printed(&lines) => {
            Err(OpenError::Content(format!("{location}: {}", jsonl::MULTILINE_ROW)))
        }
        _ => Ok(rows),
    }
}

/// The elements of a JSON array with their locations.
fn elements(path: &Path, keys: TextKeys<'_>) -> Result<Vec<Row>, OpenError> {
    let name = path.display();
    let bytes = files::read_bytes(path)?;
    let text = jsonl::strip_bom(&bytes).with_context(|| format!("`{name}`"))?;
    match lossless_json::parse(text, keys) {
        Ok(Value::Array(elements)) => Ok(elements
            .into_iter()
            .enumerate()
            .map(|(index, element)| {
                let id = element.get("id").and_then(Value::as_str).map(|id| format!(" (id `{id}`)"));
                let location = format!("{name}: element {}{}", index + 1, id.unwrap_or_default());
                Row { location, value: Ok(element) }
            })
            .collect()),
        Ok(_) => Err(OpenError::Content(format!("{name}: the file is not a JSON array"))),
        Err(error) => Err(OpenError::Content(format!("{name}:{}: {}", error.line, error.message))),
    }
}
