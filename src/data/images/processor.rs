//! Converts an image to the pixel values that a vision tower takes: resized, cropped and scaled as the tower was
//! trained.
//!
//! A checkpoint's steps equal those of transformers 5.24 with its Pillow backend and Pillow 13, bit for bit. The
//! torchvision backend differs by one level in places; by more where contrast is high and an image loses more than
//! twice as many rows as columns, because it resizes horizontally first. An image smaller than the crop may be placed
//! one pixel higher and further left.

use anyhow::{Result, bail};
use image::{RgbImage, imageops};

use super::decode::{self, DecodedImage, DepthConversion};
use super::families::gemma3::Stretched;
use super::families::idefics3::Splitting;
use super::families::internvl::NearestGrid;
use super::families::llava::Square;
use super::families::qwen2_vl::{Cells, PatchSizes};
use super::shape::ImageShape;
use crate::image_text::ImageText;

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

/// The steps of a checkpoint's image processor.
#[derive(Clone, Debug, PartialEq)]
pub struct HubProcessor {
    pub(super) geometry: Geometry,
    /// Factor for every value.
    pub(super) scale: Option<f64>,
    /// Mean to subtract and standard deviation to divide by, for red, green and blue.
    pub(super) normal: Option<([f32; 3], [f32; 3])>,
}

/// How a family resizes and splits images.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Geometry {
    Square(Square),
    Gemma3(Stretched),
    Idefics3(Splitting),
    InternVl(NearestGrid),
    Qwen2Vl(Cells),
}

impl ImageProcessor {
    /// The tiles of an image of this size.
    pub fn shape(&self, width: u32, height: u32) -> Result<ImageShape> {
        if width == 0 || height == 0 {
            bail!("has no pixels");
        }
        Ok(match self {
            ImageProcessor::Square { size } => ImageShape::single(width, height, *size as u32),
            ImageProcessor::Hub(steps) => match &steps.geometry {
                Geometry::Square(square) => square.shape(width, height),
                Geometry::Gemma3(stretched) => stretched.shape(width, height)?,
                Geometry::Idefics3(splitting) => splitting.shape(width, height)?,
                Geometry::InternVl(grids) => grids.shape(width, height),
                Geometry::Qwen2Vl(cells) => cells.shape(width, height)?,
            },
        })
    }

    /// What stands for an image of this shape in a conversation, if the model has `features` features for it.
    pub fn text(&self, shape: ImageShape, features: usize) -> Result<ImageText> {
        let ImageProcessor::Hub(HubProcessor { geometry, .. }) = self else { return Ok(ImageText::run(features)) };
        match geometry {
            Geometry::Gemma3(stretched) => stretched.text(shape, features),
            Geometry::Idefics3(splitting) => splitting.text(shape, features),
            Geometry::InternVl(grids) => grids.text(shape, features),
            Geometry::Square(_) | Geometry::Qwen2Vl(_) => Ok(ImageText::run(features)),
        }
    }

    /// Possible resolutions (height, width) of images that are split for LLaVA-NeXT; `None` for other models.
    pub fn resolutions(&self) -> Option<Vec<(usize, usize)>> {
        let ImageProcessor::Hub(HubProcessor { geometry: Geometry::Square(square), .. }) = self else { return None };
        let resolutions = square.resolutions()?;
        Some(resolutions.iter().map(|&(height, width)| (height as usize, width as usize)).collect())
    }

    /// The patches that an image is cut into; `None` unless its size follows from them (Qwen2-VL).
    pub fn patches(&self) -> Option<PatchSizes> {
        let ImageProcessor::Hub(HubProcessor { geometry: Geometry::Qwen2Vl(cells), .. }) = self else { return None };
        Some(cells.patches())
    }

    /// Decodes a PNG or JPEG for [`ImageProcessor::process`].
    pub fn decode(&self, bytes: &[u8]) -> Result<DecodedImage> {
        let conversion = match self {
            ImageProcessor::Square { .. } => DepthConversion::Nearest,
            ImageProcessor::Hub(_) => DepthConversion::Pillow,
        };
        decode::decode(bytes, conversion)
    }

    /// The values of all tiles; the variants define the order.
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
        let tiles = match &self.geometry {
            Geometry::Square(square) => square.tiles(image)?,
            Geometry::Gemma3(stretched) => stretched.tiles(image)?,
            Geometry::Idefics3(splitting) => splitting.tiles(image)?,
            Geometry::InternVl(grids) => grids.tiles(image),
            Geometry::Qwen2Vl(cells) => vec![cells.tile(image)?],
        };
        let mut values = Vec::with_capacity(tiles.iter().map(|tile| tile.as_raw().len()).sum());
        for tile in tiles {
            for (channel, levels) in levels.iter().enumerate() {
                values.extend(tile.pixels().map(|pixel| levels[usize::from(pixel.0[channel])]));
            }
        }
        Ok(values)
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
