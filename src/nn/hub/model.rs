//! Reads a model's weights from a Hugging Face folder by parameter, and writes them back under their names.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result, bail};

use super::dtype::Dtype;
use super::families::{self, gemma3};
use super::names::{self, NamingScheme};
use super::reader::WeightFiles;
use super::writer::{self, Output};
use crate::architecture::Architecture;
use crate::checkpoint::Rounding;
use crate::parameters::Parameter;
use ablate_core::base::files;

/// How a folder names and stores arrays, to write it back in the same way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StorageFormat {
    pub scheme: NamingScheme,
    /// The number type of each parameter.
    pub dtypes: Vec<Dtype>,
}

const HEAD: &str = "lm_head.weight";
const EMBEDDING: &str = "model.embed_tokens.weight";

/// Reads every parameter in order, and how they are stored. A missing array, one of another shape or one that is not a
/// parameter is an error before any array is read.
pub(crate) fn read(
    folder: &Path,
    architecture: &Architecture,
    parameters: &[Parameter],
) -> Result<(Vec<Vec<f32>>, StorageFormat)> {
    let arrays = WeightFiles::open(folder)?;
    let names: Vec<&str> = arrays.names().collect();
    let scheme = families::schemes(architecture.family).find(&names);
    let scheme = scheme.with_context(|| format!("`{}`", folder.display()))?;
    let expected: Vec<(String, Vec<usize>)> =
        parameters.iter().map(|parameter| (scheme.to_file(&parameter.name), file_shape(parameter))).collect();
    let mut known: Vec<&str> = expected.iter().map(|(name, _)| name.as_str()).collect();
    let head = scheme.to_file(HEAD);
    if architecture.decoder.tied_head {
        known.push(&head);
    }
    known.sort_unstable();
    arrays.refuse_unknown(|name| known.binary_search(&name).is_ok() || names::is_buffer(name))?;
    let mut dtypes = Vec::with_capacity(expected.len());
    let imported = imported(folder)?;
    for (name, shape) in &expected {
        arrays.check(name, shape)?;
        dtypes.push(imported.get(name).copied().map_or_else(|| arrays.dtype(name), Ok)?);
    }
    let mut weights = Vec::with_capacity(expected.len());
    for ((name, shape), parameter) in expected.iter().zip(parameters) {
        let values = arrays.array(name, shape)?;
        weights.push(if gemma3::is_transposed(&parameter.name) { transpose(&values, shape) } else { values });
    }
    if architecture.decoder.tied_head && arrays.has(&head) {
        check_tie(&arrays, &head, parameters, &weights)?;
    }
    Ok((weights, StorageFormat { scheme, dtypes }))
}

/// The shape of a parameter in the files.
fn file_shape(parameter: &Parameter) -> Vec<usize> {
    let mut shape = parameter.shape.clone();
    if gemma3::is_transposed(&parameter.name) {
        shape.reverse();
    }
    shape
}

/// A matrix with its rows as columns.
fn transpose(values: &[f32], shape: &[usize]) -> Vec<f32> {
    let columns = shape[1];
    (0..columns).flat_map(|column| values.iter().skip(column).step_by(columns).copied()).collect()
}

/// Whether the files of a model have no head of their own: none, or one that equals the token embedding.
pub(crate) fn is_tied(folder: &Path, architecture: &Architecture) -> Result<bool> {
    let arrays = WeightFiles::open(folder)?;
    let names: Vec<&str> = arrays.names().collect();
    let scheme = families::schemes(architecture.family).find(&names);
    let scheme = scheme.with_context(|| format!("`{}`", folder.display()))?;
    let (head, embedding) = (scheme.to_file(HEAD), scheme.to_file(EMBEDDING));
    if !arrays.has(&head) {
        return Ok(true);
    }
    let shape = [architecture.vocab, architecture.decoder.dim];
    Ok(arrays.array(&head, &shape)? == arrays.array(&embedding, &shape)?)
}

/// A tied head that is stored must equal the embedding: transformers would untie them otherwise.
fn check_tie(arrays: &WeightFiles, head: &str, parameters: &[Parameter], weights: &[Vec<f32>]) -> Result<()> {
    let embedding = parameters.iter().zip(weights).find(|(parameter, _)| parameter.name == EMBEDDING);
    if let Some((Parameter { shape, .. }, values)) = embedding
        && arrays.array(head, shape)? != *values
    {
        bail!("array `{head}` differs from the token embedding, but `tie_word_embeddings` is true");
    }
    Ok(())
}

/// The file with the imported number types of arrays that training has changed to F32.
const IMPORTED: &str = "imported_types.json";

/// The number types in [`IMPORTED`] by array name.
fn imported(folder: &Path) -> Result<BTreeMap<String, Dtype>> {
    let path = folder.join(IMPORTED);
    if path.is_file() { files::read_json(&path) } else { Ok(BTreeMap::new()) }
}

/// Writes parameters under the names of the folder from which they were read. Returns the number type that the config must
/// name so that transformers rounds nothing when it reads the folder; none if the config is already right.
pub(crate) fn write(
    folder: &Path,
    format: &StorageFormat,
    parameters: &[Parameter],
    weights: &[Arc<Vec<f32>>],
    rounding: Rounding,
) -> Result<Option<Dtype>> {
    let dtype = |read: Dtype, values: &[f32]| match rounding {
        Rounding::Exact if !read.fits(values) => Dtype::F32,
        Rounding::Exact | Rounding::AsImported => read,
        Rounding::To(dtype) => dtype,
    };
    let to_transpose = parameters.iter().zip(weights).filter(|(parameter, _)| gemma3::is_transposed(&parameter.name));
    let transposed: BTreeMap<&String, Vec<f32>> =
        to_transpose.map(|(parameter, values)| (&parameter.name, transpose(values, &parameter.shape))).collect();
    let outputs: Vec<Output> = parameters
        .iter()
        .zip(weights)
        .zip(&format.dtypes)
        .map(|((parameter, values), read)| Output {
            name: format.scheme.to_file(&parameter.name),
            shape: file_shape(parameter),
            dtype: dtype(*read, values),
            values: transposed.get(&parameter.name).unwrap_or(values),
        })
        .collect();
    writer::write(folder, &outputs)?;
    let others = outputs.iter().zip(&format.dtypes).filter(|(output, read)| output.dtype != **read);
    let widened: BTreeMap<&str, Dtype> = others.map(|(output, read)| (output.name.as_str(), *read)).collect();
    let all = |dtype: Dtype| format.dtypes.iter().all(|read| *read == dtype);
    Ok(match rounding {
        Rounding::Exact if widened.is_empty() => None,
        Rounding::Exact => {
            files::write_json(&folder.join(IMPORTED), &widened)?;
            Some(Dtype::F32)
        }
        Rounding::AsImported => Some(format.dtypes.first().copied().filter(|dtype| all(*dtype)).unwrap_or(Dtype::F32)),
        Rounding::To(dtype) => Some(dtype),
    })
}
