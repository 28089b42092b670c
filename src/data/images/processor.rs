//! Converts an image to the pixel values that a vision tower takes: resized, cropped and scaled as the tower was
//! trained.
//!
//! A checkpoint's steps equal those of transformers 5.24 with its Pillow backend and Pillow 13, bit for bit. The
//! torchvision backend differs by one level in places; by more where contrast is high and an image loses more than
//! twice as many rows as columns, because it resizes horizontally first. An image smaller than the crop may be placed
//! one pixel higher and further left.

use std::borrow::Cow;

use anyhow::{Result, bail};
use image::{Rgb, RgbImage, imageops};

use super::anyres::Anyres;
use super::decode::{self, DecodedImage, DepthConversion};
use super::resize::{Filter, Region, resize};

/// Maximum number of pixels of an image padded to a square.
const MAX_PADDED: u64 = 1 << 26;

/// How an image is converted to pixel values.
#[derive(Clone, Debug, PartialEq)]
pub enum ImageProcessor {
    /// For models trained from scratch: the longer side is scaled to `size`, centred on black. Values from 0 to 1: rows
    /// from the top, pixels from the left, red, green and blue per pixel.
    Square { size: usize },
    /// For Hugging Face checkpoints. Values: tile after tile; per tile the red, the green and the blue plane; per plane
    /// rows from the top.
    Hub(HubProcessor),
}

/// The steps of a checkpoint's image processor, in this order.
#[derive(Clone, Debug, PartialEq)]
pub struct HubProcessor {
    /// Split the image; each tile goes through the other steps.
    pub(super) anyres: Option<Anyres>,
    /// Pad to a square with this colour (LLaVA).
    pub(super) pad: Option<[u8; 3]>,
    pub(super) resize: Option<ResizeTarget>,
    pub(super) filter: Filter,
    /// Crop a square of `side` from the centre; a smaller image gets a black border.
    pub(super) crop: bool,
    /// Factor for every value.
    pub(super) scale: Option<f64>,
    /// Mean to subtract and standard deviation to divide by, for red, green and blue.
    pub(super) normal: Option<([f32; 3], [f32; 3])>,
    /// Height and width of a tile of the result.
    pub(super) side: u32,
}

/// The size after resizing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ResizeTarget {
    /// The shorter side gets this length; the aspect ratio is kept.
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

    /// Rows and columns of tiles for an image size, in addition to the whole image; `None` if images are not split.
    pub fn grid(&self, width: u32, height: u32) -> Option<(u32, u32)> {
        match self {
            ImageProcessor::Square { .. } => None,
            ImageProcessor::Hub(steps) => steps.anyres.as_ref().map(|anyres| anyres.grid((width, height))),
        }
    }

    /// Possible resolutions (height, width) of split images; `None` if images are not split.
    pub fn resolutions(&self) -> Option<Vec<(usize, usize)>> {
        let ImageProcessor::Hub(HubProcessor { anyres: Some(anyres), .. }) = self else { return None };
        Some(anyres.resolutions.iter().map(|&(height, width)| (height as usize, width as usize)).collect())
    }

    /// Decodes a PNG or JPEG for [`ImageProcessor::process`].
    pub fn decode(&self, bytes: &[u8]) -> Result<DecodedImage> {
        let conversion = match self {
            ImageProcessor::Square { .. } => DepthConversion::Nearest,
            ImageProcessor::Hub(_) => DepthConversion::Pillow,
        };
        decode::decode(bytes, conversion)
    }

    /// Returns `(1 + rows * columns) * size * size * 3` values; the variants define the order.
    pub fn process(&self, image: &RgbImage) -> Result<Vec<f32>> {
        if image.width() == 0 || image.height() == 0 {
            bail!("has no pixels");
        }
        match self {
            ImageProcessor::Square { size } => {
                let image = fit_square(image, *size);
                Ok(image.as_raw().iter().map(|&value| f32::from(value) / 255.0).collect())
            }
            ImageProcessor::Hub(steps) => steps.process(image),
        }
    }
}

impl HubProcessor {
    fn process(&self, image: &RgbImage) -> Result<Vec<f32>> {
        let levels = self.value_table();
        let tiles = match &self.anyres {
            Some(anyres) => anyres.split(image, self.filter).into_iter().map(Cow::Owned).collect(),
            None => vec![Cow::Borrowed(image)],
        };
        let mut values = Vec::with_capacity(tiles.len() * (self.side * self.side * 3) as usize);
        for tile in tiles {
            let cropped = self.resize_and_crop(&tile)?;
            if cropped.dimensions() != (self.side, self.side) {
                bail!("BUG: a tile of {:?} pixels instead of {}", cropped.dimensions(), self.side);
            }
            for (channel, levels) in levels.iter().enumerate() {
                values.extend(cropped.pixels().map(|pixel| levels[usize::from(pixel.0[channel])]));
            }
        }
        Ok(values)
    }

    /// Pads, resizes and crops.
    fn resize_and_crop(&self, image: &RgbImage) -> Result<RgbImage> {
        let padded = self.pad.map(|colour| pad_to_square(image, colour)).transpose()?;
        let image = padded.as_ref().unwrap_or(image);
        let size = self.resize.map_or(image.dimensions(), |target| target.apply(image.dimensions()));
        if !self.crop {
            return Ok(resize(image, size, &Region::whole(size), self.filter));
        }
        let (columns, left) = center_crop(size.0, self.side);
        let (rows, top) = center_crop(size.1, self.side);
        let cut = resize(image, size, &Region { columns, rows }, self.filter);
        if cut.dimensions() == (self.side, self.side) {
            return Ok(cut);
        }
        let mut square = RgbImage::new(self.side, self.side);
        imageops::replace(&mut square, &cut, i64::from(left), i64::from(top));
        Ok(square)
    }

    /// The pixel value of each of the 256 levels per channel, rounded after each step as in NumPy.
    fn value_table(&self) -> [[f32; 256]; 3] {
        std::array::from_fn(|channel| {
            std::array::from_fn(|level| {
                let value = self.scale.map_or(level as f32, |scale| (level as f64 * scale) as f32);
                self.normal.map_or(value, |(mean, deviation)| (value - mean[channel]) / deviation[channel])
            })
        })
    }
}

impl ResizeTarget {
    /// Width and height after resizing (`get_resize_output_image_size`).
    fn apply(self, (width, height): (u32, u32)) -> (u32, u32) {
        let shorter = width.min(height);
        let scaled = |size: u32, length: u32| (f64::from(size) * f64::from(length) / f64::from(shorter)) as u32;
        match self {
            ResizeTarget::Exact { height, width } => (width, height),
            ResizeTarget::Shortest(size) if width <= height => (size, scaled(size, height)),
            ResizeTarget::Shortest(size) => (scaled(size, width), size),
        }
    }
}

/// The range of pixels in a centred crop of a side, and the offset of the range in the crop.
fn center_crop(length: u32, crop: u32) -> (std::ops::Range<u32>, u32) {
    if length < crop {
        return (0..length, (crop - length).div_ceil(2));
    }
    let start = (length - crop) / 2;
    (start..start + crop, 0)
}

/// Pads an image to a square, centred (`pad_to_square`).
fn pad_to_square(image: &RgbImage, colour: [u8; 3]) -> Result<RgbImage> {
    let (width, height) = image.dimensions();
    let side = width.max(height);
    if u64::from(side) * u64::from(side) > MAX_PADDED {
        bail!("would have {side} x {side} pixels after padding to a square; at most {MAX_PADDED} are allowed");
    }
    let mut square = RgbImage::from_pixel(side, side, Rgb(colour));
    imageops::replace(&mut square, image, i64::from((side - width) / 2), i64::from((side - height) / 2));
    Ok(square)
}

/// Scales the longer side to `size` and centres the image on a black square; an image of that size is unchanged. Uses
/// `image`'s triangle filter and not [`resize`]: their values differ in the last bit, and results of models trained
/// from scratch must not change.
fn fit_square(image: &RgbImage, size: usize) -> RgbImage {
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
