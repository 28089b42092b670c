//! Images of any resolution (LLaVA-NeXT): the whole, and beside it the tiles of a larger picture of it. Follows
//! `image_processing_pil_llava_next.py` of transformers 5.24. Knows no file and no model.

use image::{RgbImage, imageops};

use super::resize::{Filter, Window, resize};

/// How images are cut.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Tiles {
    /// Heights and widths that an image may be brought to, each a multiple of `side`; at least one.
    pub(super) resolutions: Vec<(u32, u32)>,
    /// Height and width of a tile.
    pub(super) side: u32,
    /// Height and width that the whole is squeezed to.
    pub(super) whole: (u32, u32),
}

impl Tiles {
    /// Rows and columns of tiles for an image of this size.
    pub(super) fn grid(&self, size: (u32, u32)) -> (u32, u32) {
        let (height, width) = self.best(size);
        (height / self.side, width / self.side)
    }

    /// The whole, then the grid row by row. The picture lies in the middle of its resolution, on black.
    pub(super) fn cut(&self, image: &RgbImage, filter: Filter) -> Vec<RgbImage> {
        let best = self.best(image.dimensions());
        let (height, width) = best;
        let inside = inside(image.dimensions(), best);
        let resized = resize(image, inside, &Window::of(inside), filter);
        let mut canvas = RgbImage::new(width, height);
        let (left, top) = ((width - inside.0) / 2, (height - inside.1) / 2);
        imageops::replace(&mut canvas, &resized, i64::from(left), i64::from(top));

        let whole = (self.whole.1, self.whole.0);
        let mut tiles = vec![resize(image, whole, &Window::of(whole), filter)];
        for (row, column) in (0..height / self.side).flat_map(|row| (0..width / self.side).map(move |at| (row, at))) {
            let (x, y) = (column * self.side, row * self.side);
            tiles.push(imageops::crop_imm(&canvas, x, y, self.side, self.side).to_image());
        }
        tiles
    }

    /// `select_best_resolution`: the one that keeps most of the image's pixels, and of those the one that wastes fewest.
    fn best(&self, (width, height): (u32, u32)) -> (u32, u32) {
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

/// `get_patch_output_size`: width and height of an image within a (height, width), its shape kept.
fn inside((width, height): (u32, u32), (tall, wide): (u32, u32)) -> (u32, u32) {
    let (across, down) = (f64::from(wide) / f64::from(width), f64::from(tall) / f64::from(height));
    if across < down {
        (wide, ((f64::from(height) * across).ceil() as u32).min(tall))
    } else {
        (((f64::from(width) * down).ceil() as u32).min(wide), tall)
    }
}
