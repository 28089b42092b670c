//! What the kinds that import rows with images share: the pack that is written of them. Knows no kind.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use rayon::prelude::*;

use crate::base::{Hash, Progress};
use crate::data::images::PackWriter;
use crate::data::outside;

/// Images that are read and decoded before they are written to the pack.
const PACKED_AT_ONCE: usize = 512;

/// A pack that was written.
pub(super) struct Packed {
    pub(super) hash: Hash,
    pub(super) images: usize,
}

/// An image that a row names, and where the row stands.
pub(super) struct Named<'a> {
    pub(super) place: &'a str,
    pub(super) image: &'a str,
}

/// Writes every image that a row names, once, in the order of the rows.
pub(super) fn pack<'a>(
    rows: impl Iterator<Item = Named<'a>>,
    images: Option<&Path>,
    path: &Path,
    progress: &dyn Progress,
) -> Result<Packed> {
    let mut seen = BTreeSet::new();
    let rows: Vec<Named> = rows.filter(|row| seen.insert(row.image)).collect();
    let folder = images.map_or_else(PathBuf::new, Path::to_path_buf);
    let mut writer = PackWriter::create(path)?;
    let mut done = 0;
    for part in rows.chunks(PACKED_AT_ONCE) {
        let encoded: Vec<Vec<u8>> =
            part.par_iter().map(|row| outside::image_bytes(row.place, row.image, &folder)).collect::<Result<_>>()?;
        for (row, bytes) in part.iter().zip(encoded) {
            writer.add(row.image, &bytes).with_context(|| row.place.to_string())?;
        }
        done += part.len();
        progress.step(done as u64, rows.len() as u64, "images");
    }
    Ok(Packed { hash: writer.finish()?, images: rows.len() })
}
