//! Images as the vision tower takes them, and the trait by which a caller provides them.

use std::sync::Arc;

use anyhow::{Context, Result};

use ablate_data::images::{ImageLoader, ImageShape};

/// The pixel values of an image.
#[derive(Clone, Debug)]
pub struct PixelValues {
    pub shape: ImageShape,
    /// (tiles, values of a tile); within a tile in the order of the model's family.
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
        self.processor().shape(width, height).with_context(|| format!("the image `{key}`"))
    }

    fn pixel_values(&self, key: &str) -> Result<PixelValues> {
        Ok(PixelValues { shape: self.shape(key)?, values: self.load(key)? })
    }
}
