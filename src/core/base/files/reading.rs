//! Reads files. A pipe or a device in the place of a file is an error, and every error names its path.

use std::fs::File;
use std::io::{BufReader, Read};
use std::path::Path;

use anyhow::{Context, Result};
use serde::de::DeserializeOwned;

use crate::base::plain;

/// Reads a text file.
pub fn read_text(path: &Path) -> Result<String> {
    plain::read_text(path).with_context(|| format!("cannot read `{}`", path.display()))
}

/// Reads a file.
pub fn read_bytes(path: &Path) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let read = plain::open(path).and_then(|mut file| file.read_to_end(&mut bytes));
    read.with_context(|| format!("cannot read `{}`", path.display()))?;
    Ok(bytes)
}

/// Opens a file for buffered reading.
pub fn open(path: &Path) -> Result<BufReader<File>> {
    Ok(BufReader::with_capacity(1 << 18, open_plain(path)?))
}

/// Opens a file for reading; a pipe or a device in its place is an error.
pub fn open_plain(path: &Path) -> Result<File> {
    plain::open(path).with_context(|| format!("cannot open `{}`", path.display()))
}

/// Reads a JSON document.
pub fn read_json<T: DeserializeOwned>(path: &Path) -> Result<T> {
    let text = read_text(path)?;
    serde_json::from_str(&text).with_context(|| format!("`{}` is not the JSON it should be", path.display()))
}
