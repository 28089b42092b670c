//! Multimodal rotary positions of a decoder (Wang et al. 2024): every token has a position in time, height and width.
//!
//! A text token has the same number in all three. The tokens of an image share their time, and have the row and the column of their
//! feature, counted from the position of the image. The text after an image continues behind its longer side.

use anyhow::{Context, Result};

use super::architecture::{Architecture, Tower};
use super::kernels::rope::Point;
use super::pixel_values::PixelSource;

/// Appends the positions of the tokens of a sequence with the images `keys`, if the model's rotary embedding is multimodal. Returns by
/// how much the position of the next token is below the number of tokens.
pub(crate) fn push_row(
    model: &Architecture,
    tokens: &[u32],
    keys: &[String],
    images: &dyn PixelSource,
    points: &mut Vec<Point>,
) -> Result<usize> {
    let Some((vision, Tower::Dynamic(vit))) = model.vision.as_ref().map(|vision| (vision, &vision.tower)) else {
        return Ok(0);
    };
    if model.decoder.rope.sections.is_empty() {
        return Ok(0);
    }
    let grid = |key: &String| -> Result<(usize, usize)> {
        let shape = images.shape(key).with_context(|| format!("image `{key}`"))?;
        Ok(vit.cells(vision.tile(shape.tile)))
    };
    let grids: Vec<(usize, usize)> = keys.iter().map(grid).collect::<Result<_>>()?;
    // A sequence that is cut within an image ends before the rows and columns of the image do.
    Ok(tokens.len().saturating_sub(push_points(vision.image_token, tokens, &grids, points)))
}

/// Appends the positions of a sequence's tokens. `grids` are the rows and columns of the features of its images, in order. Returns
/// the position of the token after the sequence.
fn push_points(image_token: u32, tokens: &[u32], grids: &[(usize, usize)], points: &mut Vec<Point>) -> usize {
    let (mut grids, mut next) = (grids.iter(), 0u32);
    let end = points.len() + tokens.len();
    while points.len() < end {
        let token = tokens[tokens.len() - (end - points.len())];
        let grid = if token == image_token { grids.next() } else { None };
        let Some(&(rows, columns)) = grid else {
            points.push([next; 3]);
            next += 1;
            continue;
        };
        let features = (0..rows as u32).flat_map(|row| (0..columns as u32).map(move |column| (row, column)));
        let room = end - points.len();
        points.extend(features.take(room).map(|(row, column)| [next, next + row, next + column]));
        next += rows.max(columns) as u32;
    }
    next as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_continues_behind_the_longer_side_of_an_image() {
        // Image tokens are 1.
        let tokens = [5, 6, 1, 1, 1, 1, 1, 1, 7, 1, 1, 8];
        let mut points = Vec::new();
        assert_eq!(push_points(1, &tokens, &[(2, 3), (2, 1)], &mut points), 9);
        let image = [[2, 2, 2], [2, 2, 3], [2, 2, 4], [2, 3, 2], [2, 3, 3], [2, 3, 4]];
        let expected = [&[[0; 3], [1; 3]], &image[..], &[[5; 3], [6, 6, 6], [6, 7, 6], [8; 3]]].concat();
        assert_eq!(points, expected);
        // A sequence that is cut within an image, after another one.
        assert_eq!(push_points(1, &tokens[..4], &[(2, 3)], &mut points), 5);
        assert_eq!(points[12..], [[0; 3], [1; 3], [2, 2, 2], [2, 2, 3]]);
    }
}
