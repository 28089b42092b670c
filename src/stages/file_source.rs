//! Sources of a mix that are files: what was read from them, and the pack of their images.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::Result;

use super::common;
use super::image_pack::{ImageReference, WrittenPack, write_pack};
use ablate_core::base::wrong_input;
use ablate_core::stage::StageContext;
use ablate_data::images::image_key;
use ablate_data::import::RowImages;
use ablate_data::records::Row;

/// What was read from the files of a source.
pub(super) struct FileSource {
    pub(super) images: RowImages,
    pub(super) exif_orientation: bool,
    /// The location of each row.
    pub(super) locations: Vec<String>,
    /// A line for each file.
    pub(super) lines: Vec<String>,
    /// Number of the row in the mix, and in the source, for each drawn row.
    pub(super) drawn: Vec<(usize, usize)>,
}

/// Packs the images of the drawn rows, and names them by their keys. Members begin with the name of the source.
pub(super) fn pack_images(
    rows: &mut [Row],
    sources: &BTreeMap<&str, FileSource>,
    tar: &Path,
    ctx: &StageContext,
) -> Result<WrittenPack> {
    let mut members = Vec::new();
    for (name, source) in sources {
        for (row, read) in &source.drawn {
            for image in rows[*row].images.keys() {
                members.push((*read, format!("{name}/{image}"), source, image.clone()));
            }
        }
    }
    let references = members.iter().map(|(read, member, source, image)| ImageReference {
        place: &source.locations[*read],
        image: member,
        file: source.images.file(image),
        exif_orientation: source.exif_orientation,
    });
    let pack = common::with_threads(ctx.threads, || write_pack(references, tar, ctx.progress))?;
    let pack = pack.map_err(wrong_input)?;
    for (name, source) in sources {
        for (row, _) in &source.drawn {
            let images = std::mem::take(&mut rows[*row].images);
            rows[*row].images = images.map(|image| image_key(pack.hash, &format!("{name}/{image}")));
        }
    }
    Ok(pack)
}
