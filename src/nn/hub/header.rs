//! The head of a safetensors file: which arrays it holds, of which type and shape, and where. Reads no array.
//!
//! ```text
//! 8 bytes    length of the header, little endian
//! header     JSON: {"__metadata__": {..}, "name": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]}, ..}
//! the rest   the arrays' bytes, one after the other without gaps
//! ```

use std::collections::BTreeMap;
use std::fmt;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

use anyhow::{Context, Result, anyhow, bail};
use safetensors::tensor::TensorInfo;
use serde::de::{Deserialize, Deserializer, Error, MapAccess, Visitor};

use ablate_core::base::files;

/// The `safetensors` crate takes no longer header either.
const LONGEST: u64 = 100_000_000;

/// An open file and where its arrays are.
pub(super) struct Opened {
    pub(super) file: File,
    /// Arrays by name.
    pub(super) arrays: BTreeMap<String, TensorInfo>,
    /// Texts by name.
    pub(super) metadata: BTreeMap<String, String>,
    /// Where the first array's bytes begin.
    pub(super) start: u64,
}

/// Opens a file and checks its header against its length.
pub(super) fn open(path: &Path) -> Result<Opened> {
    let file = files::open(path)?.into_inner();
    read(file).with_context(|| format!("`{}`", path.display()))
}

fn read(file: File) -> Result<Opened> {
    let metadata = file.metadata().context("cannot look at the file")?;
    if !metadata.is_file() {
        bail!("is no file");
    }
    let length = metadata.len();
    let mut first = [0; 8];
    if length < 8 {
        bail!("is no safetensors file: it has {length} bytes, and a header has at least 8");
    }
    file.read_exact_at(&mut first, 0).context("cannot read the header")?;
    let header = u64::from_le_bytes(first);
    if header > LONGEST || header > length - 8 {
        let most = LONGEST.min(length - 8);
        bail!("is no whole safetensors file: its header claims {header} bytes, where at most {most} are possible");
    }
    let mut text = vec![0; header as usize];
    file.read_exact_at(&mut text, 8).context("cannot read the header")?;
    let Header { arrays, metadata } =
        serde_json::from_slice(&text).context("is no safetensors file: its header cannot be read")?;
    let start = 8 + header;
    check(&arrays, length - start)?;
    Ok(Opened { file, arrays, metadata, start })
}

/// Whether arrays lie one after the other, each as long as its shape says, from the first byte to the last.
fn check(arrays: &BTreeMap<String, TensorInfo>, length: u64) -> Result<()> {
    let mut by_place: Vec<(&String, &TensorInfo)> = arrays.iter().collect();
    by_place.sort_by_key(|(_, info)| info.data_offsets);
    let mut end = 0;
    for (name, info) in by_place {
        let (from, to) = info.data_offsets;
        let bits = info.shape.iter().try_fold(info.dtype.bitsize(), |bits, size| bits.checked_mul(*size));
        let bits = bits.with_context(|| format!("array `{name}` has the impossible shape {:?}", info.shape))?;
        if from != end {
            let what = if from < end { "overlaps with another" } else { "leaves a gap before it" };
            bail!("array `{name}` {what}: it begins at byte {from}, the one before it ends at byte {end}");
        }
        if to < from || (to - from) as u64 != (bits as u64).div_ceil(8) {
            let (dtype, shape) = (info.dtype, &info.shape);
            bail!("array `{name}` lies in the bytes {from} to {to}, which a {dtype} of shape {shape:?} does not fill");
        }
        end = to;
    }
    if end as u64 != length {
        bail!("is no whole safetensors file: its arrays take {end} bytes, but {length} are there");
    }
    Ok(())
}

/// The header's object. Its own type for two reasons: an array that is listed twice is told, and nothing is read into
/// memory besides shapes and texts.
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
