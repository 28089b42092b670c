//! The header of a safetensors file: name, number type, shape and offsets of each array. The offsets are checked against the
//! length of the file.
//!
//! ```text
//! 8 bytes    length of the header, little endian
//! header     JSON: {"__metadata__": {..}, "name": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]}, ..}
//! the rest   the arrays' bytes, one after the other without gaps
//! ```
//!
//! The `safetensors` crate has a parser, which does not fit here:
//! - `SafeTensors::read_metadata` takes the whole file in memory. Weights are larger than memory may be, and a mapped file
//!   that is truncated while it is read ends the process with SIGBUS.
//! - `Metadata`, deserialized from the header alone, silently keeps the last of two arrays with one name. Its errors about a
//!   shape that does not match the offsets, a size that overflows or an unknown number type do not name the array.
//!
//! So the entries are the crate's `TensorInfo`, and the checks are ours.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

use anyhow::{Context, Result, anyhow, bail};
use safetensors::tensor::TensorInfo;
use serde::de::{Deserialize, Deserializer, Error, MapAccess, Visitor};

use ablate_core::base::files;

/// The limit of the `safetensors` crate.
const MAX_HEADER: u64 = 100_000_000;

/// An open file and the entries of its header.
pub(super) struct Opened {
    pub(super) file: File,
    /// Entries by array name.
    pub(super) arrays: BTreeMap<String, TensorInfo>,
    /// `__metadata__`.
    pub(super) metadata: BTreeMap<String, String>,
    /// Offset of the first array in the file.
    pub(super) start: u64,
}

/// Opens a file and checks its header against its length.
pub(super) fn open(path: &Path) -> Result<Opened> {
    let file = files::open(path)?.into_inner();
    read(file).with_context(|| format!("`{}`", path.display()))
}

fn read(file: File) -> Result<Opened> {
    let metadata = file.metadata().context("cannot read the length of the file")?;
    if !metadata.is_file() {
        bail!("is not a file");
    }
    let length = metadata.len();
    let mut first = [0; 8];
    if length < 8 {
        bail!("not a safetensors file: it has {length} bytes, and a header has at least 8");
    }
    file.read_exact_at(&mut first, 0).context("cannot read the header")?;
    let header = u64::from_le_bytes(first);
    if header > MAX_HEADER || header > length - 8 {
        let most = MAX_HEADER.min(length - 8);
        bail!("not a complete safetensors file: its header claims {header} bytes, at most {most} are possible");
    }
    let mut text = vec![0; header as usize];
    file.read_exact_at(&mut text, 8).context("cannot read the header")?;
    let Header { arrays, metadata } =
        serde_json::from_slice(&text).context("not a safetensors file: its header cannot be parsed")?;
    let start = 8 + header;
    check(&arrays, length - start)?;
    Ok(Opened { file, arrays, metadata, start })
}

/// Checks that the arrays cover the bytes of the file without gaps and that each has the size of its shape.
fn check(arrays: &BTreeMap<String, TensorInfo>, length: u64) -> Result<()> {
    let mut by_offset: Vec<(&String, &TensorInfo)> = arrays.iter().collect();
    by_offset.sort_by_key(|(_, info)| info.data_offsets);
    let mut end = 0;
    for (name, info) in by_offset {
        let (from, to) = info.data_offsets;
        let bits = info.shape.iter().try_fold(info.dtype.bitsize(), |bits, size| bits.checked_mul(*size));
        let bits = bits.with_context(|| format!("array `{name}` has an impossible shape: {:?}", info.shape))?;
        if from != end {
            let what = if from < end { "overlaps the array before it" } else { "leaves a gap before it" };
            bail!("array `{name}` {what}: it starts at byte {from}, the previous array ends at byte {end}");
        }
        if to < from || (to - from) as u64 != (bits as u64).div_ceil(8) {
            let (dtype, shape) = (info.dtype, &info.shape);
            bail!(
                "array `{name}` has the bytes {from} to {to}, which is not the size of {dtype} with the shape {shape:?}"
            );
        }
        end = to;
    }
    if end as u64 != length {
        bail!("not a complete safetensors file: its arrays take {end} bytes, the file has {length}");
    }
    Ok(())
}

/// The header's object, with an error for an array that is listed twice.
struct Header {
    arrays: BTreeMap<String, TensorInfo>,
    metadata: BTreeMap<String, String>,
}

impl<'de> Deserialize<'de> for Header {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Header, D::Error> {
        deserializer.deserialize_map(Visit)
    }
}

struct Visit;

impl<'de> Visitor<'de> for Visit {
    type Value = Header;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("an object of arrays")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Header, A::Error> {
        let (mut arrays, mut metadata) = (BTreeMap::new(), BTreeMap::new());
        while let Some(name) = map.next_key::<String>()? {
            if name == "__metadata__" {
                metadata = map.next_value()?;
                continue;
            }
            let info = map.next_value().map_err(|error| A::Error::custom(anyhow!("array `{name}`: {error}")))?;
            if arrays.contains_key(&name) {
                return Err(A::Error::custom(format!("array `{name}` is listed twice")));
            }
            arrays.insert(name, info);
        }
        Ok(Header { arrays, metadata })
    }
}
