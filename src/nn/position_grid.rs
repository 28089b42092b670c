//! Learned positions of a square grid, interpolated to the grid of an image (Qwen3-VL).
//!
//! The corners of both grids lie on each other (`align_corners`), and a patch between the positions of the grid has the bilinear mean
//! of the four around it. Follows `get_vision_interpolation_indices_and_weights` of transformers 5.24.

use super::architecture::TileShape;
use super::ops::Bag;

/// The positions around the patches of an image at rows and columns `places`, with their weights. Position `row * side + column` of
/// the table is that of a row and a column of the grid.
pub(crate) fn interpolate(side: usize, tile: TileShape, places: &[(usize, usize)]) -> Vec<Bag> {
    let bag = |&(row, column): &(usize, usize)| {
        let rows = neighbours(row, tile.rows, side);
        let columns = neighbours(column, tile.columns, side);
        let corner = |at: usize| {
            let ((row, down), (column, across)) = (rows[at / 2], columns[at % 2]);
            (row * side + column, down * across)
        };
        [0, 1, 2, 3].map(corner)
    };
    places.iter().map(bag).collect()
}

/// The two positions around place `index` of `count` on a side of the grid, with their weights.
fn neighbours(index: usize, count: usize, side: usize) -> [(usize, f32); 2] {
    // In the order and the precision of PyTorch.
    let place = index as f32 * (side - 1) as f32 / count.saturating_sub(1).max(1) as f32;
    let (first, distance) = (place.floor() as usize, place - place.floor());
    [(first.min(side - 1), 1.0 - distance), ((first + 1).min(side - 1), distance)]
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The bags without rows of no weight.
    fn rows(side: usize, tile: (usize, usize), place: (usize, usize)) -> Vec<(usize, f32)> {
        let tile = TileShape { rows: tile.0, columns: tile.1 };
        let [bag] = interpolate(side, tile, &[place])[..] else { panic!("one bag") };
        bag.into_iter().filter(|(_, weight)| *weight > 0.0).collect()
    }

    #[test]
    fn corners_of_the_image_are_corners_of_the_grid() {
        // 4 x 4 positions.
        assert_eq!(rows(4, (10, 6), (0, 0)), [(0, 1.0)]);
        assert_eq!(rows(4, (10, 6), (0, 5)), [(3, 1.0)]);
        assert_eq!(rows(4, (10, 6), (9, 0)), [(12, 1.0)]);
        assert_eq!(rows(4, (10, 6), (9, 5)), [(15, 1.0)]);
        // A grid of the image's size is used as it is.
        assert_eq!(rows(4, (4, 4), (2, 1)), [(9, 1.0)]);
    }

    #[test]
    fn patches_between_positions_have_their_bilinear_mean() {
        // Row 1 of 3 lies in the middle of positions 1 and 2 of 4, column 1 of 5 at three quarters of the first two.
        let expected = [(4, 0.125), (5, 0.375), (8, 0.125), (9, 0.375)];
        assert_eq!(rows(4, (3, 5), (1, 1)), expected);
        // A row alone has the first position, and so has a grid of one position.
        assert_eq!(rows(4, (1, 4), (0, 2)), [(2, 1.0)]);
        assert_eq!(rows(1, (2, 3), (1, 2)), [(0, 1.0)]);
    }
}
