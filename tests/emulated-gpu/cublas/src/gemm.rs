//! The product of two matrices of `f32` on the CPU.
//!
//! Panels of 16 rows of A and of 4 columns of B are packed, so that the inner loop reads memory in order. Every element of
//! the product is one sum over `k` in ascending order.

use rayon::prelude::*;

const ROWS: usize = 16;
const COLUMNS: usize = 4;

/// A matrix in panels: `k` groups of `width` numbers for each panel, with zeros behind the last row or column.
pub(crate) struct Packed {
    values: Vec<f32>,
    width: usize,
    k: usize,
}

impl Packed {
    fn new(width: usize, count: usize, k: usize, read: impl Fn(usize, usize) -> f32) -> Packed {
        let panels = count.div_ceil(width);
        let mut values = vec![0.0; panels * k * width];
        for (panel, values) in values.chunks_mut((k * width).max(1)).enumerate() {
            let first = panel * width;
            for (k, group) in values.chunks_mut(width).enumerate() {
                for (index, value) in group.iter_mut().enumerate().take(count - first) {
                    *value = read(first + index, k);
                }
            }
        }
        Packed { values, width, k }
    }

    /// The left factor of `m` rows. `read` has the row and the column.
    pub(crate) fn left(m: usize, k: usize, read: impl Fn(usize, usize) -> f32) -> Packed {
        Packed::new(ROWS, m, k, read)
    }

    /// The right factor of `n` columns. `read` has the row and the column.
    pub(crate) fn right(n: usize, k: usize, read: impl Fn(usize, usize) -> f32) -> Packed {
        Packed::new(COLUMNS, n, k, |column, row| read(row, column))
    }

    fn panel(&self, index: usize) -> &[f32] {
        &self.values[index * self.k * self.width..][..self.k * self.width]
    }
}

type Tile = [[f32; ROWS]; COLUMNS];

#[inline(always)]
#[allow(clippy::inline_always, reason = "it is compiled for two sets of instructions")]
fn add_products(tile: &mut Tile, left: &[f32], right: &[f32], fma: impl Fn(f32, f32, f32) -> f32) {
    for (left, right) in left.chunks_exact(ROWS).zip(right.chunks_exact(COLUMNS)) {
        for (column, &b) in tile.iter_mut().zip(right) {
            for (sum, &a) in column.iter_mut().zip(left) {
                *sum = fma(a, b, *sum);
            }
        }
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
unsafe fn add_products_avx2(tile: &mut Tile, left: &[f32], right: &[f32]) {
    let (left, _) = left.as_chunks::<ROWS>();
    let (right, _) = right.as_chunks::<COLUMNS>();
    let mut sums = *tile;
    for (left, right) in left.iter().zip(right) {
        for column in 0..COLUMNS {
            for row in 0..ROWS {
                sums[column][row] = left[row].mul_add(right[column], sums[column][row]);
            }
        }
    }
    *tile = sums;
}

fn product_tile(left: &[f32], right: &[f32]) -> Tile {
    let mut tile = [[0.0; ROWS]; COLUMNS];
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
        // SAFETY: the CPU has these instructions.
        unsafe { add_products_avx2(&mut tile, left, right) };
        return tile;
    }
    add_products(&mut tile, left, right, |a, b, sum| a * b + sum);
    tile
}

/// Calls `write` with row, column and sum for every element of the product.
pub(crate) fn multiply(m: usize, n: usize, left: &Packed, right: &Packed, write: impl Fn(usize, usize, f32) + Sync) {
    let columns = |panel: usize| {
        for row_panel in 0..m.div_ceil(ROWS) {
            let tile = product_tile(left.panel(row_panel), right.panel(panel));
            for (j, column) in (panel * COLUMNS..n).zip(&tile) {
                for (i, sum) in (row_panel * ROWS..m).zip(column) {
                    write(i, j, *sum);
                }
            }
        }
    };
    let panels = n.div_ceil(COLUMNS);
    // A product that takes less than some 10 microseconds is not worth a second thread.
    if m * n * left.k < 1 << 18 {
        (0..panels).for_each(columns);
    } else {
        (0..panels).into_par_iter().for_each(columns);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    #[test]
    fn sizes_that_are_no_multiple_of_the_panels_are_computed() {
        for (m, n, k) in [(1, 1, 1), (17, 5, 3), (16, 4, 8), (33, 70, 130), (5, 3, 0)] {
            let a = |i: usize, k: usize| (i * 3 + k * 7) as f32 % 5.0 - 2.0;
            let b = |k: usize, j: usize| (j * 2 + k * 5) as f32 % 7.0 - 3.0;
            let found = Mutex::new(vec![f32::NAN; m * n]);
            multiply(m, n, &Packed::left(m, k, a), &Packed::right(n, k, b), |i, j, sum| {
                found.lock().unwrap()[i * n + j] = sum;
            });
            let found = found.into_inner().unwrap();
            for (i, j) in (0..m).flat_map(|i| (0..n).map(move |j| (i, j))) {
                let expected: f32 = (0..k).map(|k| a(i, k) * b(k, j)).sum();
                assert!((found[i * n + j] - expected).abs() == 0.0, "{m} x {n} x {k} at {i}, {j}");
            }
        }
    }
}
