//! What the kinds that import rows with images share: the pack that is written of them. Knows no kind.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use rayon::prelude::*;

use ablate_core::base::{Hash, Progress};
use ablate_data::external_rows;
use ablate_data::images::PackWriter;
use ablate_data::jsonl::ErrorList;

/// Images that are read and decoded before they are written to the pack, and the size of their files in bytes.
const PACKED_AT_ONCE: usize = 512;
const BYTES_AT_ONCE: u64 = 1 << 28;

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

/// Writes every image that a row names, once, in the order of the rows. Those that cannot be decoded are reported
/// together, up to ten, each with the first row that names it. See [`external_rows::read_image`] for `exif_orientation`.
pub(super) fn pack<'a>(
    rows: impl Iterator<Item = Named<'a>>,
    images: Option<&Path>,
    exif_orientation: bool,
    path: &Path,
    progress: &dyn Progress,
) -> Result<Packed> {
    let mut seen = BTreeSet::new();
    let rows: Vec<Named> = rows.filter(|row| seen.insert(row.image)).collect();
    let folder = images.map_or_else(PathBuf::new, Path::to_path_buf);
    let mut writer = PackWriter::create(path)?;
    let mut mistakes = ErrorList::default();
    let mut rest = rows.as_slice();
    while !rest.is_empty() {
        let (part, later) = rest.split_at(fitting(rest, &folder));
        let read = |row: &Named| external_rows::read_image(row.image, &folder, exif_orientation);
        let encoded: Vec<Result<Vec<u8>>> = part.par_iter().map(read).collect();
        for (row, encoded) in part.iter().zip(encoded) {
            match encoded {
                Ok(bytes) => writer.add(row.image, &bytes).with_context(|| row.place.to_string())?,
                Err(error) => mistakes.add(format!("{}: {error:#}", row.place)),
            }
        }
        rest = later;
        progress.step((rows.len() - rest.len()) as u64, rows.len() as u64, "images");
    }
    mistakes.check()?;
    Ok(Packed { hash: writer.finish()?, images: rows.len() })
}

/// How many of the next rows have their images in memory together; at least one.
fn fitting(rows: &[Named], folder: &Path) -> usize {
    let mut bytes = 0;
    let sizes =
        rows.iter().take(PACKED_AT_ONCE).map(|row| folder.join(row.image).metadata().map_or(0, |file| file.len()));
    let fits = sizes.take_while(|size| {
        bytes += size;
        bytes <= BYTES_AT_ONCE
    });
    fits.count().max(1)
}
