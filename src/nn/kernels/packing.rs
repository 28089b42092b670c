//! Factors of a matrix product copied into the order in which register tiles read them.

use super::super::raw::{TILE_COLUMNS, TILE_ROWS, transpose};
use super::matmul::View;

/// Copies rows `top` to `top + depth` and columns `left` to `left + width` of a right-hand factor into panels of
/// [`TILE_COLUMNS`] columns, depth by depth; missing columns are 0.
pub(super) fn columns(b: View, top: usize, depth: usize, left: usize, width: usize, panels: &mut [f32]) {
    for (panel, out) in panels.chunks_exact_mut(TILE_COLUMNS * depth).enumerate() {
        let first = left + panel * TILE_COLUMNS;
        let count = TILE_COLUMNS.min(left + width - first);
        let data = &b.data[top * b.row + first * b.column..];
        if b.row == 1 && count == TILE_COLUMNS {
            transpose(data, b.column, depth, out);
            continue;
        }
        for (p, out) in out.chunks_exact_mut(TILE_COLUMNS).enumerate() {
            let data = &data[p * b.row..];
            if b.column == 1 {
                out[..count].copy_from_slice(&data[..count]);
            } else {
                for (j, out) in out[..count].iter_mut().enumerate() {
                    *out = data[j * b.column];
                }
            }
            out[count..].fill(0.0);
        }
    }
}

/// Copies `rows` rows of a left-hand factor into panels of [`TILE_ROWS`] rows, depth by depth. What is missing of the
/// last panel is anything.
pub(super) fn rows(a: View, rows: usize, depth: usize, panels: &mut Vec<f32>) {
    panels.resize(rows.next_multiple_of(TILE_ROWS) * depth, 0.0);
    let whole = rows / TILE_ROWS * TILE_ROWS;
    if a.row == 1 {
        for p in 0..depth {
            let (tiles, rest) = a.data[p * a.column..][..rows].as_chunks::<TILE_ROWS>();
            for (tile, out) in tiles.iter().zip(panels.chunks_exact_mut(TILE_ROWS * depth)) {
                out[p * TILE_ROWS..][..TILE_ROWS].copy_from_slice(tile);
            }
            if !rest.is_empty() {
                panels[whole * depth + p * TILE_ROWS..][..rest.len()].copy_from_slice(rest);
            }
        }
    } else {
        for (tile, out) in panels.chunks_exact_mut(TILE_ROWS * depth).enumerate() {
            let first = tile * TILE_ROWS;
            for i in 0..TILE_ROWS.min(rows - first) {
                for (p, out) in out[i..].iter_mut().step_by(TILE_ROWS).enumerate() {
                    *out = a.data[(first + i) * a.row + p * a.column];
                }
            }
        }
    }
}
