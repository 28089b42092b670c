//! Images for the tests of several modules.

use std::sync::Arc;

use anyhow::Result;

use crate::{ImageShape, PixelSource, PixelValues};

/// Images of 8 x 8 pixels: a ramp that starts at the number in the key.
pub(crate) struct Ramps;

impl PixelSource for Ramps {
    fn shape(&self, _: &str) -> Result<ImageShape> {
        Ok(ImageShape { width: 8, height: 8, grid: None })
    }

    fn pixel_values(&self, key: &str) -> Result<PixelValues> {
        let start: usize = key.parse()?;
        let values: Arc<[f32]> = (0..8 * 8 * 3).map(|i| ((i + 37 * start) % 64) as f32 / 32.0 - 1.0).collect();
        Ok(PixelValues { shape: self.shape(key)?, values })
    }
}
