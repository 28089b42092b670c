//! InternVL: an image is stretched to the grid of tiles whose aspect ratio is nearest to its own, and split; the last tile is the
//! whole image. Follows the Pillow backend of `GotOcr2ImageProcessor` and `InternVLProcessor` of transformers 5.24.

use std::path::Path;

use anyhow::{Result, bail};
use image::{RgbImage, imageops};

use super::markup;
use crate::image_text::ImageText;
use crate::images::processor_fields::Fields;
use crate::images::resize::{Filter, Region, resize};
use crate::images::shape::ImageShape;

/// Fields of the image processor that only this family has.
pub(in crate::images) const FIELDS: &[&str] = &[
    "crop_size",
    "crop_to_patches",
    "default_to_square",
    "do_center_crop",
    "do_pad",
    "max_patches",
    "min_patches",
    "pad_size",
    "resample",
    "size",
];

/// Maximum number of tiles, without the whole image.
const MAX_TILES: u32 = 64;

#[derive(Clone, Debug, PartialEq)]
pub(in crate::images) struct NearestGrid {
    /// Columns and rows of the possible grids, in the order of their number of tiles.
    grids: Vec<(u32, u32)>,
    /// Height and width of a tile.
    side: u32,
    filter: Filter,
    /// `image_seq_length`: image tokens of a tile.
    tokens: usize,
    /// The tokens before and after an image.
    start: String,
    end: String,
}

impl NearestGrid {
    pub(in crate::images) fn read(fields: &Fields, folder: &Path) -> Result<NearestGrid> {
        fields.refuse_steps(&["do_center_crop", "do_pad"], &["crop_size", "pad_size"])?;
        if !fields.flag("do_resize", true)? {
            bail!("`do_resize` is false, which is not supported");
        }
        // The processor crops, whatever the image processor says.
        fields.flag("crop_to_patches", false)?;
        fields.flag("default_to_square", true)?;
        fields.refuse_null(&["min_patches", "max_patches"])?;
        let side = fields.square("size", 384)?;
        let (least, most) = (fields.count("min_patches", 1, MAX_TILES)?, fields.count("max_patches", 12, MAX_TILES)?);
        if least > most {
            bail!("`min_patches` is {least}, above `max_patches` ({most})");
        }
        let all = (1..=most).flat_map(|columns| (1..=most).map(move |rows| (columns, rows)));
        let mut grids: Vec<(u32, u32)> =
            all.filter(|(columns, rows)| (least..=most).contains(&(columns * rows))).collect();
        grids.sort_by_key(|(columns, rows)| columns * rows);
        let tokens = markup::token_count(folder, "image_seq_length", 256)?;
        let [start, end] =
            markup::special_tokens(folder, [("start_image_token", "<img>"), ("end_image_token", "</img>")])?;
        Ok(NearestGrid { grids, side, filter: fields.filter(Filter::Bicubic)?, tokens, start, end })
    }

    pub(in crate::images) fn shape(&self, width: u32, height: u32) -> ImageShape {
        match self.grid(width, height) {
            (1, 1) => ImageShape::single(width, height, self.side),
            (columns, rows) => ImageShape::tiled(width, height, self.side, (rows, columns)),
        }
    }

    /// Columns and rows (`get_optimal_tiled_canvas`). Of equally near grids, one with more tiles is taken while the image has more
    /// than half of its pixels.
    fn grid(&self, width: u32, height: u32) -> (u32, u32) {
        let ratio = f64::from(width) / f64::from(height);
        let area = f64::from(width) * f64::from(height);
        let (mut best, mut nearest) = ((1, 1), f64::INFINITY);
        for &(columns, rows) in &self.grids {
            let distance = (ratio - f64::from(columns) / f64::from(rows)).abs();
            let pixels = f64::from(self.side) * f64::from(self.side) * f64::from(columns) * f64::from(rows);
            if distance < nearest {
                (best, nearest) = ((columns, rows), distance);
            } else if distance <= nearest && area > 0.5 * pixels {
                best = (columns, rows);
            }
        }
        best
    }

    /// The tiles row by row, and then the whole image if there are several.
    pub(in crate::images) fn tiles(&self, image: &RgbImage) -> Vec<RgbImage> {
        let (columns, rows) = self.grid(image.width(), image.height());
        let whole = |size: (u32, u32)| resize(image, size, &Region::whole(size), self.filter);
        let stretched = whole((columns * self.side, rows * self.side));
        let places = (0..rows).flat_map(|row| (0..columns).map(move |column| (column * self.side, row * self.side)));
        let mut tiles: Vec<RgbImage> =
            places.map(|(x, y)| imageops::crop_imm(&stretched, x, y, self.side, self.side).to_image()).collect();
        if tiles.len() > 1 {
            tiles.push(whole((self.side, self.side)));
        }
        tiles
    }

    pub(in crate::images) fn text(&self, shape: ImageShape, features: usize) -> Result<ImageText> {
        markup::check_tokens("image_seq_length", self.tokens, shape, features)?;
        Ok(ImageText { runs: vec![(self.start.clone(), features)], end: self.end.clone() })
    }
}
