//! Images as a model takes them: where their numbers come from, and which features of them stand in a sequence.

use std::sync::Arc;

use anyhow::Result;

/// The shape of an image, and how it is cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame {
    /// Pixels of the picture as it was given.
    pub width: u32,
    pub height: u32,
    /// Rows and columns of tiles that it is cut into beside the whole; none for a model that does not cut.
    pub grid: Option<(u32, u32)>,
}

/// An image's numbers.
#[derive(Clone, Debug)]
pub struct Picture {
    pub frame: Frame,
    /// Tile after tile, the whole image first: (tiles, tile values), each in the order that the model's family wants.
    pub values: Arc<[f32]>,
}

/// Where images come from, by key.
pub trait PixelSource: Sync {
    /// The image's shape, without its pixels.
    fn frame(&self, key: &str) -> Result<Frame>;

    fn picture(&self, key: &str) -> Result<Picture>;
}

#[cfg(test)]
pub(crate) mod fixture {
    use super::{Arc, Frame, Picture, PixelSource, Result};

    /// Pictures of 8 x 8: a ramp that starts at the number in the key.
    pub(crate) struct Ramps;

    impl PixelSource for Ramps {
        fn frame(&self, _: &str) -> Result<Frame> {
            Ok(Frame { width: 8, height: 8, grid: None })
        }

        fn picture(&self, key: &str) -> Result<Picture> {
            let start: usize = key.parse()?;
            let values: Arc<[f32]> = (0..8 * 8 * 3).map(|i| ((i + 37 * start) % 64) as f32 / 32.0 - 1.0).collect();
            Ok(Picture { frame: self.frame(key)?, values })
        }
    }
}
