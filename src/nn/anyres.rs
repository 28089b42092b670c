//! Which features of the vision tower stand for an image in a sequence, and in which order.
//!
//! Follows `pack_image_features` of LLaVA-NeXT (Liu et al. 2024) in transformers 5.24: first the features of the whole
//! image, then those of the tiles, row by row across all tiles. Rows and columns that hold only padding are left out. Each
//! row of the tiles ends with a newline feature.

use anyhow::{Result, anyhow, bail};

use super::architecture::{Tower, Vision};
use super::patch_order::cell_order;
use ablate_data::images::ImageShape;

/// A feature at one position of the sequence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PackedFeature {
    /// Feature `tile * tile_tokens + index in the tile` of the vision tower; tile 0 is the whole image.
    Feature(usize),
    /// The trained feature that ends a row.
    Newline,
}

impl Vision {
    /// The number of positions of an image in a sequence, newlines included.
    pub fn image_tokens(&self, shape: ImageShape) -> Result<usize> {
        Ok(pack_image_features(self, shape)?.len())
    }
}

/// The features of one image in the order of the sequence. Without newlines, this is the order of the tiles.
pub(crate) fn pack_image_features(vision: &Vision, shape: ImageShape) -> Result<Vec<PackedFeature>> {
    let tile = vision.tile(shape.tile);
    let tokens = vision.tile_tokens(tile);
    let vit = match &vision.tower {
        // One tile, whose features come in the order of the tower.
        Tower::Dynamic(vit) => return Ok(cell_order(vit, tile).into_iter().map(PackedFeature::Feature).collect()),
        Tower::Vit(vit) => vit,
    };
    let side = vit.side();
    if !vision.newlines {
        return Ok((0..shape.tiles as usize * tokens).map(PackedFeature::Feature).collect());
    }
    let mut features: Vec<PackedFeature> = (0..tokens).map(PackedFeature::Feature).collect();
    if tokens != side * side {
        bail!("a tile has {tokens} features, but {side} x {side} patches: features cannot be laid out in rows");
    }
    let (rows, columns) = shape.grid.ok_or_else(|| anyhow!("BUG: an image without its grid of tiles"))?;
    let (rows, columns) = (rows as usize * side, columns as usize * side);
    let (top, left) = padding(shape, rows, columns);
    for row in top..rows - top {
        for column in left..columns - left {
            let tile = 1 + row / side * (columns / side) + column / side;
            features.push(PackedFeature::Feature(tile * tokens + row % side * side + column % side));
        }
        features.push(PackedFeature::Newline);
    }
    Ok(features)
}

/// Rows above (and below) the image, and columns left (and right) of it, that hold only padding: `unpad_image`.
fn padding(shape: ImageShape, rows: usize, columns: usize) -> (usize, usize) {
    let (width, height) = (f64::from(shape.width), f64::from(shape.height));
    let (across, down) = (columns as f64, rows as f64);
    // transformers computes `int(round(length, 7))`. So a length less than 5e-8 below a whole number counts as that number.
    let whole = |length: f64| (length + 5e-8).floor() as usize;
    if width / height > across / down {
        (rows.saturating_sub(whole(height * (across / width))) / 2, 0)
    } else {
        (0, columns.saturating_sub(whole(width * (down / height))) / 2)
    }
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;
    use crate::architecture::{VisionFamily, Vit};
    use crate::tests::support::golden;
    use crate::{Architecture, ModelConfig};
    use ablate_core::base::files;

    #[derive(Deserialize)]
    struct Case {
        image_size: usize,
        patch_size: usize,
        images: Vec<Image>,
    }

    #[derive(Deserialize)]
    struct Image {
        width: u32,
        height: u32,
        grid: (u32, u32),
        count: usize,
        /// Indices of features; a newline is -1.
        order: Option<Vec<i64>>,
    }

    fn vision(image_size: usize, patch_size: usize, tiled: bool) -> Vision {
        let config = ModelConfig { image_size, patch_size, ..ModelConfig::default() };
        Vision { newlines: tiled, ..Architecture::from_config(&config, 8, 1).vision.unwrap() }
    }

    fn clip(vision: Vision) -> Vision {
        let vit = vision.tower.vit().unwrap().clone();
        Vision { tower: Tower::Vit(Vit { family: VisionFamily::Clip, ..vit }), ..vision }
    }

    #[test]
    fn features_are_packed_as_in_llava_next() {
        let cases: Vec<Case> = files::read_json(&golden("pixels/features.json")).unwrap();
        let mut compared = 0;
        for Case { image_size, patch_size, images } in cases {
            let vision = vision(image_size, patch_size, true);
            for Image { width, height, grid, count, order } in images {
                let features =
                    pack_image_features(&vision, ImageShape::tiled(width, height, image_size as u32, grid)).unwrap();
                assert_eq!(features.len(), count, "{width} x {height} in {grid:?}");
                let Some(order) = order else { continue };
                let number = |feature: &PackedFeature| match feature {
                    PackedFeature::Feature(feature) => *feature as i64,
                    PackedFeature::Newline => -1,
                };
                assert_eq!(features.iter().map(number).collect::<Vec<_>>(), order, "{width} x {height} in {grid:?}");
                compared += 1;
            }
        }
        assert!(compared > 50);
    }

    #[test]
    fn an_image_without_tiles_keeps_its_order() {
        let shape = ImageShape::single(9, 2, 28);
        let vision = clip(vision(28, 14, false));
        assert_eq!(pack_image_features(&vision, shape).unwrap(), [0, 1, 2, 3, 4].map(PackedFeature::Feature));
    }

    #[test]
    fn a_class_token_with_tiles_is_refused() {
        let vision = clip(vision(28, 14, true));
        let error = pack_image_features(&vision, ImageShape::tiled(9, 2, 28, (1, 1))).unwrap_err();
        assert!(error.to_string().starts_with("a tile has 5 features, but 2 x 2 patches"), "{error}");
    }
}
