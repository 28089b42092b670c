//! Matrix products on strided views: `C = A B` or `C += A B`.
//!
//! Every element of `C` is one chain of fused multiply-adds, `c <- fma(a[i][p], b[p][j], c)` for `p` in order. Blocks are
//! chosen for the caches only: a block starts from what the block before it left in `C`, so neither the sizes of the
//! caches, nor the number of rows beside a row, nor the number of threads can change a bit. That is why this is not
//! left to a library, whose blocks depend on the machine and whose code paths depend on the shape.

use std::cell::RefCell;

use rayon::prelude::*;

/// Rows of `C` per register tile.
const TILE_ROWS: usize = 6;
/// Columns of `C` per register tile: two AVX registers.
const TILE_COLUMNS: usize = 16;
/// Depth per block: a packed panel of `B` (16 KiB) stays in the first cache.
const DEPTH: usize = 256;
/// Columns per block: a packed block of `B` (128 KiB) stays in the second cache.
const COLUMNS: usize = 128;
/// Rows per block: those of `A` (96 KiB) stay in the second cache.
const ROWS: usize = 96;
/// Multiply-adds from which a product is worth the pool's threads.
const WORTH_THREADS: usize = 1 << 22;

/// A matrix as a slice: element (i, j) lies at `i * row + j * column`.
#[derive(Clone, Copy)]
pub(crate) struct View<'a> {
    data: &'a [f32],
    row: usize,
    column: usize,
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

    fn below(self, row: usize) -> View<'a> {
        View { data: self.data.get(row * self.row..).unwrap_or(&[]), ..self }
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
    let chunks = m.div_ceil(ROWS);
    if chunks > 1 && m * n * k >= WORTH_THREADS && rayon::current_num_threads() > 2 {
        c.par_chunks_mut(ROWS * c_row).enumerate().for_each(|(chunk, c)| {
            let rows = ROWS.min(m - chunk * ROWS);
            product(rows, n, k, a.below(chunk * ROWS), b, c, c_row, into);
        });
    } else {
        product(m, n, k, a, b, c, c_row, into);
    }
}

#[expect(clippy::too_many_arguments, reason = "a product has three sizes and three matrices")]
fn product(m: usize, n: usize, k: usize, a: View, b: View, c: &mut [f32], c_row: usize, into: Into) {
    if k == 0 && into == Into::Replace {
        for row in c.chunks_mut(c_row).take(m) {
            row[..n].fill(0.0);
        }
    }
    with_panels(|panels| {
        for left in (0..n).step_by(COLUMNS) {
            let width = COLUMNS.min(n - left);
            for top in (0..k).step_by(DEPTH) {
                let depth = DEPTH.min(k - top);
                pack(b, top, depth, left, width, panels);
                let fresh = top == 0 && into == Into::Replace;
                block(m, width, depth, a, top, panels, &mut c[left..], c_row, fresh);
            }
        }
    });
}

/// A right-hand factor packed once for many products, as the weights of a model that only runs forward.
pub(crate) struct Packed {
    panels: Vec<f32>,
    k: usize,
    n: usize,
}

impl Packed {
    /// Packs the transpose of `weight` (n, k), as a linear layer multiplies by it.
    pub(crate) fn linear(weight: &[f32], n: usize, k: usize) -> Packed {
        let mut panels = Vec::with_capacity(k * n.next_multiple_of(TILE_COLUMNS));
        let view = View::transposed(weight, k);
        assert!(view.holds(k, n), "BUG: a weight is smaller than its shape says");
        for left in (0..n).step_by(COLUMNS) {
            for top in (0..k).step_by(DEPTH) {
                let mut part = Vec::new();
                pack(view, top, DEPTH.min(k - top), left, COLUMNS.min(n - left), &mut part);
                panels.extend_from_slice(&part);
            }
        }
        Packed { panels, k, n }
    }

    /// `c (m, n) = a (m, k) * weight^T`: the bits of [`matmul`].
    pub(crate) fn apply(&self, m: usize, a: &[f32], c: &mut [f32]) {
        let Packed { panels, k, n } = self;
        if m == 0 {
            return;
        }
        assert!(a.len() >= m * k && c.len() >= m * n, "BUG: the product does not fit its slices");
        let mut at = 0;
        for left in (0..*n).step_by(COLUMNS) {
            let width = COLUMNS.min(n - left);
            for top in (0..*k).step_by(DEPTH) {
                let depth = DEPTH.min(k - top);
                let size = width.div_ceil(TILE_COLUMNS) * TILE_COLUMNS * depth;
                let a = View::rows(a, *k);
                block(m, width, depth, a, top, &panels[at..at + size], &mut c[left..], *n, top == 0);
                at += size;
            }
        }
    }
}

/// Copies a block of `b` into panels of [`TILE_COLUMNS`] columns, depth by depth; missing columns are 0.
fn pack(b: View, top: usize, depth: usize, left: usize, width: usize, panels: &mut Vec<f32>) {
    let size = width.div_ceil(TILE_COLUMNS) * TILE_COLUMNS * depth;
    panels.clear();
    panels.resize(size, 0.0);
    for (panel, out) in panels.chunks_exact_mut(TILE_COLUMNS * depth).enumerate() {
        let first = left + panel * TILE_COLUMNS;
        let columns = TILE_COLUMNS.min(left + width - first);
        if b.column == 1 {
            for (p, out) in out.chunks_exact_mut(TILE_COLUMNS).enumerate() {
                let at = (top + p) * b.row + first;
                out[..columns].copy_from_slice(&b.data[at..at + columns]);
            }
        } else {
            // Eight steps of depth at a time, so that what is written lies together and what is read is read whole.
            for (block, out) in out.chunks_mut(8 * TILE_COLUMNS).enumerate() {
                let steps = out.len() / TILE_COLUMNS;
                for j in 0..columns {
                    let at = (top + block * 8) * b.row + (first + j) * b.column;
                    if b.row == 1 {
                        for (i, &value) in b.data[at..at + steps].iter().enumerate() {
                            out[i * TILE_COLUMNS + j] = value;
                        }
                    } else {
                        for i in 0..steps {
                            out[i * TILE_COLUMNS + j] = b.data[at + i * b.row];
                        }
                    }
                }
            }
        }
    }
}

/// One packed block times the rows of `a`, from column `top` of `a` on.
#[expect(clippy::too_many_arguments, reason = "a product has three sizes and three matrices")]
fn block(
    m: usize,
    width: usize,
    depth: usize,
    a: View,
    top: usize,
    panels: &[f32],
    c: &mut [f32],
    c_row: usize,
    fresh: bool,
) {
    let fma = super::has_fma();
    for first in (0..m).step_by(ROWS) {
        let last = (first + ROWS).min(m);
        for (panel, b) in panels.chunks_exact(TILE_COLUMNS * depth).enumerate() {
            let column = panel * TILE_COLUMNS;
            let columns = TILE_COLUMNS.min(width - column);
            let mut row = first;
            while row < last {
                let rows = TILE_ROWS.min(last - row);
                let a = View { data: &a.data[row * a.row + top * a.column..], ..a };
                let start = row * c_row + column;
                if columns == TILE_COLUMNS {
                    let c = &mut c[start..start + (rows - 1) * c_row + TILE_COLUMNS];
                    tile(rows, depth, a, b, c, c_row, fresh, fma);
                } else {
                    // A tile at the right edge is computed aside: its padding is not ours to write.
                    let mut aside = [0.0f32; TILE_ROWS * TILE_COLUMNS];
                    for (i, aside) in aside.chunks_exact_mut(TILE_COLUMNS).enumerate().take(rows) {
                        aside[..columns].copy_from_slice(&c[start + i * c_row..][..columns]);
                    }
                    tile(rows, depth, a, b, &mut aside[..rows * TILE_COLUMNS], TILE_COLUMNS, fresh, fma);
                    for (i, aside) in aside.chunks_exact(TILE_COLUMNS).enumerate().take(rows) {
                        c[start + i * c_row..][..columns].copy_from_slice(&aside[..columns]);
                    }
                }
                row += rows;
            }
        }
    }
}

/// One register tile of `rows` rows.
#[expect(clippy::too_many_arguments, reason = "the innermost call, spelled out")]
#[inline]
fn tile(rows: usize, depth: usize, a: View, b: &[f32], c: &mut [f32], c_row: usize, fresh: bool, fma: bool) {
    assert!(a.holds(rows, depth) && b.len() == depth * TILE_COLUMNS, "BUG: a tile outside its factors");
    assert!((rows - 1) * c_row + TILE_COLUMNS <= c.len(), "BUG: a tile outside its product");
    #[cfg(target_arch = "x86_64")]
    if fma {
        // SAFETY: the bounds have just been checked, and `fma` says that the instructions are there.
        unsafe {
            match rows {
                6 => fast::tile::<6>(depth, a, b, c, c_row, fresh),
                5 => fast::tile::<5>(depth, a, b, c, c_row, fresh),
                4 => fast::tile::<4>(depth, a, b, c, c_row, fresh),
                3 => fast::tile::<3>(depth, a, b, c, c_row, fresh),
                2 => fast::tile::<2>(depth, a, b, c, c_row, fresh),
                _ => fast::tile::<1>(depth, a, b, c, c_row, fresh),
            }
        }
        return;
    }
    let _ = fma;
    for i in 0..rows {
        let c = &mut c[i * c_row..][..TILE_COLUMNS];
        if fresh {
            c.fill(0.0);
        }
        for (p, b) in b.chunks_exact(TILE_COLUMNS).enumerate() {
            let a = a.data[i * a.row + p * a.column];
            for (c, &b) in c.iter_mut().zip(b) {
                *c = a.mul_add(b, *c);
            }
        }
    }
}

#[cfg(target_arch = "x86_64")]
mod fast {
    //! The register tile in AVX2: `R` rows by two registers, all accumulators in registers.

    use std::arch::x86_64::{
        _mm256_broadcast_ss, _mm256_fmadd_ps, _mm256_loadu_ps, _mm256_setzero_ps, _mm256_storeu_ps,
    };

    use super::{TILE_COLUMNS, View};

    /// # Safety
    /// The machine has AVX2 and FMA; `a` holds (R, depth), `b` depth x 16, `c` R rows of 16 lying `c_row` apart.
    #[target_feature(enable = "avx2,fma")]
    pub(super) unsafe fn tile<const R: usize>(
        depth: usize,
        a: View,
        b: &[f32],
        c: &mut [f32],
        c_row: usize,
        fresh: bool,
    ) {
        let (c, mut b) = (c.as_mut_ptr(), b.as_ptr());
        let mut sums = [[_mm256_setzero_ps(); 2]; R];
        // SAFETY: every address lies within the bounds that the caller vouches for.
        unsafe {
            if !fresh {
                for (i, sums) in sums.iter_mut().enumerate() {
                    sums[0] = _mm256_loadu_ps(c.add(i * c_row));
                    sums[1] = _mm256_loadu_ps(c.add(i * c_row + 8));
                }
            }
            let mut column = a.data.as_ptr();
            for _ in 0..depth {
                let (b0, b1) = (_mm256_loadu_ps(b), _mm256_loadu_ps(b.add(8)));
                for (i, sums) in sums.iter_mut().enumerate() {
                    let a = _mm256_broadcast_ss(&*column.add(i * a.row));
                    sums[0] = _mm256_fmadd_ps(a, b0, sums[0]);
                    sums[1] = _mm256_fmadd_ps(a, b1, sums[1]);
                }
                // Wrapping: after the last step the pointer may lie past the end, and is not read.
                column = column.wrapping_add(a.column);
                b = b.add(TILE_COLUMNS);
            }
            for (i, sums) in sums.iter().enumerate() {
                _mm256_storeu_ps(c.add(i * c_row), sums[0]);
                _mm256_storeu_ps(c.add(i * c_row + 8), sums[1]);
            }
        }
    }
}

thread_local! { static PANELS: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) }; }

/// Lends the thread's buffer for packed panels.
fn with_panels<R>(work: impl FnOnce(&mut Vec<f32>) -> R) -> R {
    PANELS.with(|panels| work(&mut panels.borrow_mut()))
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
        let sizes =
            [(1, 1, 1), (1, 64, 64), (5, 16, 3), (6, 17, 255), (7, 130, 257), (97, 33, 16), (100, 150, 520), (3, 4, 0)];
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
    fn threads_and_packed_weights_change_no_bit() {
        let (m, n, k) = (400, 150, 300);
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
