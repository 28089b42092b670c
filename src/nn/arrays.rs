//! Named arrays of `f32` in safetensors files. Knows no model.
//!
//! A file that is cut, lies about its sizes or holds another type is an error that names the file and the array.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use anyhow::{Context, Result, anyhow, bail};
use safetensors::SafeTensors;
use safetensors::tensor::{Dtype, TensorView};

use crate::base::files;

/// One array to write.
pub(crate) struct Array<'a> {
    pub(crate) name: String,
    pub(crate) shape: Vec<usize>,
    pub(crate) values: &'a [f32],
}

/// Arrays in the order that was expected, and the file's metadata.
pub(crate) type Contents = (Vec<Vec<f32>>, BTreeMap<String, String>);

/// Writes arrays and a text in the file's metadata, atomically. Equal arrays give equal bytes.
pub(crate) fn write(path: &Path, arrays: &[Array], metadata: (&str, String)) -> Result<()> {
    let bytes: Vec<Vec<u8>> =
        arrays.iter().map(|array| array.values.iter().flat_map(|value| value.to_le_bytes()).collect()).collect();
    let mut views = Vec::with_capacity(arrays.len());
    for (array, bytes) in arrays.iter().zip(&bytes) {
        let view = TensorView::new(Dtype::F32, array.shape.clone(), bytes)
            .map_err(|error| anyhow!("BUG: array `{}`: {error}", array.name))?;
        views.push((array.name.clone(), view));
    }
    // One key only: the map's order never shows.
    let metadata = HashMap::from([(metadata.0.to_string(), metadata.1)]);
    let file = safetensors::serialize(views, Some(metadata))
        .with_context(|| format!("cannot serialize `{}`", path.display()))?;
    files::write_atomic(path, &file)
}

/// The arrays of a file, checked against what is expected, in that order, and the metadata.
/// An array too many, one that is missing, of another shape or type, or with a value that is not finite is an error.
pub(crate) fn read(path: &Path, expected: &[(String, Vec<usize>)]) -> Result<Contents> {
    let bytes = files::read_bytes(path)?;
    read_from(&bytes, expected).with_context(|| format!("`{}`", path.display()))
}

fn read_from(bytes: &[u8], expected: &[(String, Vec<usize>)]) -> Result<Contents> {
    let (_, header) = SafeTensors::read_metadata(bytes).context("not a whole safetensors file")?;
    let file = SafeTensors::deserialize(bytes).context("not a whole safetensors file")?;
    let metadata = header.metadata().clone().unwrap_or_default().into_iter().collect();
    let mut arrays = Vec::with_capacity(expected.len());
    for (name, shape) in expected {
        let view = file.tensor(name).map_err(|_| anyhow!("array `{name}` is missing"))?;
        if view.dtype() != Dtype::F32 {
            bail!("array `{name}` is of type {:?}, not F32", view.dtype());
        }
        if view.shape() != shape {
            bail!("array `{name}` has the shape {:?}, not {shape:?}", view.shape());
        }
        let values: Vec<f32> = view.data().as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect();
        if let Some(at) = values.iter().position(|value| !value.is_finite()) {
            bail!("array `{name}` holds {} at place {at}", values[at]);
        }
        arrays.push(values);
    }
    let known: std::collections::BTreeSet<&str> = expected.iter().map(|(name, _)| name.as_str()).collect();
    let mut strangers: Vec<&str> = file.names().into_iter().filter(|name| !known.contains(name)).collect();
    strangers.sort_unstable();
    if let Some(name) = strangers.first() {
        bail!("array `{name}` belongs to no parameter of this model");
    }
    Ok((arrays, metadata))
}
