//! Matrix products on strided views: `C = A B` or `C += A B`.
//!
//! Every element of `C` is one chain of fused multiply-adds, `c <- fma(a[i][p], b[p][j], c)` for `p` in order. Blocks are
//! chosen for the caches only: a block starts from what the block before it left in `C`, so neither the sizes of the
//! caches, nor the number of rows beside a row, nor the number of threads can change a bit. That is why this is not
//! left to a library, whose blocks depend on the machine and whose code paths depend on the shape.

use std::cell::RefCell;

use rayon::prelude::*;

use super::super::raw::{Rows, TILE_COLUMNS};
use super::packing;

/// Most depth per block: a packed panel of `B` (20 KiB) stays in the first cache.
const DEPTH: usize = 320;
/// Columns per block: a packed block of `B` (1.25 MiB) stays in the third cache, whence a panel comes once per block of rows.
const COLUMNS: usize = 1024;
/// Rows per block: those of `A` (120 KiB) stay in the second cache.
const ROWS: usize = 96;
/// Numbers between two steps of the depth, up to which rows side by side are not packed.
const NEAR: usize = 192;
/// Multiply-adds from which a product is worth the pool's threads.
const WORTH_THREADS: usize = 1 << 22;

/// A matrix as a slice: element (i, j) lies at `i * row + j * column`.
#[derive(Clone, Copy)]
pub(crate) struct View<'a> {
    pub(super) data: &'a [f32],
    pub(super) row: usize,
    pub(super) column: usize,
}

impl<'a> View<'a> {
    /// Rows of `width` numbers, one after the other.
    pub(crate) fn rows(data: &'a [f32], width: usize) -> View<'a> {
        View { data, row: width, column: 1 }
    }

    /// The transpose of rows of `width` numbers.
    pub(crate) fn transposed(data: &'a [f32], width: usize) -> View<'a> {
        View { data, row: 1, column: width }
    }

    /// Any strides: element (i, j) lies at `i * row + j * column`.
    pub(crate) fn strided(data: &'a [f32], row: usize, column: usize) -> View<'a> {
        View { data, row, column }
    }

    fn from(self, row: usize, column: usize) -> View<'a> {
        View { data: self.data.get(row * self.row + column * self.column..).unwrap_or(&[]), ..self }
    }

    fn holds(&self, rows: usize, columns: usize) -> bool {
        rows == 0 || columns == 0 || (rows - 1) * self.row + (columns - 1) * self.column < self.data.len()
    }
}

/// Whether a product replaces what is in `C` or adds to it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Into {
    Replace,
    Add,
}

/// `c (m, n) = a (m, k) * b (k, n)`, the rows of `c` lying `c_row` apart. Large products use the threads of the pool
/// that the caller runs in.
#[expect(clippy::too_many_arguments, reason = "a product has three sizes and three matrices")]
pub(crate) fn matmul(m: usize, n: usize, k: usize, a: View, b: View, c: &mut [f32], c_row: usize, into: Into) {
    if m == 0 || n == 0 {
        return;
    }
    assert!(c_row >= n && (m - 1) * c_row + n <= c.len(), "BUG: the product does not fit its output");
    assert!(a.holds(m, k) && b.holds(k, n), "BUG: a factor is smaller than the product says");
    spread(m, n * k, c, c_row, |first, rows, c| product(rows, n, k, a.from(first, 0), b, c, c_row, into));
}

/// Blocks of the `m` rows of a product with so many multiply-adds each, on the threads of the pool that the caller runs in
/// if that pays: the first row, their number, and where they go.
fn spread(m: usize, each: usize, c: &mut [f32], c_row: usize, product: impl Fn(usize, usize, &mut [f32]) + Sync) {
    if m > ROWS && m * each >= WORTH_THREADS && rayon::current_num_threads() > 2 {
        c.par_chunks_mut(ROWS * c_row).enumerate().for_each(|(block, c)| {
            let first = block * ROWS;
            // What lies behind the last row is no row.
            if first < m {
                product(first, ROWS.min(m - first), c);
            }
        });
    } else {
        product(0, m, c);
    }
}

#[expect(clippy::too_many_arguments, reason = "a product has three sizes and three matrices")]
fn product(m: usize, n: usize, k: usize, a: View, b: View, c: &mut [f32], c_row: usize, into: Into) {
    if k == 0 && into == Into::Replace {
        for row in c.chunks_mut(c_row).take(m) {
            row[..n].fill(0.0);
        }
    }
    with_scratch(|Scratch { columns, rows }| {
        for left in (0..n).step_by(COLUMNS) {
            let width = COLUMNS.min(n - left);
            for (top, depth) in even(k, DEPTH) {
                columns.resize(width.next_multiple_of(TILE_COLUMNS) * depth, 0.0);
                packing::columns(b, top, depth, left, width, columns);
                let fresh = top == 0 && into == Into::Replace;
                block(m, width, depth, a.from(0, top), columns, rows, &mut c[left..], c_row, fresh);
            }
        }
    });
}

/// A right-hand factor packed once for many products, as weights are.
pub(crate) struct Packed {
    panels: Vec<f32>,
    k: usize,
    n: usize,
}

impl Packed {
    /// Packs the transpose of `weight` (n, k), as a linear layer multiplies by it.
    pub(crate) fn linear(weight: &[f32], n: usize, k: usize) -> Packed {
        Packed::new(View::transposed(weight, k), n, k, vec![0.0; Packed::size(n, k)])
    }

    /// Packs a matrix (k, n) into memory for [`Packed::size`] numbers, all of which it writes.
    pub(super) fn new(matrix: View, n: usize, k: usize, mut panels: Vec<f32>) -> Packed {
        assert!(matrix.holds(k, n), "BUG: a weight is smaller than its shape says");
        assert!(panels.len() == Packed::size(n, k), "BUG: memory of another size than the panels");
        each_block(n, k, |left, width, top, depth, at, size| {
            packing::columns(matrix, top, depth, left, width, &mut panels[at..at + size]);
        });
        Packed { panels, k, n }
    }

    /// How many numbers the panels of a matrix (k, n) are.
    pub(super) fn size(n: usize, k: usize) -> usize {
        k * n.next_multiple_of(TILE_COLUMNS)
    }

    /// Columns of a product with it.
    pub(crate) fn outputs(&self) -> usize {
        self.n
    }

    /// The memory of the panels.
    pub(super) fn into_memory(self) -> Vec<f32> {
        self.panels
    }

    /// `c (m, n) = a (m, k) * weight^T`: the bits of [`matmul`].
    pub(crate) fn apply(&self, m: usize, a: &[f32], c: &mut [f32]) {
        self.product(m, a, c, Into::Replace);
    }

    /// `c (m, n) = a (m, k) * matrix`, or adds to it: the bits of [`matmul`], and its threads.
    pub(super) fn multiply(&self, m: usize, a: &[f32], c: &mut [f32], into: Into) {
        spread(m, self.n * self.k, c, self.n, |first, rows, c| self.product(rows, &a[first * self.k..], c, into));
    }

    fn product(&self, m: usize, a: &[f32], c: &mut [f32], into: Into) {
        let Packed { panels, k, n } = self;
        if m == 0 {
            return;
        }
        assert!(a.len() >= m * k && c.len() >= m * n, "BUG: the product does not fit its slices");
        let a = View::rows(a, *k);
        with_scratch(|Scratch { rows, .. }| {
            each_block(*n, *k, |left, width, top, depth, at, size| {
                let (panels, fresh) = (&panels[at..at + size], top == 0 && into == Into::Replace);
                block(m, width, depth, a.from(0, top), panels, rows, &mut c[left..], *n, fresh);
            });
        });
    }
}

/// The blocks of a right-hand factor (k, n): left column and width, top row and depth, and the place and size of their
/// panels.
fn each_block(n: usize, k: usize, mut visit: impl FnMut(usize, usize, usize, usize, usize, usize)) {
    let mut at = 0;
    for left in (0..n).step_by(COLUMNS) {
        let width = COLUMNS.min(n - left);
        for (top, depth) in even(k, DEPTH) {
            let size = width.next_multiple_of(TILE_COLUMNS) * depth;
            visit(left, width, top, depth, at, size);
            at += size;
        }
    }
}

/// The fewest stretches of at most `most` that cover so many numbers, about equally long, with their starts: a short one at
/// the end would go through all of `C` for little.
pub(super) fn even(count: usize, most: usize) -> impl Iterator<Item = (usize, usize)> {
    let stretches = count.div_ceil(most);
    let start = move |stretch: usize| stretch * count / stretches;
    (0..stretches).map(move |stretch| (start(stretch), start(stretch + 1) - start(stretch)))
}

/// One packed block times the rows of `a`.
#[expect(clippy::too_many_arguments, reason = "a product has three sizes and three matrices")]
fn block(
    m: usize,
    width: usize,
    depth: usize,
    a: View,
    panels: &[f32],
    scratch: &mut Vec<f32>,
    c: &mut [f32],
    c_row: usize,
    fresh: bool,
) {
    // Rows that lie along the depth are read as they are, and so are those side by side, unless each step of the depth
    // is far from the one before it; others would cost a cache line per number.
    let (along, across) = (a.column == 1, a.row == 1 && a.column <= NEAR);
    for first in (0..m).step_by(ROWS) {
        let last = (first + ROWS).min(m);
        let block = a.from(first, 0);
        if !along && !across {
            packing::rows(block, last - first, depth, scratch);
        }
        for (panel, b) in panels.chunks_exact(TILE_COLUMNS * depth).enumerate() {
            let column = panel * TILE_COLUMNS;
            let columns = TILE_COLUMNS.min(width - column);
            let a = if along {
                Rows::Along { data: block.data, row: a.row }
            } else if across {
                Rows::Across { data: block.data, step: a.column }
            } else {
                Rows::Tiles(scratch)
            };
            packing::panel(last - first, columns, depth, a, b, &mut c[first * c_row + column..], c_row, fresh);
        }
    }
}

/// A thread's buffers of packed factors.
struct Scratch {
    columns: Vec<f32>,
    rows: Vec<f32>,
}

thread_local! { static SCRATCH: RefCell<Scratch> = const { RefCell::new(Scratch { columns: Vec::new(), rows: Vec::new() }) }; }

/// Lends the thread's buffers; what is in them is whatever was left there.
fn with_scratch<R>(work: impl FnOnce(&mut Scratch) -> R) -> R {
    SCRATCH.with(|scratch| work(&mut scratch.borrow_mut()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbers(n: usize, salt: usize) -> Vec<f32> {
        (0..n).map(|i| ((i * 7919 + salt * 104_729) % 2003) as f32 / 1001.0 - 1.0).collect()
    }

    /// The definition: one chain per element.
    fn chain(m: usize, n: usize, k: usize, a: View, b: View, c: &mut [f32], into: Into) {
        for i in 0..m {
            for j in 0..n {
                let mut sum = if into == Into::Add { c[i * n + j] } else { 0.0 };
                for p in 0..k {
                    sum = a.data[i * a.row + p * a.column].mul_add(b.data[p * b.row + j * b.column], sum);
                }
                c[i * n + j] = sum;
            }
        }
    }

    #[test]
    fn a_product_is_bit_for_bit_its_definition_at_every_shape_and_orientation() {
        let sizes = [
            (1, 1, 1),
            (1, 64, 64),
            (5, 16, 3),
            (6, 17, 319),
            (7, 130, 321),
            (97, 33, 16),
            (100, 150, 520),
            (200, 20, 9),
            (3, 4, 0),
        ];
        for (m, n, k) in sizes {
            let (a, b) = (numbers(m * k, 1), numbers(k * n, 2));
            let views_a = [View::rows(&a, k), View::transposed(&a, m)];
            let views_b = [View::rows(&b, n), View::transposed(&b, k)];
            for a in views_a {
                for b in views_b {
                    for into in [Into::Replace, Into::Add] {
                        let mut ours = numbers(m * n, 3);
                        let mut theirs = ours.clone();
                        matmul(m, n, k, a, b, &mut ours, n, into);
                        chain(m, n, k, a, b, &mut theirs, into);
                        assert_eq!(ours, theirs, "{m} {n} {k}");
                    }
                }
            }
        }
    }

    #[test]
    fn stretches_are_even() {
        let stretches = |count, most| even(count, most).collect::<Vec<_>>();
        assert_eq!(stretches(257, 320), [(0, 257)]);
        assert_eq!(stretches(10, 3), [(0, 2), (2, 3), (5, 2), (7, 3)]);
        assert_eq!(stretches(0, 3), []);
        assert!(even(1601, 40).all(|(_, size)| size == 39 || size == 40));
    }

    #[test]
    fn threads_and_packed_weights_change_no_bit() {
        let (m, n, k) = (400, 150, 700);
        let (a, w) = (numbers(m * k, 1), numbers(n * k, 2));
        let mut one = vec![0.0; m * n];
        matmul(m, n, k, View::rows(&a, k), View::transposed(&w, k), &mut one, n, Into::Replace);
        let mut many = vec![0.0; m * n];
        let pool = rayon::ThreadPoolBuilder::new().num_threads(4).build().unwrap();
        pool.install(|| matmul(m, n, k, View::rows(&a, k), View::transposed(&w, k), &mut many, n, Into::Replace));
        assert_eq!(one, many);
        let packed = Packed::linear(&w, n, k);
        let mut rows = vec![0.0; m * n];
        for (a, c) in a.chunks_exact(k).zip(rows.chunks_exact_mut(n)) {
            packed.apply(1, a, c);
        }
        assert_eq!(one, rows);
    }

    #[test]
    fn rows_of_the_product_may_lie_apart() {
        let (a, b) = (numbers(4, 1), numbers(6, 2));
        let mut c = vec![9.0; 10];
        matmul(2, 3, 2, View::rows(&a, 2), View::rows(&b, 3), &mut c, 7, Into::Replace);
        let mut plain = vec![0.0; 6];
        chain(2, 3, 2, View::rows(&a, 2), View::rows(&b, 3), &mut plain, Into::Replace);
        assert_eq!((&c[..3], &c[3..7], &c[7..]), (&plain[..3], &[9.0; 4][..], &plain[3..]));
    }
}
