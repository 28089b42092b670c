//! Factors of a matrix product copied into the order in which register tiles read them.

use super::super::raw::{Rows, TILE_COLUMNS, TILE_ROWS, prefetch, simd, strip, transpose};
use super::matmul::View;

/// Copies rows `top` to `top + depth` and columns `left` to `left + width` of a right-hand factor into panels of
/// [`TILE_COLUMNS`] columns, depth by depth; missing columns are 0.
pub(super) fn columns(b: View, top: usize, depth: usize, left: usize, width: usize, panels: &mut [f32]) {
    let (panels, _) = panels.as_chunks_mut::<TILE_COLUMNS>();
    let whole = width / TILE_COLUMNS;
    let rest = width - whole * TILE_COLUMNS;
    let data = &b.data[top * b.row + left * b.column..];
    if b.column == 1 {
        // Row by row, as they lie: weights come from memory that likes to be read in order.
        for p in 0..depth {
            let (chunks, last) = data[p * b.row..][..width].as_chunks::<TILE_COLUMNS>();
            for (panel, chunk) in panels[p..].iter_mut().step_by(depth).zip(chunks) {
                *panel = *chunk;
            }
            if rest > 0 {
                panels[whole * depth + p] = [0.0; TILE_COLUMNS];
                panels[whole * depth + p][..rest].copy_from_slice(last);
            }
        }
        return;
    }
    for (panel, out) in panels.chunks_exact_mut(depth).enumerate() {
        let data = &data[panel * TILE_COLUMNS * b.column..];
        if b.row == 1 && panel < whole {
            for (part, out) in out.chunks_mut(TILE_COLUMNS).enumerate() {
                let start = part * TILE_COLUMNS;
                // The same part of the next panel: its rows are too short to be fetched ahead of being read by themselves.
                for row in TILE_COLUMNS..2 * TILE_COLUMNS {
                    let place = row * b.column + start;
                    prefetch(data.get(place..=place).unwrap_or(&[]));
                }
                transpose(&data[start..], b.column, out.len(), out.as_flattened_mut());
            }
            continue;
        }
        let count = if panel < whole { TILE_COLUMNS } else { rest };
        for (p, out) in out.iter_mut().enumerate() {
            *out = [0.0; TILE_COLUMNS];
            for (j, out) in out[..count].iter_mut().enumerate() {
                *out = data[p * b.row + j * b.column];
            }
        }
    }
}

/// Copies `rows` rows of a left-hand factor into panels of [`TILE_ROWS`] rows, depth by depth. What is missing of the
/// last panel is anything.
pub(super) fn rows(a: View, rows: usize, depth: usize, panels: &mut Vec<f32>) {
    panels.resize(rows.next_multiple_of(TILE_ROWS) * depth, 0.0);
    if a.row == 1 {
        side_by_side(a.data, a.column, rows, depth, panels);
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

/// Numbers that are copied at once: a register, of which the tile's rows come first.
const WIDE: usize = 8;

simd! {
    /// [`rows`] that lie side by side, the steps of the depth `step` apart.
    pub(crate) fn side_by_side(data: &[f32], step: usize, rows: usize, depth: usize, panels: &mut [f32]) {
        // A register's numbers are there and have room in every step but the last, unless steps lie close.
        let span = rows.next_multiple_of(TILE_ROWS).saturating_sub(TILE_ROWS) + WIDE;
        let most = depth.saturating_sub(1);
        let wide = if most * step + span <= data.len() + step { most } else { 0 };
        for p in 0..wide {
            let data = &data[p * step..][..span];
            for (tile, out) in panels.chunks_exact_mut(TILE_ROWS * depth).enumerate() {
                // What is behind the tile's rows, the next step of the depth overwrites.
                out[p * TILE_ROWS..][..WIDE].copy_from_slice(&data[tile * TILE_ROWS..][..WIDE]);
            }
        }
        for p in wide..depth {
            for (tile, out) in panels.chunks_exact_mut(TILE_ROWS * depth).enumerate() {
                let count = TILE_ROWS.min(rows - tile * TILE_ROWS);
                out[p * TILE_ROWS..][..count].copy_from_slice(&data[p * step + tile * TILE_ROWS..][..count]);
            }
        }
    }
}

/// One packed panel times the rows of `a`: [`strip`], of which `columns` are part of the product. Where that is not all,
/// at the right edge, the rows are computed aside, since the padding is not ours to write.
#[expect(clippy::too_many_arguments, reason = "a product has three sizes and three matrices")]
pub(crate) fn panel(
    rows: usize,
    columns: usize,
    depth: usize,
    a: Rows,
    b: &[f32],
    c: &mut [f32],
    c_row: usize,
    fresh: bool,
) {
    if columns == TILE_COLUMNS {
        strip(rows, depth, a, b, c, c_row, fresh);
        return;
    }
    let mut aside = [0.0f32; TILE_ROWS * TILE_COLUMNS];
    for first in (0..rows).step_by(TILE_ROWS) {
        let rows = TILE_ROWS.min(rows - first);
        let c = &mut c[first * c_row..];
        for (i, aside) in aside.chunks_exact_mut(TILE_COLUMNS).enumerate().take(rows) {
            aside[..columns].copy_from_slice(&c[i * c_row..][..columns]);
        }
        let a = match a {
            Rows::Along { data, row } => Rows::Along { data: &data[first * row..], row },
            Rows::Across { data, step } => Rows::Across { data: &data[first..], step },
            Rows::Tiles(data) => Rows::Tiles(&data[first * depth..]),
        };
        strip(rows, depth, a, b, &mut aside, TILE_COLUMNS, fresh);
        for (i, aside) in aside.chunks_exact(TILE_COLUMNS).enumerate().take(rows) {
            c[i * c_row..][..columns].copy_from_slice(&aside[..columns]);
        }
    }
}
