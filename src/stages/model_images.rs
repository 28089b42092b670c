//! The images of a stage as a model takes them. Knows no kind.

use anyhow::Result;

use ablate_data::pixels::Images;
use ablate_nn::{Frame, Picture, PixelSource};

/// Images, prepared for one model.
pub(super) struct Pictures(pub(super) Images);

impl PixelSource for Pictures {
    fn frame(&self, key: &str) -> Result<Frame> {
        let (width, height) = self.0.size(key)?;
        Ok(Frame { width, height, grid: self.0.processor().grid(width, height) })
    }

    fn picture(&self, key: &str) -> Result<Picture> {
        Ok(Picture { frame: self.frame(key)?, values: self.0.pixels(key)? })
    }
}
