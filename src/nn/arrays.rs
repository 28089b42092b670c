//! Named arrays of `f32` in one safetensors file, with one entry of metadata.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Result, bail};

use super::hub::{Dtype, Output, WeightFiles, writer};

/// One array to write.
pub(crate) struct Array<'a> {
    pub(crate) name: String,
    pub(crate) shape: Vec<usize>,
    pub(crate) values: &'a [f32],
}

/// Arrays in the expected order, and the metadata of the file.
pub(crate) type Contents = (Vec<Vec<f32>>, BTreeMap<String, String>);

/// Writes arrays and one entry of metadata atomically, array by array. Equal arrays give equal bytes. A value that is not
/// finite is an error.
pub(crate) fn write(path: &Path, arrays: Vec<Array>, metadata: (&str, &str)) -> Result<()> {
    let output = |Array { name, shape, values }| Output { name, shape, dtype: Dtype::F32, values };
    let outputs: Vec<Output> = arrays.into_iter().map(output).collect();
    writer::write_file(path, &outputs.iter().collect::<Vec<_>>(), metadata)
}

/// Reads the expected arrays of a file, in their order, and the metadata. An additional or missing array, another shape or
/// type, or a value that is not finite is an error.
pub(crate) fn read(path: &Path, expected: &[(String, Vec<usize>)]) -> Result<Contents> {
    let file = WeightFiles::open_file(path)?;
    for (name, _) in expected {
        let dtype = file.dtype(name)?;
        if dtype != Dtype::F32 {
            bail!("`{}`: array `{name}` is of type {dtype}, not F32", path.display());
        }
    }
    let mut known: Vec<&str> = expected.iter().map(|(name, _)| name.as_str()).collect();
    known.sort_unstable();
    let arrays = expected.iter().map(|(name, shape)| file.array(name, shape)).collect::<Result<_>>()?;
    file.refuse_unknown(|name| known.binary_search(&name).is_ok())?;
    Ok((arrays, file.metadata))
}
