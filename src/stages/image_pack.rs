//! Writes the pack of the images that imported rows name.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use rayon::prelude::*;

use ablate_core::base::{Hash, Progress};
use ablate_data::external_rows;
use ablate_data::images::PackWriter;
use ablate_data::jsonl::ErrorList;

/// Largest number of images, and largest total size of their files in bytes, that are in memory together.
const BATCH_IMAGES: usize = 512;
const BATCH_BYTES: u64 = 1 << 28;

/// A written pack.
pub(super) struct WrittenPack {
    pub(super) hash: Hash,
    pub(super) images: usize,
}

/// An image that a row names, and the file and line of the row.
pub(super) struct ImageReference<'a> {
    pub(super) place: &'a str,
    pub(super) image: &'a str,
}

/// Writes every image that a row names once, in the order of the rows. Reports up to ten images that cannot be decoded,
/// each with the first row that names it. See [`external_rows::read_image`] for `exif_orientation`.
pub(super) fn write_pack<'a>(
    rows: impl Iterator<Item = ImageReference<'a>>,
    images: Option<&Path>,
    exif_orientation: bool,
    path: &Path,
    progress: &dyn Progress,
) -> Result<WrittenPack> {
    let mut known = BTreeSet::new();
    let rows: Vec<ImageReference> = rows.filter(|row| known.insert(row.image)).collect();
    let folder = images.map_or_else(PathBuf::new, Path::to_path_buf);
    let mut writer = PackWriter::create(path)?;
    let mut mistakes = ErrorList::default();
    let mut rest = rows.as_slice();
    while !rest.is_empty() {
        let (batch, later) = rest.split_at(batch_size(rest, &folder));
        let read = |row: &ImageReference| external_rows::read_image(row.image, &folder, exif_orientation);
        let encoded: Vec<Result<Vec<u8>>> = batch.par_iter().map(read).collect();
        for (row, encoded) in batch.iter().zip(encoded) {
            match encoded {
                Ok(bytes) => writer.add(row.image, &bytes).with_context(|| row.place.to_string())?,
                Err(error) => mistakes.add(format!("{}: {error:#}", row.place)),
            }
        }
        rest = later;
        progress.step((rows.len() - rest.len()) as u64, rows.len() as u64, "images");
    }
    mistakes.check()?;
    Ok(WrittenPack { hash: writer.finish()?, images: rows.len() })
}

/// The number of next rows whose images are in memory together; at least one.
fn batch_size(rows: &[ImageReference], folder: &Path) -> usize {
    let mut bytes = 0;
    let sizes =
        rows.iter().take(BATCH_IMAGES).map(|row| folder.join(row.image).metadata().map_or(0, |file| file.len()));
    let fits = sizes.take_while(|size| {
        bytes += size;
        bytes <= BATCH_BYTES
    });
    fits.count().max(1)
}
