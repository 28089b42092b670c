//! A model's weights from a hub folder, by parameter, and back under the names that they had. Knows no tensor.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result, bail};

use super::names::{self, Scheme};
use super::number::Dtype;
use super::weights::Folder;
use super::writer::{self, Output};
use crate::nn::architecture::Architecture;
use crate::nn::checkpoint::Rounding;
use crate::nn::parameters::Parameter;

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
    let files = Folder::open(folder)?;
    let names: Vec<&str> = files.names().collect();
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
    files.refuse_strangers(|name| known.binary_search(&name).is_ok() || names::is_table(name))?;
    let mut dtypes = Vec::with_capacity(expected.len());
    for (name, shape) in &expected {
        files.check(name, shape)?;
        dtypes.push(files.dtype(name)?);
    }
    let mut weights = Vec::with_capacity(expected.len());
    for (name, shape) in &expected {
        weights.push(files.array(name, shape)?);
    }
    if architecture.decoder.tied_head && files.has(&head) {
        check_tie(&files, &head, parameters, &weights)?;
    }
    Ok((weights, Form { scheme, dtypes }))
}

/// A head that is stored although it is tied must be the embedding: transformers would untie them otherwise.
fn check_tie(files: &Folder, head: &str, parameters: &[Parameter], weights: &[Vec<f32>]) -> Result<()> {
    let embedding = parameters.iter().zip(weights).find(|(parameter, _)| parameter.name == EMBEDDING);
    if let Some((Parameter { shape, .. }, values)) = embedding
        && files.array(head, shape)? != *values
    {
        bail!("array `{head}` differs from the token embedding, which `tie_word_embeddings` says it is");
    }
    Ok(())
}

/// Writes parameters under the names that they had in the folder that they were read from. The number type that the
/// config must name for nothing to be rounded on the way back, if it is another than it was.
pub(crate) fn write(
    folder: &Path,
    form: &Form,
    parameters: &[Parameter],
    weights: &[Arc<Vec<f32>>],
    rounding: Rounding,
) -> Result<Option<Dtype>> {
    let dtype = |read: Dtype, values: &[f32]| match rounding {
        Rounding::Exact if !read.fits(values) => Dtype::F32,
        Rounding::Exact | Rounding::AsRead => read,
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
    let wider = outputs.iter().zip(&form.dtypes).any(|(output, read)| output.dtype != *read);
    writer::write(folder, &outputs)?;
    Ok(match rounding {
        Rounding::Exact => wider.then_some(Dtype::F32),
        Rounding::AsRead => None,
        Rounding::To(dtype) => Some(dtype),
    })
}
