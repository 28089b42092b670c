//! The order in which a tower for images of any size reads the patches of an image: cell by cell, and with windows window by window.
//! A cell has the patches that the merger joins.

use super::architecture::{DynamicVit, TileShape};

/// Row and column of the cells of each window, row by row. Without windows, an image is one.
pub(crate) fn windows(vit: &DynamicVit, tile: TileShape) -> Vec<Vec<(usize, usize)>> {
    let (rows, columns) = vit.cells(tile);
    let side = vit.windows.as_ref().map_or(rows.max(columns).max(1), |windows| windows.side);
    let window = |top: usize, left: usize| {
        let rows = top..(top + side).min(rows);
        rows.flat_map(|row| (left..(left + side).min(columns)).map(move |column| (row, column))).collect()
    };
    let tops = (0..rows).step_by(side);
    tops.flat_map(|top| (0..columns).step_by(side).map(move |left| (top, left)))
        .map(|(top, left)| window(top, left))
        .collect()
}

/// Row and column of every patch of an image, in the order in which the tower reads them.
pub(crate) fn patch_order(vit: &DynamicVit, tile: TileShape) -> Vec<(usize, usize)> {
    let merge = vit.merge;
    let of_cell = |(row, column): (usize, usize)| {
        (0..merge * merge).map(move |at| (row * merge + at / merge, column * merge + at % merge))
    };
    windows(vit, tile).into_iter().flatten().flat_map(of_cell).collect()
}

/// For every cell of an image, row by row, its number in the order in which the tower reads them.
pub(crate) fn cell_order(vit: &DynamicVit, tile: TileShape) -> Vec<usize> {
    let (rows, columns) = vit.cells(tile);
    let mut order = vec![0; rows * columns];
    for (number, (row, column)) in windows(vit, tile).into_iter().flatten().enumerate() {
        order[row * columns + column] = number;
    }
    order
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::architecture::{Activation, DynamicFamily, Rope, RopeScaling, Windows};

    fn vit(side: Option<usize>) -> DynamicVit {
        let rope = Rope { theta: 10_000.0, scaling: RopeScaling::None, rounded: true, sections: Vec::new() };
        let windows = side.map(|side| Windows { side, full: vec![1] });
        DynamicVit {
            family: DynamicFamily::Qwen2Vl,
            patch_size: 2,
            frames: 2,
            merge: 2,
            dim: 8,
            layers: 2,
            heads: 2,
            ff: 4,
            activation: Activation::Swiglu,
            rms_norm: true,
            rope,
            windows,
            position_side: None,
            deepstack: Vec::new(),
        }
    }

    #[test]
    fn cells_come_row_by_row_or_window_by_window() {
        let tile = TileShape { rows: 4, columns: 6 };
        let plain = vit(None);
        assert_eq!(cell_order(&plain, tile), [0, 1, 2, 3, 4, 5]);
        let first = [(0, 0), (0, 1), (1, 0), (1, 1), (0, 2), (0, 3), (1, 2), (1, 3)];
        assert_eq!(patch_order(&plain, tile)[..8], first);
        // Windows of 2 x 2 cells in 2 x 3 cells: the third column is a window of its own.
        let windowed = vit(Some(2));
        assert_eq!(cell_order(&windowed, tile), [0, 1, 4, 2, 3, 5]);
        let lengths: Vec<usize> = windows(&windowed, tile).iter().map(Vec::len).collect();
        assert_eq!(lengths, [4, 2]);
        assert_eq!(patch_order(&windowed, tile).len(), 24);
        assert_eq!(patch_order(&windowed, tile)[8..10], [(2, 0), (2, 1)]);
    }
}
