//! The images of a stage as a model takes them. Knows no kind.

use anyhow::Result;

use crate::data::images::{ImagePacks, PixelSource as _};
use crate::nn::{Frame, Picture, PixelSource};

/// Images of the inputs, prepared for one model.
pub(super) struct Pictures {
    packs: ImagePacks,
    size: usize,
}

impl Pictures {
    pub(super) fn new(packs: ImagePacks, size: usize) -> Pictures {
        Pictures { packs, size }
    }

    pub(super) fn packs(&self) -> &ImagePacks {
        &self.packs
    }
}

impl PixelSource for Pictures {
    fn frame(&self, _: &str) -> Result<Frame> {
        let side = self.size as u32;
        Ok(Frame { width: side, height: side, grid: None })
    }

    fn picture(&self, key: &str) -> Result<Picture> {
        Ok(Picture { frame: self.frame(key)?, values: self.packs.pixels(key, self.size)? })
    }
}
