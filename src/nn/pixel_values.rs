//! Images as the vision tower takes them, and the trait by which a caller provides them.

use std::sync::Arc;

use anyhow::Result;

use ablate_data::images::ImageLoader;

/// The size of an image, and how it is cut into tiles.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ImageShape {
    /// Width in pixels, before the image processor.
    pub width: u32,
    /// Height in pixels, before the image processor.
    pub height: u32,
    /// Rows and columns of tiles in addition to the whole image (anyres); none for a model that does not cut images.
    pub grid: Option<(u32, u32)>,
}

/// The pixel values of an image.
#[derive(Clone, Debug)]
pub struct PixelValues {
    pub shape: ImageShape,
    /// (tiles, values of a tile), the whole image first; within a tile in the order of the model's family.
    pub values: Arc<[f32]>,
}

/// Provides images by key.
pub trait PixelSource: Sync {
    /// The image's shape, without decoding its pixels.
    fn shape(&self, key: &str) -> Result<ImageShape>;

    fn pixel_values(&self, key: &str) -> Result<PixelValues>;
}

impl PixelSource for ImageLoader {
    fn shape(&self, key: &str) -> Result<ImageShape> {
        let (width, height) = self.size(key)?;
        Ok(ImageShape { width, height, grid: self.processor().grid(width, height) })
    }

    fn pixel_values(&self, key: &str) -> Result<PixelValues> {
        Ok(PixelValues { shape: self.shape(key)?, values: self.load(key)? })
    }
}
