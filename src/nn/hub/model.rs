//! A model's weights from a hub folder, by parameter, and back under the names that they had. Knows no tensor.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result, bail};

use super::names::{self, Scheme};
use super::number::Dtype;
use super::weights::Folder;
use super::writer::{self, Output};
use crate::architecture::Architecture;
use crate::checkpoint::Rounding;
use crate::parameters::Parameter;
use ablate_core::base::files;

/// How a folder stores a model besides its numbers: what writing it back needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Form {
    pub scheme: Scheme,
    /// By parameter.
    pub dtypes: Vec<Dtype>,
}

const HEAD: &str = "lm_head.weight";
const EMBEDDING: &str = "model.embed_tokens.weight";

/// Reads every parameter (our name and shape), in their order, and how they were stored. An array that is missing, of
/// another shape or of no parameter is an error before any is read.
pub(crate) fn read(
    folder: &Path,
    architecture: &Architecture,
    parameters: &[Parameter],
) -> Result<(Vec<Vec<f32>>, Form)> {
    let arrays = Folder::open(folder)?;
    let names: Vec<&str> = arrays.names().collect();
    let scheme =
        Scheme::of(&names, architecture.vision.is_some()).with_context(|| format!("`{}`", folder.display()))?;
    let expected: Vec<(String, &[usize])> =
        parameters.iter().map(|parameter| (scheme.in_file(&parameter.name), parameter.shape.as_slice())).collect();
    let mut known: Vec<&str> = expected.iter().map(|(name, _)| name.as_str()).collect();
    let head = scheme.in_file(HEAD);
    if architecture.decoder.tied_head {
        known.push(&head);
    }
    known.sort_unstable();
    arrays.refuse_strangers(|name| known.binary_search(&name).is_ok() || names::is_table(name))?;
    let mut dtypes = Vec::with_capacity(expected.len());
    let imported = imported(folder)?;
    for (name, shape) in &expected {
        arrays.check(name, shape)?;
        dtypes.push(imported.get(name).copied().map_or_else(|| arrays.dtype(name), Ok)?);
    }
    let mut weights = Vec::with_capacity(expected.len());
    for (name, shape) in &expected {
        weights.push(arrays.array(name, shape)?);
    }
    if architecture.decoder.tied_head && arrays.has(&head) {
        check_tie(&arrays, &head, parameters, &weights)?;
    }
    Ok((weights, Form { scheme, dtypes }))
}

/// A head that is stored although it is tied must be the embedding: transformers would untie them otherwise.
fn check_tie(arrays: &Folder, head: &str, parameters: &[Parameter], weights: &[Vec<f32>]) -> Result<()> {
    let embedding = parameters.iter().zip(weights).find(|(parameter, _)| parameter.name == EMBEDDING);
    if let Some((Parameter { shape, .. }, values)) = embedding
        && arrays.array(head, shape)? != *values
    {
        bail!("array `{head}` differs from the token embedding, which `tie_word_embeddings` says it is");
    }
    Ok(())
}

/// Number types that arrays were imported with, where training has made them F32 since.
const IMPORTED: &str = "imported_types.json";

/// The number types of [`IMPORTED`], by the names of the files.
fn imported(folder: &Path) -> Result<BTreeMap<String, Dtype>> {
    let path = folder.join(IMPORTED);
    if path.is_file() { files::read_json(&path) } else { Ok(BTreeMap::new()) }
}

/// Writes parameters under the names that they had in the folder that they were read from. The number type that the
/// config must name for nothing to be rounded when transformers reads the folder; none: the config is right as it is.
pub(crate) fn write(
    folder: &Path,
    form: &Form,
    parameters: &[Parameter],
    weights: &[Arc<Vec<f32>>],
    rounding: Rounding,
) -> Result<Option<Dtype>> {
    let dtype = |read: Dtype, values: &[f32]| match rounding {
        Rounding::Exact if !read.fits(values) => Dtype::F32,
        Rounding::Exact | Rounding::AsImported => read,
        Rounding::To(dtype) => dtype,
    };
    let outputs: Vec<Output> = parameters
        .iter()
        .zip(weights)
        .zip(&form.dtypes)
        .map(|((parameter, values), read)| Output {
            name: form.scheme.in_file(&parameter.name),
            shape: parameter.shape.clone(),
            dtype: dtype(*read, values),
            values,
        })
        .collect();
    writer::write(folder, &outputs)?;
    let others = outputs.iter().zip(&form.dtypes).filter(|(output, read)| output.dtype != **read);
    let widened: BTreeMap<&str, Dtype> = others.map(|(output, read)| (output.name.as_str(), *read)).collect();
    let all = |dtype: Dtype| form.dtypes.iter().all(|read| *read == dtype);
    Ok(match rounding {
        Rounding::Exact if widened.is_empty() => None,
        Rounding::Exact => {
            files::write_json(&folder.join(IMPORTED), &widened)?;
            Some(Dtype::F32)
        }
        Rounding::AsImported => Some(form.dtypes.first().copied().filter(|dtype| all(*dtype)).unwrap_or(Dtype::F32)),
        Rounding::To(dtype) => Some(dtype),
    })
}
