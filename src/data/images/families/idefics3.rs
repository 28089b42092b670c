//! Idefics3 and SmolVLM: an image is enlarged to whole tiles and split; the last tile is the whole image. Rows and columns of
//! the tiles are written into the conversation. Follows the Pillow backend and the processors of transformers 5.24.

use std::path::Path;

use anyhow::{Context, Result, anyhow, bail};
use image::{RgbImage, imageops};

use super::markup;
use crate::image_text::ImageText;
use crate::images::processor_fields::{Fields, MAX_SIDE, side};
use crate::images::resize::{Filter, Region, resize};
use crate::images::shape::ImageShape;

/// Fields of the image processor that only this family has.
pub(in crate::images) const FIELDS: &[&str] = &[
    "crop_size",
    "default_to_square",
    "do_center_crop",
    "do_image_splitting",
    "do_pad",
    "max_image_size",
    "pad_size",
    "resample",
    "return_row_col_info",
    "size",
];

/// The longest side that an image is resized to (`MAX_IMAGE_SIZE`).
const MAX_RESIZED: u32 = 4096;
/// Maximum number of tiles, without the whole image.
const MAX_TILES: u32 = 256;

#[derive(Clone, Debug, PartialEq)]
pub(in crate::images) struct Splitting {
    /// The length that the longer side gets first; none if the image keeps its size.
    longest: Option<u32>,
    /// Whether the image is split; otherwise it becomes one tile.
    split: bool,
    /// Height and width of a tile.
    side: u32,
    filter: Filter,
    /// `image_seq_len`: image tokens of a tile.
    tokens: usize,
    /// The tokens around a tile, and before the whole image.
    around: String,
    whole: String,
}

impl Splitting {
    pub(in crate::images) fn read(fields: &Fields, folder: &Path) -> Result<Splitting> {
        fields.refuse_steps(&["do_center_crop"], &["crop_size", "pad_size"])?;
        if !fields.flag("do_pad", true)? {
            bail!("`do_pad` is false, which is not supported");
        }
        fields.refuse_null(&["max_image_size"])?;
        let tokens = markup::token_count(folder, "image_seq_len", 169)?;
        // The processor of SmolVLM takes these names from the tokenizer.
        let [around, whole] = markup::special_tokens(
            folder,
            [("fake_image_token", "<fake_token_around_image>"), ("global_image_token", "<global-img>")],
        )?;
        Ok(Splitting {
            longest: fields.flag("do_resize", true)?.then_some(longest_edge(fields, "size", 4 * 364)?),
            split: fields.flag("do_image_splitting", true)?,
            side: longest_edge(fields, "max_image_size", 364)?,
            filter: fields.filter(Filter::Lanczos)?,
            tokens,
            around,
            whole,
        })
    }

    pub(in crate::images) fn shape(&self, width: u32, height: u32) -> Result<ImageShape> {
        let (across, down) = self.enlarged((width, height));
        let grid = (down / self.side, across / self.side);
        if !self.split || grid == (1, 1) {
            return Ok(ImageShape::single(width, height, self.side));
        }
        if u64::from(grid.0) * u64::from(grid.1) > u64::from(MAX_TILES) {
            bail!(
                "would be split into {} x {} tiles for its {width} x {height} pixels: at most {MAX_TILES} are possible",
                grid.0,
                grid.1
            );
        }
        Ok(ImageShape::tiled(width, height, self.side, grid))
    }

    /// The tiles row by row, and then the whole image.
    pub(in crate::images) fn tiles(&self, image: &RgbImage) -> Result<Vec<RgbImage>> {
        let (width, height) = image.dimensions();
        let shape = self.shape(width, height)?;
        let whole = |image: &RgbImage, size| resize(image, size, &Region::whole(size), self.filter);
        let resized = self.resized((width, height));
        let image = whole(image, resized);
        let square = (self.side, self.side);
        let Some((rows, columns)) = shape.grid else { return Ok(vec![whole(&image, square)]) };
        let image = whole(&image, self.enlarged((width, height)));
        let places = (0..rows).flat_map(|row| (0..columns).map(move |column| (column * self.side, row * self.side)));
        let mut tiles: Vec<RgbImage> =
            places.map(|(x, y)| imageops::crop_imm(&image, x, y, self.side, self.side).to_image()).collect();
        tiles.push(whole(&image, square));
        Ok(tiles)
    }

    pub(in crate::images) fn text(&self, shape: ImageShape, features: usize) -> Result<ImageText> {
        markup::check_tokens("image_seq_len", self.tokens, shape, features)?;
        let Splitting { tokens, around, whole, .. } = self;
        let mut runs = Vec::new();
        // Each row ends with a line break.
        let mut line_break = "";
        if let Some((rows, columns)) = shape.grid {
            for row in 1..=rows {
                for column in 1..=columns {
                    runs.push((format!("{line_break}{around}<row_{row}_col_{column}>"), *tokens));
                    line_break = "";
                }
                line_break = "\n";
            }
            line_break = "\n\n";
        }
        runs.push((format!("{line_break}{around}{whole}"), *tokens));
        Ok(ImageText { runs, end: around.clone() })
    }

    /// Width and height after the first resize (`get_resize_output_image_size`).
    fn resized(&self, (width, height): (u32, u32)) -> (u32, u32) {
        let Some(longest) = self.longest else { return (width, height) };
        let ratio = f64::from(width) / f64::from(height);
        let even = |length: f64| (length as u32).next_multiple_of(2).max(1);
        let (width, height) = if width >= height {
            (longest, even(f64::from(longest) / ratio))
        } else {
            (even(f64::from(longest) * ratio), longest)
        };
        let ratio = f64::from(width) / f64::from(height);
        if width >= height && width > MAX_RESIZED {
            (MAX_RESIZED, ((f64::from(MAX_RESIZED) / ratio) as u32).max(1))
        } else if height > width && height > MAX_RESIZED {
            (((f64::from(MAX_RESIZED) * ratio) as u32).max(1), MAX_RESIZED)
        } else {
            (width, height)
        }
    }

    /// Width and height of the image as whole tiles (`resize_for_vision_encoder`).
    fn enlarged(&self, size: (u32, u32)) -> (u32, u32) {
        let (width, height) = self.resized(size);
        let ratio = f64::from(width) / f64::from(height);
        let whole = |length: u32| length.div_ceil(self.side).saturating_mul(self.side);
        if width >= height {
            let width = whole(width);
            (width, whole((f64::from(width) / ratio) as u32))
        } else {
            let height = whole(height);
            (whole((f64::from(height) * ratio) as u32), height)
        }
    }
}

/// `{"longest_edge": length}`.
fn longest_edge(fields: &Fields, name: &str, default: u32) -> Result<u32> {
    let Some(value) = fields.get(name) else { return Ok(default) };
    let length = match value.as_object() {
        Some(map) if map.iter().all(|(key, value)| key == "longest_edge" || value.is_null()) => map.get("longest_edge"),
        _ => None,
    };
    let length = length.with_context(|| format!("`{name}` is {value}: only `longest_edge` is supported"))?;
    side(length).ok_or_else(|| anyhow!("`{name}` holds {length}, not a length from 1 to {MAX_SIDE}"))
}
