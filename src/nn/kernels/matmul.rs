//! Matrix products on strided views: `C = A B` or `C += A B`.
//!
//! Every element of `C` is one chain of fused multiply-adds, `c <- fma(a[i][p], b[p][j], c)` for `p` in order. Blocks only
//! serve the caches: a block continues from the values that the block before it left in `C`. So the bits depend neither
//! on the block sizes, nor on the number of rows, nor on the number of threads. A BLAS library does not promise this: its
//! blocks depend on the machine, and its code paths on the shape.

use std::cell::RefCell;

use rayon::prelude::*;

use super::microkernel::{Lhs, TILE_COLUMNS, TILE_ROWS, microkernel, transpose};
use super::simd::{prefetch, simd};

/// Largest depth of a block: a packed panel of `B` (20 KiB) stays in the L1 cache.
const BLOCK_DEPTH: usize = 320;
/// Columns per block: a packed block of `B` (1.25 MiB) stays in the L3 cache. Each panel is loaded once per block of rows.
const BLOCK_COLUMNS: usize = 1024;
/// Rows per block: those of `A` (120 KiB) stay in the L2 cache.
const BLOCK_ROWS: usize = 96;
/// Largest column stride with which a column-major `A` is read in place instead of packed.
const MAX_UNPACKED_STRIDE: usize = 192;
/// Multiply-adds from which a product uses the threads of the pool.
const MIN_PARALLEL_WORK: usize = 1 << 22;

/// A strided matrix: element (i, j) is at `i * row_stride + j * column_stride`.
#[derive(Clone, Copy)]
pub(crate) struct MatrixView<'a> {
    data: &'a [f32],
    row_stride: usize,
    column_stride: usize,
}

impl<'a> MatrixView<'a> {
    /// Contiguous rows of `width` numbers.
    pub(crate) fn row_major(data: &'a [f32], width: usize) -> MatrixView<'a> {
        MatrixView { data, row_stride: width, column_stride: 1 }
    }

    /// The transpose of contiguous rows of `width` numbers.
    pub(crate) fn transposed(data: &'a [f32], width: usize) -> MatrixView<'a> {
        MatrixView { data, row_stride: 1, column_stride: width }
    }

    pub(crate) fn strided(data: &'a [f32], row_stride: usize, column_stride: usize) -> MatrixView<'a> {
        MatrixView { data, row_stride, column_stride }
    }

    /// The submatrix from a row and a column on.
    fn from(self, row: usize, column: usize) -> MatrixView<'a> {
        let start = row * self.row_stride + column * self.column_stride;
        MatrixView { data: self.data.get(start..).unwrap_or(&[]), ..self }
    }

    fn holds(&self, rows: usize, columns: usize) -> bool {
        let last = || (rows - 1) * self.row_stride + (columns - 1) * self.column_stride;
        rows == 0 || columns == 0 || last() < self.data.len()
    }
}

/// Whether a result is added to the values in its output or overwrites them.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Accumulate {
    No,
    Yes,
}

/// `c (m, n) = a (m, k) * b (k, n)`, with the rows of `c` `c_stride` apart. Large products use the threads of the pool that
/// the caller runs in.
#[expect(clippy::too_many_arguments, reason = "a product has three sizes and three matrices")]
pub(crate) fn matmul(
    m: usize,
    n: usize,
    k: usize,
    a: MatrixView,
    b: MatrixView,
    c: &mut [f32],
    c_stride: usize,
    accumulate: Accumulate,
) {
    if m == 0 || n == 0 {
        return;
    }
    assert!(c_stride >= n && (m - 1) * c_stride + n <= c.len(), "BUG: the product does not fit its output");
    assert!(a.holds(m, k) && b.holds(k, n), "BUG: a factor is smaller than its shape");
    for_row_blocks(m, n * k, c, c_stride, |first, rows, c| {
        product(rows, n, k, a.from(first, 0), b, c, c_stride, accumulate);
    });
}

/// Calls `product` for blocks of the `m` rows with the first row, their number and their output: on the threads of the pool
/// that the caller runs in if the product is large enough. `row_work` counts the multiply-adds of a row.
fn for_row_blocks(
    m: usize,
    row_work: usize,
    c: &mut [f32],
    c_stride: usize,
    product: impl Fn(usize, usize, &mut [f32]) + Sync,
) {
    if m > BLOCK_ROWS && m * row_work >= MIN_PARALLEL_WORK && rayon::current_num_threads() > 2 {
        c.par_chunks_mut(BLOCK_ROWS * c_stride).enumerate().for_each(|(block, c)| {
            let first = block * BLOCK_ROWS;
            // With a stride, `c` may extend beyond the last row.
            if first < m {
                product(first, BLOCK_ROWS.min(m - first), c);
            }
        });
    } else {
        product(0, m, c);
    }
}

#[expect(clippy::too_many_arguments, reason = "a product has three sizes and three matrices")]
fn product(
    m: usize,
    n: usize,
    k: usize,
    a: MatrixView,
    b: MatrixView,
    c: &mut [f32],
    c_stride: usize,
    accumulate: Accumulate,
) {
    if k == 0 && accumulate == Accumulate::No {
        for row in c.chunks_mut(c_stride).take(m) {
            row[..n].fill(0.0);
        }
    }
    with_scratch(|Scratch { columns, rows }| {
        for left in (0..n).step_by(BLOCK_COLUMNS) {
            let width = BLOCK_COLUMNS.min(n - left);
            for (top, depth) in even_chunks(k, BLOCK_DEPTH) {
                columns.resize(width.next_multiple_of(TILE_COLUMNS) * depth, 0.0);
                pack_columns(b, top, depth, left, width, columns);
                let overwrite = top == 0 && accumulate == Accumulate::No;
                multiply_block(m, width, depth, a.from(0, top), columns, rows, &mut c[left..], c_stride, overwrite);
            }
        }
    });
}

/// A right-hand factor that is packed once for many products, such as a weight.
pub(crate) struct PackedMatrix {
    panels: Vec<f32>,
    k: usize,
    n: usize,
}

impl PackedMatrix {
    /// Packs a matrix (k, n) into memory of [`PackedMatrix::size`] numbers and overwrites all of them.
    pub(super) fn new(matrix: MatrixView, n: usize, k: usize, mut panels: Vec<f32>) -> PackedMatrix {
        assert!(matrix.holds(k, n), "BUG: a matrix is smaller than its shape");
        assert!(panels.len() == PackedMatrix::size(n, k), "BUG: the memory has another size than the panels");
        each_block(n, k, |left, width, top, depth, at, size| {
            pack_columns(matrix, top, depth, left, width, &mut panels[at..at + size]);
        });
        PackedMatrix { panels, k, n }
    }

    /// How many numbers the panels of a matrix (k, n) have.
    pub(super) fn size(n: usize, k: usize) -> usize {
        k * n.next_multiple_of(TILE_COLUMNS)
    }

    pub(super) fn into_memory(self) -> Vec<f32> {
        self.panels
    }

    /// `c (m, n) = a (m, k) * matrix`, or adds to it, with the bits of [`matmul`]. Uses the threads of the pool that the
    /// caller runs in. The threads of generation belong to no pool: each has its own prompts.
    pub(super) fn multiply(&self, m: usize, a: &[f32], c: &mut [f32], accumulate: Accumulate) {
        if rayon::current_thread_index().is_none() {
            return self.product(m, a, c, accumulate);
        }
        for_row_blocks(m, self.n * self.k, c, self.n, |first, rows, c| {
            self.product(rows, &a[first * self.k..], c, accumulate);
        });
    }

    fn product(&self, m: usize, a: &[f32], c: &mut [f32], accumulate: Accumulate) {
        let PackedMatrix { panels, k, n } = self;
        if m == 0 {
            return;
        }
        assert!(a.len() >= m * k && c.len() >= m * n, "BUG: the product does not fit its slices");
        let a = MatrixView::row_major(a, *k);
        with_scratch(|Scratch { rows, .. }| {
            each_block(*n, *k, |left, width, top, depth, at, size| {
                let (panels, overwrite) = (&panels[at..at + size], top == 0 && accumulate == Accumulate::No);
                multiply_block(m, width, depth, a.from(0, top), panels, rows, &mut c[left..], *n, overwrite);
            });
        });
    }
}

/// The blocks of a right-hand factor (k, n): left column and width, top row and depth, and the offset and size of their
/// panels.
fn each_block(n: usize, k: usize, mut visit: impl FnMut(usize, usize, usize, usize, usize, usize)) {
    let mut at = 0;
    for left in (0..n).step_by(BLOCK_COLUMNS) {
        let width = BLOCK_COLUMNS.min(n - left);
        for (top, depth) in even_chunks(k, BLOCK_DEPTH) {
            let size = width.next_multiple_of(TILE_COLUMNS) * depth;
            visit(left, width, top, depth, at, size);
            at += size;
        }
    }
}

/// Starts and sizes of the fewest chunks of at most `most` that cover `count`, about equally large. A small chunk at the end
/// would read and write all of `C` for little work.
pub(super) fn even_chunks(count: usize, most: usize) -> impl Iterator<Item = (usize, usize)> {
    let chunks = count.div_ceil(most);
    let start = move |chunk: usize| chunk * count / chunks;
    (0..chunks).map(move |chunk| (start(chunk), start(chunk + 1) - start(chunk)))
}

/// Adds the product of `a` and one packed block.
#[expect(clippy::too_many_arguments, reason = "a product has three sizes and three matrices")]
fn multiply_block(
    m: usize,
    width: usize,
    depth: usize,
    a: MatrixView,
    panels: &[f32],
    scratch: &mut Vec<f32>,
    c: &mut [f32],
    c_stride: usize,
    overwrite: bool,
) {
    // A row-major `a` is read in place, and so is a column-major one with a short stride. In other layouts every number
    // would load a cache line of its own.
    let row_major = a.column_stride == 1;
    let col_major = a.row_stride == 1 && a.column_stride <= MAX_UNPACKED_STRIDE;
    for first in (0..m).step_by(BLOCK_ROWS) {
        let last = (first + BLOCK_ROWS).min(m);
        let block = a.from(first, 0);
        if !row_major && !col_major {
            pack_rows(block, last - first, depth, scratch);
        }
        for (panel, b) in panels.chunks_exact(TILE_COLUMNS * depth).enumerate() {
            let column = panel * TILE_COLUMNS;
            let columns = TILE_COLUMNS.min(width - column);
            let a = if row_major {
                Lhs::RowMajor { data: block.data, stride: a.row_stride }
            } else if col_major {
                Lhs::ColMajor { data: block.data, stride: a.column_stride }
            } else {
                Lhs::Packed(scratch)
            };
            let c = &mut c[first * c_stride + column..];
            multiply_panel(last - first, columns, depth, a, b, c, c_stride, overwrite);
        }
    }
}

/// Packs rows `top` to `top + depth` and columns `left` to `left + width` of a right-hand factor into panels of
/// [`TILE_COLUMNS`] columns, row-major within a panel. Missing columns are 0.
fn pack_columns(b: MatrixView, top: usize, depth: usize, left: usize, width: usize, panels: &mut [f32]) {
    let (panels, _) = panels.as_chunks_mut::<TILE_COLUMNS>();
    let whole = width / TILE_COLUMNS;
    let rest = width - whole * TILE_COLUMNS;
    let data = &b.data[top * b.row_stride + left * b.column_stride..];
    if b.column_stride == 1 {
        // Row by row in the order of memory, which is the fastest way to read weights.
        for p in 0..depth {
            let (chunks, last) = data[p * b.row_stride..][..width].as_chunks::<TILE_COLUMNS>();
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
        let data = &data[panel * TILE_COLUMNS * b.column_stride..];
        if b.row_stride == 1 && panel < whole {
            for (part, out) in out.chunks_mut(TILE_COLUMNS).enumerate() {
                let start = part * TILE_COLUMNS;
                // The same part of the next panel: its rows are too short for the hardware prefetcher.
                for row in TILE_COLUMNS..2 * TILE_COLUMNS {
                    let at = row * b.column_stride + start;
                    prefetch(data.get(at..=at).unwrap_or(&[]));
                }
                transpose(&data[start..], b.column_stride, out.len(), out.as_flattened_mut());
            }
            continue;
        }
        let count = if panel < whole { TILE_COLUMNS } else { rest };
        for (p, out) in out.iter_mut().enumerate() {
            *out = [0.0; TILE_COLUMNS];
            for (j, out) in out[..count].iter_mut().enumerate() {
                *out = data[p * b.row_stride + j * b.column_stride];
            }
        }
    }
}

/// Packs `rows` rows of a left-hand factor into panels of [`TILE_ROWS`] rows, column-major within a panel. Missing rows of the
/// last panel are arbitrary.
fn pack_rows(a: MatrixView, rows: usize, depth: usize, panels: &mut Vec<f32>) {
    panels.resize(rows.next_multiple_of(TILE_ROWS) * depth, 0.0);
    if a.row_stride == 1 {
        pack_col_major(a.data, a.column_stride, rows, depth, panels);
    } else {
        for (tile, out) in panels.chunks_exact_mut(TILE_ROWS * depth).enumerate() {
            let first = tile * TILE_ROWS;
            for i in 0..TILE_ROWS.min(rows - first) {
                for (p, out) in out[i..].iter_mut().step_by(TILE_ROWS).enumerate() {
                    *out = a.data[(first + i) * a.row_stride + p * a.column_stride];
                }
            }
        }
    }
}

/// Numbers that are copied at a time: a register, which holds the rows of a tile and two more.
const WIDE: usize = 8;

simd! {
    /// [`pack_rows`] of a column-major factor.
    pub(crate) fn pack_col_major(data: &[f32], stride: usize, rows: usize, depth: usize, panels: &mut [f32]) {
        // A whole register can be read and written at every depth but the last, unless the stride is short.
        let span = rows.next_multiple_of(TILE_ROWS).saturating_sub(TILE_ROWS) + WIDE;
        let most = depth.saturating_sub(1);
        let wide = if most * stride + span <= data.len() + stride { most } else { 0 };
        for p in 0..wide {
            let data = &data[p * stride..][..span];
            for (tile, out) in panels.chunks_exact_mut(TILE_ROWS * depth).enumerate() {
                // The next depth overwrites the numbers after the tile's rows.
                out[p * TILE_ROWS..][..WIDE].copy_from_slice(&data[tile * TILE_ROWS..][..WIDE]);
            }
        }
        for p in wide..depth {
            for (tile, out) in panels.chunks_exact_mut(TILE_ROWS * depth).enumerate() {
                let count = TILE_ROWS.min(rows - tile * TILE_ROWS);
                out[p * TILE_ROWS..][..count].copy_from_slice(&data[p * stride + tile * TILE_ROWS..][..count]);
            }
        }
    }
}

/// [`microkernel`] for a panel of which only `columns` belong to the product. At the right edge of `c`, where these are fewer
/// than [`TILE_COLUMNS`], the product is computed in a copy: the numbers to the right must not be written.
#[expect(clippy::too_many_arguments, reason = "a product has three sizes and three matrices")]
pub(crate) fn multiply_panel(
    rows: usize,
    columns: usize,
    depth: usize,
    a: Lhs,
    b: &[f32],
    c: &mut [f32],
    c_stride: usize,
    overwrite: bool,
) {
    if columns == TILE_COLUMNS {
        microkernel(rows, depth, a, b, c, c_stride, overwrite);
        return;
    }
    let mut copy = [0.0f32; TILE_ROWS * TILE_COLUMNS];
    for first in (0..rows).step_by(TILE_ROWS) {
        let rows = TILE_ROWS.min(rows - first);
        let c = &mut c[first * c_stride..];
        for (i, copy) in copy.chunks_exact_mut(TILE_COLUMNS).enumerate().take(rows) {
            copy[..columns].copy_from_slice(&c[i * c_stride..][..columns]);
        }
        let a = match a {
            Lhs::RowMajor { data, stride } => Lhs::RowMajor { data: &data[first * stride..], stride },
            Lhs::ColMajor { data, stride } => Lhs::ColMajor { data: &data[first..], stride },
            Lhs::Packed(data) => Lhs::Packed(&data[first * depth..]),
        };
        microkernel(rows, depth, a, b, &mut copy, TILE_COLUMNS, overwrite);
        for (i, copy) in copy.chunks_exact(TILE_COLUMNS).enumerate().take(rows) {
            c[i * c_stride..][..columns].copy_from_slice(&copy[..columns]);
        }
    }
}

/// Reusable memory for a packed matrix (k, n), such as the keys and values of a head, for products with parts of it.
#[derive(Default)]
pub(super) struct PanelBuffer {
    values: Vec<f32>,
    k: usize,
    n: usize,
}

impl PanelBuffer {
    pub(super) fn pack(&mut self, matrix: MatrixView, k: usize, n: usize) {
        (self.k, self.n) = (k, n);
        let size = k * n.next_multiple_of(TILE_COLUMNS);
        if self.values.len() < size {
            self.values.resize(size, 0.0);
        }
        pack_columns(matrix, 0, k, 0, n, &mut self.values[..size]);
    }

    /// `c (m, n) = a (m, k) * p`, where `p` are the first `k` rows and `n` columns of the matrix, padded with columns of 0 to
    /// whole panels. The rows of `c` are `c_stride` apart. The bits are those of [`matmul`].
    #[expect(clippy::too_many_arguments, reason = "a product has three sizes and three matrices")]
    pub(super) fn multiply(
        &self,
        m: usize,
        n: usize,
        k: usize,
        a: Lhs,
        c: &mut [f32],
        c_stride: usize,
        accumulate: Accumulate,
    ) {
        assert!(
            n <= self.n.next_multiple_of(TILE_COLUMNS) && k <= self.k && k > 0,
            "BUG: the product needs more than the packed matrix"
        );
        let overwrite = accumulate == Accumulate::No;
        let panels = self.values.chunks_exact(TILE_COLUMNS * self.k).take(n.div_ceil(TILE_COLUMNS));
        for (panel, b) in panels.enumerate() {
            let (b, column) = (&b[..TILE_COLUMNS * k], panel * TILE_COLUMNS);
            let columns = TILE_COLUMNS.min(n - column);
            multiply_panel(m, columns, k, a, b, &mut c[column..], c_stride, overwrite);
        }
    }
}

/// A thread's buffers for packed factors.
struct Scratch {
    columns: Vec<f32>,
    rows: Vec<f32>,
}

thread_local! { static SCRATCH: RefCell<Scratch> = const { RefCell::new(Scratch { columns: Vec::new(), rows: Vec::new() }) }; }

/// Calls `work` with the thread's buffers, whose contents are arbitrary.
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
    fn chain(m: usize, n: usize, k: usize, a: MatrixView, b: MatrixView, c: &mut [f32], accumulate: Accumulate) {
        for i in 0..m {
            for j in 0..n {
                let mut sum = if accumulate == Accumulate::Yes { c[i * n + j] } else { 0.0 };
                for p in 0..k {
                    sum = a.data[i * a.row_stride + p * a.column_stride]
                        .mul_add(b.data[p * b.row_stride + j * b.column_stride], sum);
                }
                c[i * n + j] = sum;
            }
        }
    }

    #[test]
    fn products_have_the_bits_of_their_definition() {
        let small = [(1, 1, 1), (1, 64, 64), (5, 16, 3), (6, 17, 319), (3, 4, 0)];
        for (m, n, k) in small.into_iter().chain([(7, 130, 321), (97, 33, 16), (100, 150, 520), (200, 20, 9)]) {
            let (a, b) = (numbers(m * k, 1), numbers(k * n, 2));
            for a in [MatrixView::row_major(&a, k), MatrixView::transposed(&a, m)] {
                for b in [MatrixView::row_major(&b, n), MatrixView::transposed(&b, k)] {
                    for accumulate in [Accumulate::No, Accumulate::Yes] {
                        let mut ours = numbers(m * n, 3);
                        let mut theirs = ours.clone();
                        matmul(m, n, k, a, b, &mut ours, n, accumulate);
                        chain(m, n, k, a, b, &mut theirs, accumulate);
                        assert_eq!(ours, theirs, "{m} {n} {k}");
                    }
                }
            }
        }
    }

    #[test]
    fn chunks_are_even() {
        let chunks = |count, most| even_chunks(count, most).collect::<Vec<_>>();
        assert_eq!(chunks(257, 320), [(0, 257)]);
        assert_eq!(chunks(10, 3), [(0, 2), (2, 3), (5, 2), (7, 3)]);
        assert_eq!(chunks(0, 3), []);
        assert!(even_chunks(1601, 40).all(|(_, size)| size == 39 || size == 40));
    }

    #[test]
    fn threads_and_packing_do_not_change_bits() {
        let (m, n, k) = (400, 150, 700);
        let (a, w) = (numbers(m * k, 1), numbers(n * k, 2));
        let (rows, columns) = (MatrixView::row_major(&a, k), MatrixView::transposed(&w, k));
        let (mut one, mut many) = (vec![0.0; m * n], vec![0.0; m * n]);
        matmul(m, n, k, rows, columns, &mut one, n, Accumulate::No);
        let pool = rayon::ThreadPoolBuilder::new().num_threads(4).build().unwrap();
        pool.install(|| matmul(m, n, k, rows, columns, &mut many, n, Accumulate::No));
        assert_eq!(one, many);
        let packed = PackedMatrix::new(columns, n, k, vec![0.0; PackedMatrix::size(n, k)]);
        let mut rows = vec![0.0; m * n];
        for (a, c) in a.chunks_exact(k).zip(rows.chunks_exact_mut(n)) {
            packed.multiply(1, a, c, Accumulate::No);
        }
        assert_eq!(one, rows);
    }

    #[test]
    fn the_output_may_have_a_stride() {
        let (a, b) = (numbers(4, 1), numbers(6, 2));
        let (a, b) = (MatrixView::row_major(&a, 2), MatrixView::row_major(&b, 3));
        let (mut c, mut plain) = (vec![9.0; 10], vec![0.0; 6]);
        matmul(2, 3, 2, a, b, &mut c, 7, Accumulate::No);
        chain(2, 3, 2, a, b, &mut plain, Accumulate::No);
        assert_eq!((&c[..3], &c[3..7], &c[7..]), (&plain[..3], &[9.0; 4][..], &plain[3..]));
    }

    #[test]
    fn a_part_of_a_packed_matrix_multiplies_like_the_part() {
        let (a, b) = (numbers(13 * 50, 1), numbers(50 * 40, 2));
        let mut panels = PanelBuffer::default();
        panels.pack(MatrixView::row_major(&b, 40), 50, 40);
        for (m, n, k) in [(13, 40, 50), (13, 33, 17), (1, 16, 1), (6, 5, 50)] {
            let (mut ours, mut theirs) = (numbers(m * 41, 3), numbers(m * 41, 3));
            for accumulate in [Accumulate::No, Accumulate::Yes] {
                panels.multiply(m, n, k, Lhs::RowMajor { data: &a, stride: 50 }, &mut ours, 41, accumulate);
                let (a, b) = (MatrixView::row_major(&a, 50), MatrixView::row_major(&b, 40));
                matmul(m, n, k, a, b, &mut theirs, 41, accumulate);
                assert_eq!(ours, theirs, "{m} {n} {k}");
            }
        }
    }
}
