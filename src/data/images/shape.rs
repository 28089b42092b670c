//! The tiles that an image processor makes of an image.

/// The size of an image, and the tiles that the image processor makes of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ImageShape {
    /// Width in pixels, before the image processor.
    pub width: u32,
    /// Height in pixels, before the image processor.
    pub height: u32,
    /// Rows and columns of the tiles that are parts of the image; none if it is not cut.
    pub grid: Option<(u32, u32)>,
    /// The number of tiles: those of the grid, and the whole image.
    pub tiles: u32,
    /// Height and width of a tile in pixels.
    pub tile: (u32, u32),
}

impl ImageShape {
    /// An image of `width` x `height` as one tile of `side` x `side`.
    pub fn single(width: u32, height: u32, side: u32) -> ImageShape {
        ImageShape { width, height, grid: None, tiles: 1, tile: (side, side) }
    }

    /// An image as a grid of tiles of `side` x `side`, and the whole image as one more.
    pub fn tiled(width: u32, height: u32, side: u32, (rows, columns): (u32, u32)) -> ImageShape {
        ImageShape { width, height, grid: Some((rows, columns)), tiles: 1 + rows * columns, tile: (side, side) }
    }
}
