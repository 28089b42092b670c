//! A right-hand factor packed once for several products with a part of it each, as keys and values are for the blocks of
//! queries. Knows no attention.

use super::super::raw::{Rows, TILE_COLUMNS};
use super::matmul::{Into, View};
use super::packing;

/// A packed matrix (k, n) in memory that is used again and again.
#[derive(Default)]
pub(super) struct Panels {
    values: Vec<f32>,
    k: usize,
    n: usize,
}

impl Panels {
    pub(super) fn pack(&mut self, matrix: View, k: usize, n: usize) {
        (self.k, self.n) = (k, n);
        let size = k * n.next_multiple_of(TILE_COLUMNS);
        if self.values.len() < size {
            self.values.resize(size, 0.0);
        }
        packing::columns(matrix, 0, k, 0, n, &mut self.values[..size]);
    }

    /// `c (m, n) = a (m, k) * p`, or adds to it, where `p` are the first `k` rows and `n` columns of the matrix, behind
    /// which columns of 0 fill up a panel; rows of `c` lie `c_row` apart. The bits of [`matmul`](super::matmul::matmul).
    #[expect(clippy::too_many_arguments, reason = "a product has three sizes and three matrices")]
    pub(super) fn multiply(&self, m: usize, n: usize, k: usize, a: Rows, c: &mut [f32], c_row: usize, into: Into) {
        assert!(
            n <= self.n.next_multiple_of(TILE_COLUMNS) && k <= self.k && k > 0,
            "BUG: more of a matrix than there is"
        );
        let fresh = into == Into::Replace;
        let panels = self.values.chunks_exact(TILE_COLUMNS * self.k).take(n.div_ceil(TILE_COLUMNS));
        for (panel, b) in panels.enumerate() {
            let (b, column) = (&b[..TILE_COLUMNS * k], panel * TILE_COLUMNS);
            let columns = TILE_COLUMNS.min(n - column);
            packing::panel(m, columns, k, a, b, &mut c[column..], c_row, fresh);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::matmul::matmul;
    use super::*;

    #[test]
    fn a_part_of_a_packed_matrix_multiplies_as_the_part_by_itself() {
        let numbers = |n: usize| -> Vec<f32> { (0..n).map(|i| ((i * 7919) % 2003) as f32 / 1001.0 - 1.0).collect() };
        let (a, b) = (numbers(13 * 50), numbers(50 * 40));
        let mut panels = Panels::default();
        panels.pack(View::rows(&b, 40), 50, 40);
        for (m, n, k) in [(13, 40, 50), (13, 33, 17), (1, 16, 1), (6, 5, 50)] {
            let (mut ours, mut theirs) = (numbers(m * 41), numbers(m * 41));
            for into in [Into::Replace, Into::Add] {
                panels.multiply(m, n, k, Rows::Along { data: &a, row: 50 }, &mut ours, 41, into);
                matmul(m, n, k, View::rows(&a, 50), View::rows(&b, 40), &mut theirs, 41, into);
                assert_eq!(ours, theirs, "{m} {n} {k}");
            }
        }
    }
}
