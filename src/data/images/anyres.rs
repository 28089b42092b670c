//! Splits images of any resolution (anyres, LLaVA-NeXT): the whole image, and the tiles of a larger version of it.
//! Follows `image_processing_pil_llava_next.py` of transformers 5.24.

use image::{RgbImage, imageops};

use super::resize::{Filter, Region, resize};

/// How images are split.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Anyres {
    /// Possible resolutions (height, width), each a multiple of `side`; at least one.
    pub(super) resolutions: Vec<(u32, u32)>,
    /// Height and width of a tile.
    pub(super) side: u32,
    /// Height and width of the resized whole image.
    pub(super) whole: (u32, u32),
}

impl Anyres {
    /// Rows and columns of tiles for an image size.
    pub(super) fn grid(&self, size: (u32, u32)) -> (u32, u32) {
        let (height, width) = self.best_resolution(size);
        (height / self.side, width / self.side)
    }

    /// The whole image, then the tiles row by row. The image is centred in its resolution on black.
    pub(super) fn split(&self, image: &RgbImage, filter: Filter) -> Vec<RgbImage> {
        let best = self.best_resolution(image.dimensions());
        let (height, width) = best;
        let fitted = fit_within(image.dimensions(), best);
        let resized = resize(image, fitted, &Region::whole(fitted), filter);
        let mut canvas = RgbImage::new(width, height);
        let (left, top) = ((width - fitted.0) / 2, (height - fitted.1) / 2);
        imageops::replace(&mut canvas, &resized, i64::from(left), i64::from(top));

        let whole = (self.whole.1, self.whole.0);
        let mut tiles = vec![resize(image, whole, &Region::whole(whole), filter)];
        for (row, column) in (0..height / self.side).flat_map(|row| (0..width / self.side).map(move |at| (row, at))) {
            let (x, y) = (column * self.side, row * self.side);
            tiles.push(imageops::crop_imm(&canvas, x, y, self.side, self.side).to_image());
        }
        tiles
    }

    /// `select_best_resolution`: the resolution that keeps most of the image's pixels; among equal ones, the one that
    /// wastes fewest.
    fn best_resolution(&self, (width, height): (u32, u32)) -> (u32, u32) {
        let mut best = self.resolutions[0];
        let mut found: Option<(u64, u64)> = None;
        for &(tall, wide) in &self.resolutions {
            let scale = (f64::from(wide) / f64::from(width)).min(f64::from(tall) / f64::from(height));
            let scaled = |length: u32| (f64::from(length) * scale) as u64;
            let kept = (scaled(width) * scaled(height)).min(u64::from(width) * u64::from(height));
            let wasted = u64::from(tall) * u64::from(wide) - kept;
            if found.is_none_or(|(most, fewest)| kept > most || (kept == most && wasted < fewest)) {
                (best, found) = ((tall, wide), Some((kept, wasted)));
            }
        }
        best
    }
}

/// `get_patch_output_size`: width and height of an image within (height, width), aspect ratio kept.
fn fit_within((width, height): (u32, u32), (tall, wide): (u32, u32)) -> (u32, u32) {
    let (across, down) = (f64::from(wide) / f64::from(width), f64::from(tall) / f64::from(height));
    if across < down {
        (wide, ((f64::from(height) * across).ceil() as u32).min(tall))
    } else {
        (((f64::from(width) * down).ceil() as u32).min(wide), tall)
    }
}
