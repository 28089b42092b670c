//! Named arrays of `f32` in one safetensors file, with a text in its metadata. Knows no model.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Result, bail};

use super::hub::{Dtype, Folder, Output, writer};

/// One array to write.
pub(crate) struct Array<'a> {
    pub(crate) name: String,
    pub(crate) shape: Vec<usize>,
    pub(crate) values: &'a [f32],
}

/// Arrays in the order that was expected, and the file's metadata.
pub(crate) type Contents = (Vec<Vec<f32>>, BTreeMap<String, String>);

/// Writes arrays and a text in the file's metadata, atomically and one by one. Equal arrays give equal bytes; a number
/// that is not finite is an error.
pub(crate) fn write(path: &Path, arrays: Vec<Array>, metadata: (&str, &str)) -> Result<()> {
    let output = |Array { name, shape, values }| Output { name, shape, dtype: Dtype::F32, values };
    let outputs: Vec<Output> = arrays.into_iter().map(output).collect();
    writer::write_file(path, &outputs.iter().collect::<Vec<_>>(), metadata)
}

/// The arrays of a file, checked against what is expected, in that order, and the metadata.
/// An array too many, one that is missing, of another shape or type, or with a value that is not finite is an error.
pub(crate) fn read(path: &Path, expected: &[(String, Vec<usize>)]) -> Result<Contents> {
    let file = Folder::open_file(path)?;
    for (name, _) in expected {
        let dtype = file.dtype(name)?;
        if dtype != Dtype::F32 {
            bail!("`{}`: array `{name}` is of type {dtype}, not F32", path.display());
        }
    }
    let mut known: Vec<&str> = expected.iter().map(|(name, _)| name.as_str()).collect();
    known.sort_unstable();
    let arrays = expected.iter().map(|(name, shape)| file.array(name, shape)).collect::<Result<_>>()?;
    file.refuse_strangers(|name| known.binary_search(&name).is_ok())?;
    Ok((arrays, file.metadata))
}
