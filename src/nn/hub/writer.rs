//! Writes weights into a folder as transformers does: one file, or shards with an index.
//!
//! Equal arrays give equal bytes, in the order and with the header of the `safetensors` crate.

use std::collections::{BTreeMap, HashMap};
use std::io::{BufWriter, Write};
use std::path::Path;

use anyhow::{Context, Result, anyhow, bail};
use safetensors::tensor::{self, Metadata, TensorInfo};
use serde_json::json;

use super::dtype::Dtype;
use super::reader::{INDEX, SINGLE};
use ablate_core::base::files;

/// Bytes of arrays per shard, as in transformers up to version 4.
const SHARD: usize = 5_000_000_000;
/// Numbers that are encoded at a time.
const PIECE: usize = 1 << 18;

/// An array to write.
#[derive(Clone, Debug)]
pub struct Output<'a> {
    pub name: String,
    pub shape: Vec<usize>,
    /// The number type to store; values are rounded to the nearest.
    pub dtype: Dtype,
    pub values: &'a [f32],
}

impl Output<'_> {
    fn bytes(&self) -> usize {
        self.values.len() * self.dtype.bytes()
    }
}

/// Writes a model's weights, each file atomically: `model.safetensors`, or shards of 5 GB with their index. An error if the
/// folder has other weight files that these would not replace, because a reader could use the wrong ones.
pub fn write(folder: &Path, arrays: &[Output]) -> Result<()> {
    write_sharded(folder, arrays, SHARD)
}

pub(super) fn write_sharded(folder: &Path, arrays: &[Output], most: usize) -> Result<()> {
    let shards = split(arrays, most);
    let name = |number: usize| match shards.len() {
        1 => SINGLE.to_string(),
        count => format!("model-{:05}-of-{count:05}.safetensors", number + 1),
    };
    let names: Vec<String> = (0..shards.len()).map(name).collect();
    for found in files::list_names(folder)? {
        let weights = found == INDEX || (found.starts_with("model") && found.ends_with(".safetensors"));
        let replaced = names.contains(&found) || (found == INDEX && names.len() > 1);
        if weights && !replaced {
            bail!("`{}` exists already: write weights into a folder without weights", folder.join(found).display());
        }
    }
    for (shard, name) in shards.iter().zip(&names) {
        write_file(&folder.join(name), shard, FORMAT)?;
    }
    if let [_] = names.as_slice() {
        return Ok(());
    }
    let mut weight_map = BTreeMap::new();
    for (shard, name) in shards.iter().zip(&names) {
        weight_map.extend(shard.iter().map(|array| (array.name.as_str(), name.as_str())));
    }
    let numbers: usize = arrays.iter().map(|array| array.values.len()).sum();
    let bytes: usize = arrays.iter().map(Output::bytes).sum();
    let metadata = json!({"total_parameters": numbers, "total_size": bytes});
    files::write_json(&folder.join(INDEX), &json!({"metadata": metadata, "weight_map": weight_map}))
}

/// Splits the arrays into at least one shard, in their order. An array larger than `most` has a shard of its own.
fn split<'a, 'b>(arrays: &'a [Output<'b>], most: usize) -> Vec<Vec<&'a Output<'b>>> {
    let mut shards = vec![Vec::new()];
    let mut filled = 0;
    for array in arrays {
        if filled > 0 && filled + array.bytes() > most {
            shards.push(Vec::new());
            filled = 0;
        }
        filled += array.bytes();
        if let Some(shard) = shards.last_mut() {
            shard.push(array);
        }
    }
    shards
}

/// The metadata by which transformers recognizes a file of PyTorch.
pub(crate) const FORMAT: (&str, &str) = ("format", "pt");

/// Writes one file with one entry of metadata, atomically and array by array.
pub(crate) fn write_file(path: &Path, arrays: &[&Output], metadata: (&str, &str)) -> Result<()> {
    let mut arrays = arrays.to_vec();
    arrays.sort_by(|left, right| stored(right.dtype).cmp(&stored(left.dtype)).then(left.name.cmp(&right.name)));
    if let Some(pair) = arrays.windows(2).find(|pair| pair[0].name == pair[1].name) {
        bail!("BUG: two arrays `{}` for `{}`", pair[0].name, path.display());
    }
    let header = header(&arrays, metadata).with_context(|| format!("BUG: no header for `{}`", path.display()))?;
    files::write_atomic_with(path, |file| {
        let mut file = BufWriter::new(file);
        file.write_all(&(header.len() as u64).to_le_bytes())?;
        file.write_all(&header)?;
        let mut bytes = Vec::new();
        for Output { name, dtype, values, .. } in arrays {
            if let Some(value) = values.iter().find(|value| !dtype.round(**value).is_finite()) {
                bail!("array `{name}` has the value {value}, which {dtype} cannot store");
            }
            for piece in values.chunks(PIECE) {
                bytes.clear();
                dtype.encode(piece, &mut bytes);
                file.write_all(&bytes)?;
            }
        }
        Ok(file.flush()?)
    })
}

/// The header as the crate writes it, padded with spaces to a multiple of 8 bytes.
fn header(arrays: &[&Output], metadata: (&str, &str)) -> Result<Vec<u8>> {
    let mut infos = Vec::with_capacity(arrays.len());
    let mut offset = 0;
    for array in arrays {
        let end = offset + array.bytes();
        let (dtype, shape) = (stored(array.dtype), array.shape.clone());
        infos.push((array.name.clone(), TensorInfo { dtype, shape, data_offsets: (offset, end) }));
        offset = end;
    }
    // With one key, the order of the map does not matter.
    let metadata = HashMap::from([(metadata.0.to_string(), metadata.1.to_string())]);
    let metadata = Metadata::new(Some(metadata), infos).map_err(|error| anyhow!("{error}"))?;
    let mut header = serde_json::to_vec(&metadata)?;
    header.resize(header.len().next_multiple_of(8), b' ');
    Ok(header)
}

fn stored(dtype: Dtype) -> tensor::Dtype {
    match dtype {
        Dtype::F32 => tensor::Dtype::F32,
        Dtype::F16 => tensor::Dtype::F16,
        Dtype::BF16 => tensor::Dtype::BF16,
    }
}
