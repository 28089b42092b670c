//! Which of the encoder's features stand for an image in a sequence, and in which order. Knows no tensor.
//!
//! Follows `pack_image_features` of LLaVA-NeXT (Liu et al. 2024) in transformers 5.24: the whole image's features, then
//! those of the tiles as one large picture, without the rows or columns that hold padding only, each row ended by a
//! newline.

use anyhow::{Result, anyhow, bail};

use super::architecture::Vision;
use super::picture::Frame;

/// What stands in one place of the sequence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Slot {
    /// A feature: `tile * tile_tokens + place in the tile`; tile 0 is the whole image.
    Feature(usize),
    /// The learned end of a row.
    Newline,
}

/// The slots of one image. A model that does not cut images has the features of its one tile, in order.
pub(crate) fn slots(vision: &Vision, frame: Frame) -> Result<Vec<Slot>> {
    let (side, tokens) = (vision.side(), vision.tile_tokens());
    let mut slots: Vec<Slot> = (0..tokens).map(Slot::Feature).collect();
    if !vision.tiled {
        return Ok(slots);
    }
    if tokens != side * side {
        bail!(
            "a tile has {tokens} features, which do not fill its {side} x {side} patches: they have no place in a row"
        );
    }
    let (rows, columns) = frame.grid.ok_or_else(|| anyhow!("BUG: an image came without its grid of tiles"))?;
    let (rows, columns) = (rows as usize * side, columns as usize * side);
    let (top, left) = padding(frame, rows, columns);
    for row in top..rows - top {
        for column in left..columns - left {
            let tile = 1 + row / side * (columns / side) + column / side;
            slots.push(Slot::Feature(tile * tokens + row % side * side + column % side));
        }
        slots.push(Slot::Newline);
    }
    Ok(slots)
}

/// Rows above (and below) the picture, and columns left (and right) of it, that hold padding only: `unpad_image`.
fn padding(frame: Frame, rows: usize, columns: usize) -> (usize, usize) {
    let (width, height) = (f64::from(frame.width), f64::from(frame.height));
    let (across, down) = (columns as f64, rows as f64);
    // The original rounds to seven places and cuts off. What is nearer to the next whole than that is one off only by
    // the rounding of the product.
    let whole = |length: f64| (length + 5e-8).floor() as usize;
    if width / height > across / down {
        (rows.saturating_sub(whole(height * (across / width))) / 2, 0)
    } else {
        (0, columns.saturating_sub(whole(width * (down / height))) / 2)
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use serde::Deserialize;

    use super::*;
    use crate::architecture::VisionFamily;
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
        /// Numbers of features; a newline is -1.
        order: Option<Vec<i64>>,
    }

    fn vision(image_size: usize, patch_size: usize, tiled: bool) -> Vision {
        let config = ModelConfig { image_size, patch_size, ..ModelConfig::default() };
        Vision { tiled, ..Architecture::of(&config, 8, 1).vision.unwrap() }
    }

    #[test]
    fn features_stand_as_llava_next_packs_them() {
        let path = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../..")).join("tests/golden/pixels/features.json");
        let cases: Vec<Case> = files::read_json(&path).unwrap();
        let mut compared = 0;
        for Case { image_size, patch_size, images } in cases {
            let vision = vision(image_size, patch_size, true);
            for Image { width, height, grid, count, order } in images {
                let slots = slots(&vision, Frame { width, height, grid: Some(grid) }).unwrap();
                assert_eq!(slots.len(), count, "{width} x {height} in {grid:?}");
                let Some(order) = order else { continue };
                let number = |slot: &Slot| match slot {
                    Slot::Feature(feature) => *feature as i64,
                    Slot::Newline => -1,
                };
                assert_eq!(slots.iter().map(number).collect::<Vec<_>>(), order, "{width} x {height} in {grid:?}");
                compared += 1;
            }
        }
        assert!(compared > 50);
    }

    #[test]
    fn an_image_that_is_not_cut_is_its_features_in_order() {
        let frame = Frame { width: 9, height: 2, grid: None };
        let vision = Vision { family: VisionFamily::Clip, ..vision(28, 14, false) };
        assert_eq!(slots(&vision, frame).unwrap(), [0, 1, 2, 3, 4].map(Slot::Feature));
    }

    #[test]
    fn a_class_token_has_no_place_among_tiles() {
        let vision = Vision { family: VisionFamily::Clip, ..vision(28, 14, true) };
        let error = slots(&vision, Frame { width: 9, height: 2, grid: Some((1, 1)) }).unwrap_err();
        assert!(error.to_string().starts_with("a tile has 5 features, which do not fill its 2 x 2"), "{error}");
    }
}
