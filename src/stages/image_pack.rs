//! Writes the pack of the images that imported rows name.

use std::collections::BTreeSet;
use std::path::Path;

use anyhow::{Context, Result};
use rayon::prelude::*;

use ablate_core::base::{Hash, Progress};
use ablate_data::images::{PackWriter, is_animated};
use ablate_data::import::read_image;
use ablate_data::jsonl::ErrorList;

/// Largest number of images, and largest total size of their files in bytes, that are in memory together.
const BATCH_IMAGES: usize = 512;
const BATCH_BYTES: u64 = 1 << 28;

/// A written pack.
pub(super) struct WrittenPack {
    pub(super) hash: Hash,
    pub(super) images: usize,
    /// Images with several frames, of which the first is used.
    animated: usize,
}

impl WrittenPack {
    /// A warning if images have several frames.
    pub(super) fn warning(&self) -> Option<String> {
        let WrittenPack { images, animated, .. } = self;
        (*animated > 0).then(|| format!("{animated} of {images} images are animated: their first frame is used"))
    }
}

/// An image of a row by the name of its member, and the location of the row.
#[derive(Clone, Copy)]
pub(super) struct ImageReference<'a> {
    pub(super) place: &'a str,
    pub(super) image: &'a str,
    pub(super) file: &'a Path,
    /// See [`read_image`].
    pub(super) exif_orientation: bool,
}

/// Writes every image that a row names once, in the order of the rows. Reports up to ten images that cannot be decoded,
/// each with the first row that names it.
pub(super) fn write_pack<'a>(
    rows: impl Iterator<Item = ImageReference<'a>>,
    path: &Path,
    progress: &dyn Progress,
) -> Result<WrittenPack> {
    let mut known = BTreeSet::new();
    let rows: Vec<ImageReference> = rows.filter(|row| known.insert(row.image)).collect();
    let mut writer = PackWriter::create(path)?;
    let mut mistakes = ErrorList::default();
    let (mut rest, mut animated) = (rows.as_slice(), 0);
    while !rest.is_empty() {
        let (batch, later) = rest.split_at(batch_size(rest));
        let read = |row: &ImageReference| {
            let bytes = read_image(row.image, row.file, row.exif_orientation)?;
            Ok((is_animated(&bytes), bytes))
        };
        let encoded: Vec<Result<(bool, Vec<u8>)>> = batch.par_iter().map(read).collect();
        for (row, encoded) in batch.iter().zip(encoded) {
            match encoded {
                Ok((has_frames, bytes)) => {
                    animated += usize::from(has_frames);
                    writer.add(row.image, &bytes).with_context(|| row.place.to_string())?;
                }
                Err(error) => mistakes.add(format!("{}: {error:#}", row.place)),
            }
        }
        rest = later;
        progress.step((rows.len() - rest.len()) as u64, rows.len() as u64, "images");
    }
    mistakes.check()?;
    Ok(WrittenPack { hash: writer.finish()?, images: rows.len(), animated })
}

/// The number of next rows whose images are in memory together; at least one.
fn batch_size(rows: &[ImageReference]) -> usize {
    let mut bytes = 0;
    let sizes = rows.iter().take(BATCH_IMAGES).map(|row| row.file.metadata().map_or(0, |file| file.len()));
    let fits = sizes.take_while(|size| {
        bytes += size;
        bytes <= BATCH_BYTES
    });
    fits.count().max(1)
}
