//! From a picture to the numbers that a vision tower reads: resized, cut out, scaled, as the tower was trained with.
//! Knows no key, no cache and no model; `processor_file` reads the settings of a checkpoint.
//!
//! A checkpoint's steps are those of transformers 5.24 with its Pillow backend and Pillow 13, to the bit. Its torchvision
//! backend differs by a level now and then; by more where contrast is strong and a picture loses more rows than twice
//! the columns, since it resizes across first; and a picture smaller than the crop may lie a pixel higher and further
//! left.

use std::borrow::Cow;

use anyhow::{Result, bail};
use image::{Rgb, RgbImage, imageops};

use super::anyres::Tiles;
use super::decode::{self, Decoded, Deep};
use super::resize::{Filter, Window, resize};

/// Pixels of a picture that was padded to a square; more are not laid out in memory.
const MAX_PADDED: u64 = 1 << 26;

/// How a picture becomes numbers.
#[derive(Clone, Debug, PartialEq)]
pub enum ImageProcessor {
    /// Ours: the longer side scaled to `size`, centred on black. Values from 0 to 1: rows from the top, in each row
    /// pixels from the left, in each pixel red, green and blue.
    Square { size: usize },
    /// That of a Hugging Face checkpoint. Values: tile after tile, in each tile the red, the green and the blue plane,
    /// in each plane rows from the top.
    Hub(HubProcessor),
}

/// What a checkpoint's processor does, in this order.
#[derive(Clone, Debug, PartialEq)]
pub struct HubProcessor {
    /// Cut the picture up; each tile goes through the rest.
    pub(super) tiles: Option<Tiles>,
    /// Lay it on a square of this colour (LLaVA).
    pub(super) pad: Option<[u8; 3]>,
    pub(super) resize: Option<ResizeTarget>,
    pub(super) filter: Filter,
    /// Cut a square of `side` out of the middle; a smaller picture gets a black border.
    pub(super) crop: bool,
    /// Multiply every value by this.
    pub(super) scale: Option<f64>,
    /// Subtract a mean and divide by a deviation, one for each of red, green and blue.
    pub(super) normal: Option<([f32; 3], [f32; 3])>,
    /// Height and width of a tile when all is done.
    pub(super) side: u32,
}

/// What a picture is resized to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ResizeTarget {
    /// The shorter side gets this length, the shape stays.
    Shortest(u32),
    Exact {
        height: u32,
        width: u32,
    },
}

impl ImageProcessor {
    /// Height and width of a tile of the result.
    pub fn size(&self) -> usize {
        match self {
            ImageProcessor::Square { size } => *size,
            ImageProcessor::Hub(steps) => steps.side as usize,
        }
    }

    /// Rows and columns of tiles that an image of this size is cut into beside the whole; none where nothing is cut.
    pub fn grid(&self, width: u32, height: u32) -> Option<(u32, u32)> {
        match self {
            ImageProcessor::Square { .. } => None,
            ImageProcessor::Hub(steps) => steps.tiles.as_ref().map(|tiles| tiles.grid((width, height))),
        }
    }

    /// Heights and widths that an image may be laid out over in tiles; none where nothing is cut.
    pub fn resolutions(&self) -> Option<Vec<(usize, usize)>> {
        let ImageProcessor::Hub(HubProcessor { tiles: Some(tiles), .. }) = self else { return None };
        Some(tiles.resolutions.iter().map(|&(height, width)| (height as usize, width as usize)).collect())
    }

    /// Decodes a PNG or JPEG for [`ImageProcessor::process`].
    pub fn decode(&self, bytes: &[u8]) -> Result<Decoded> {
        let deep = match self {
            ImageProcessor::Square { .. } => Deep::Nearest,
            ImageProcessor::Hub(_) => Deep::Pillow,
        };
        decode::decode(bytes, deep)
    }

    /// `(1 + rows * columns) * size * size * 3` values; see the variants for their order.
    pub fn process(&self, image: &RgbImage) -> Result<Vec<f32>> {
        if image.width() == 0 || image.height() == 0 {
            bail!("has no pixels");
        }
        match self {
            ImageProcessor::Square { size } => {
                let image = fit(image, *size);
                Ok(image.as_raw().iter().map(|&value| f32::from(value) / 255.0).collect())
            }
            ImageProcessor::Hub(steps) => steps.process(image),
        }
    }
}

impl HubProcessor {
    fn process(&self, image: &RgbImage) -> Result<Vec<f32>> {
        let levels = self.levels();
        let tiles = match &self.tiles {
            Some(tiles) => tiles.cut(image, self.filter).into_iter().map(Cow::Owned).collect(),
            None => vec![Cow::Borrowed(image)],
        };
        let mut values = Vec::with_capacity(tiles.len() * (self.side * self.side * 3) as usize);
        for tile in tiles {
            let fixed = self.fix(&tile)?;
            if fixed.dimensions() != (self.side, self.side) {
                bail!("BUG: a tile of {:?} pixels instead of {}", fixed.dimensions(), self.side);
            }
            for (channel, levels) in levels.iter().enumerate() {
                values.extend(fixed.pixels().map(|pixel| levels[usize::from(pixel.0[channel])]));
            }
        }
        Ok(values)
    }

    /// Pads, resizes and crops.
    fn fix(&self, image: &RgbImage) -> Result<RgbImage> {
        let padded = self.pad.map(|colour| pad(image, colour)).transpose()?;
        let image = padded.as_ref().unwrap_or(image);
        let size = self.resize.map_or(image.dimensions(), |target| target.of(image.dimensions()));
        if !self.crop {
            return Ok(resize(image, size, &Window::of(size), self.filter));
        }
        let (columns, left) = middle(size.0, self.side);
        let (rows, top) = middle(size.1, self.side);
        let cut = resize(image, size, &Window { columns, rows }, self.filter);
        if cut.dimensions() == (self.side, self.side) {
            return Ok(cut);
        }
        let mut square = RgbImage::new(self.side, self.side);
        imageops::replace(&mut square, &cut, i64::from(left), i64::from(top));
        Ok(square)
    }

    /// What each of the 256 levels of red, green and blue becomes, rounded step by step as NumPy does.
    fn levels(&self) -> [[f32; 256]; 3] {
        std::array::from_fn(|channel| {
            std::array::from_fn(|level| {
                let value = self.scale.map_or(level as f32, |scale| (level as f64 * scale) as f32);
                self.normal.map_or(value, |(mean, deviation)| (value - mean[channel]) / deviation[channel])
            })
        })
    }
}

impl ResizeTarget {
    /// Width and height of an image of this size after resizing (`get_resize_output_image_size`).
    fn of(self, (width, height): (u32, u32)) -> (u32, u32) {
        let shorter = width.min(height);
        let scaled = |size: u32, length: u32| (f64::from(size) * f64::from(length) / f64::from(shorter)) as u32;
        match self {
            ResizeTarget::Exact { height, width } => (width, height),
            ResizeTarget::Shortest(size) if width <= height => (size, scaled(size, height)),
            ResizeTarget::Shortest(size) => (scaled(size, width), size),
        }
    }
}

/// Which pixels of a side of this length lie in a crop, and how far from the crop's edge they begin.
fn middle(length: u32, crop: u32) -> (std::ops::Range<u32>, u32) {
    if length < crop {
        return (0..length, (crop - length).div_ceil(2));
    }
    let start = (length - crop) / 2;
    (start..start + crop, 0)
}

/// The picture in the middle of a square of its longer side (`pad_to_square`).
fn pad(image: &RgbImage, colour: [u8; 3]) -> Result<RgbImage> {
    let (width, height) = image.dimensions();
    let side = width.max(height);
    if u64::from(side) * u64::from(side) > MAX_PADDED {
        bail!("would have {side} x {side} pixels when padded to a square, and more than {MAX_PADDED} are not made");
    }
    let mut square = RgbImage::from_pixel(side, side, Rgb(colour));
    imageops::replace(&mut square, image, i64::from((side - width) / 2), i64::from((side - height) / 2));
    Ok(square)
}

/// Scales the longer side to `size` and centres the picture on a black square; one of that size stays as it is.
fn fit(image: &RgbImage, size: usize) -> RgbImage {
    let side = u32::try_from(size).unwrap_or(decode::MAX_SIDE).clamp(1, decode::MAX_SIDE);
    let (width, height) = image.dimensions();
    if (width, height) == (side, side) {
        return image.clone();
    }
    let longer = u64::from(width.max(height).max(1));
    let scaled = |length: u32| ((u64::from(length) * u64::from(side) + longer / 2) / longer).max(1) as u32;
    let (width, height) = (scaled(width), scaled(height));
    let resized = imageops::resize(image, width, height, imageops::FilterType::Triangle);
    let mut square = RgbImage::new(side, side);
    imageops::replace(&mut square, &resized, i64::from((side - width) / 2), i64::from((side - height) / 2));
    square
}
