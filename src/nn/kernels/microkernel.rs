//! The innermost kernel of matrix products: a panel of [`TILE_COLUMNS`] columns times rows, in register tiles, and the
//! transposition that packs a panel. For AVX2 with FMA, and portable with the same bits.

#![allow(unsafe_code)]

#[cfg(target_arch = "x86_64")]
use super::simd::has_fma;

/// Rows of a register tile of a matrix product.
pub(crate) const TILE_ROWS: usize = 6;
/// Columns of a register tile: two AVX registers.
pub(crate) const TILE_COLUMNS: usize = 16;

/// The left-hand factor of a product: element (i, p) is in row i, at depth p.
#[derive(Clone, Copy)]
pub(crate) enum Lhs<'a> {
    /// Element (i, p) is at `i * stride + p`.
    RowMajor { data: &'a [f32], stride: usize },
    /// Element (i, p) is at `p * stride + i`.
    ColMajor { data: &'a [f32], stride: usize },
    /// Panels of [`TILE_ROWS`] rows, column-major within a panel.
    Packed(&'a [f32]),
}

/// `c (rows, 16) += a (rows, depth) b (depth, 16)`. Each element is one chain of fused multiply-adds in order of the depth;
/// with `overwrite` the chain starts at 0 instead of the value in `c`. The rows of `c` are `c_stride` apart.
#[inline]
pub(crate) fn microkernel(
    rows: usize,
    depth: usize,
    a: Lhs,
    b: &[f32],
    c: &mut [f32],
    c_stride: usize,
    overwrite: bool,
) {
    assert!(rows > 0 && depth > 0, "BUG: an empty product");
    // Saturating: no stride can be so large that a check passes by wrapping.
    let extent = |count: usize, stride: usize, last: usize| (count - 1).saturating_mul(stride).saturating_add(last);
    let (length, needed) = match a {
        Lhs::RowMajor { data, stride } => (data.len(), extent(rows, stride, depth)),
        Lhs::ColMajor { data, stride } => (data.len(), extent(depth, stride, rows)),
        Lhs::Packed(data) => (data.len(), rows.div_ceil(TILE_ROWS).saturating_mul(TILE_ROWS * depth)),
    };
    assert!(needed <= length, "BUG: the left-hand factor is out of bounds");
    assert!(b.len() / TILE_COLUMNS == depth, "BUG: the panel has another depth");
    assert!(extent(rows, c_stride, TILE_COLUMNS) <= c.len(), "BUG: the product is out of bounds");
    #[cfg(target_arch = "x86_64")]
    if has_fma() {
        // SAFETY: the bounds and the instructions have just been checked.
        unsafe { avx2::microkernel(rows, depth, a, b, c, c_stride, overwrite) };
        return;
    }
    portable::microkernel(rows, a, b, c, c_stride, overwrite);
}

/// Transposes 16 rows of `depth` numbers, `stride` apart, into `depth` rows of 16.
pub(crate) fn transpose(from: &[f32], stride: usize, depth: usize, to: &mut [f32]) {
    let count = TILE_COLUMNS;
    assert!((count - 1).saturating_mul(stride).saturating_add(depth) <= from.len(), "BUG: the panel is out of bounds");
    assert!(to.len() == depth * count, "BUG: the panel has another size");
    let mut done = 0;
    #[cfg(target_arch = "x86_64")]
    if has_fma() {
        done = depth / 8 * 8;
        for p in (0..done).step_by(8) {
            for half in [0, 8] {
                let (from, to) = (&from[half * stride + p..], &mut to[p * count + half..]);
                // SAFETY: `from` holds 8 rows of 8 numbers from here on, since rows `half + 7 <= 15` and columns
                // `p + 7 < depth` are within the checked bounds. `to` holds rows up to `p + 7 < depth` from column
                // `half <= 8` on. The instructions have been checked.
                unsafe { avx2::transpose(from, stride, to) };
            }
        }
    }
    portable::transpose(from, stride, done, to);
}

mod portable {
    //! The same bits without AVX2.

    use super::{Lhs, TILE_COLUMNS, TILE_ROWS};

    /// [`super::microkernel`], which has checked the bounds.
    pub(super) fn microkernel(rows: usize, a: Lhs, b: &[f32], c: &mut [f32], c_stride: usize, overwrite: bool) {
        let depth = b.len() / TILE_COLUMNS;
        for i in 0..rows {
            let c = &mut c[i * c_stride..][..TILE_COLUMNS];
            if overwrite {
                c.fill(0.0);
            }
            for (p, b) in b.chunks_exact(TILE_COLUMNS).enumerate() {
                let a = match a {
                    Lhs::RowMajor { data, stride } => data[i * stride + p],
                    Lhs::ColMajor { data, stride } => data[p * stride + i],
                    Lhs::Packed(data) => data[i / TILE_ROWS * TILE_ROWS * depth + p * TILE_ROWS + i % TILE_ROWS],
                };
                for (c, &b) in c.iter_mut().zip(b) {
                    *c = a.mul_add(b, *c);
                }
            }
        }
    }

    /// [`super::transpose`] from row `done` of the result on.
    pub(super) fn transpose(from: &[f32], stride: usize, done: usize, to: &mut [f32]) {
        for (p, to) in to.chunks_exact_mut(TILE_COLUMNS).enumerate().skip(done) {
            for (j, to) in to.iter_mut().enumerate() {
                *to = from[j * stride + p];
            }
        }
    }
}

#[cfg(target_arch = "x86_64")]
mod avx2 {

    use std::arch::x86_64::{
        __m256, _MM_HINT_T0, _MM_HINT_T1, _mm_prefetch, _mm256_broadcast_ss, _mm256_fmadd_ps, _mm256_loadu_ps,
        _mm256_permute2f128_ps, _mm256_setzero_ps, _mm256_shuffle_ps, _mm256_storeu_ps, _mm256_unpackhi_ps,
        _mm256_unpacklo_ps,
    };

    use super::{Lhs, TILE_COLUMNS, TILE_ROWS};

    /// Computes the tiles from top to bottom. A packed factor has tiles of six rows. Otherwise the tiles are as equal as
    /// possible, since a tile of one or two rows takes as long as one of four.
    ///
    /// # Safety
    /// The machine has AVX2 and FMA; `a` holds (rows, depth), `b` is depth x 16, `c` holds `rows` rows of 16 that are
    /// `c_stride` apart.
    #[target_feature(enable = "avx2,fma")]
    pub(super) unsafe fn microkernel(
        rows: usize,
        depth: usize,
        a: Lhs,
        b: &[f32],
        c: &mut [f32],
        c_stride: usize,
        overwrite: bool,
    ) {
        let (b, c) = (b.as_ptr(), c.as_mut_ptr());
        let count = rows.div_ceil(TILE_ROWS);
        let (smallest, larger) = (rows / count, rows % count);
        let mut first = 0;
        for number in 0..count {
            let even = smallest + usize::from(number < larger);
            // The first four tiles each prefetch a quarter of the panel that follows in memory, which is mostly the next.
            let ahead = if number < 4 { b.wrapping_add((4 + number) * (depth / 4) * TILE_COLUMNS) } else { b };
            // SAFETY: the rows of the tile are among `rows`, for which the caller guarantees the bounds.
            unsafe {
                // After the last tile comes the first one of the next panel, to the right.
                let after = if number + 1 < count {
                    c.wrapping_add((first + even) * c_stride)
                } else {
                    c.wrapping_add(TILE_COLUMNS)
                };
                let tile = |a, a_stride| Tile {
                    depth,
                    a,
                    a_stride,
                    b,
                    ahead,
                    c: c.add(first * c_stride),
                    after,
                    c_stride,
                    overwrite,
                };
                let (count, row_major, tile) = match a {
                    Lhs::RowMajor { data, stride } => (even, true, tile(data.as_ptr().add(first * stride), stride)),
                    Lhs::ColMajor { data, stride } => (even, false, tile(data.as_ptr().add(first), stride)),
                    Lhs::Packed(data) => {
                        (TILE_ROWS.min(rows - first), false, tile(data.as_ptr().add(first * depth), TILE_ROWS))
                    }
                };
                if row_major {
                    tile.multiply_rows::<true>(count);
                } else {
                    tile.multiply_rows::<false>(count);
                }
                first += count;
            }
        }
    }

    /// One register tile: up to six rows of `depth` numbers times a panel.
    struct Tile {
        depth: usize,
        a: *const f32,
        /// Numbers between two rows, or, if column-major, between two steps of the depth.
        a_stride: usize,
        b: *const f32,
        /// Where to prefetch: a quarter as many numbers as the panel has.
        ahead: *const f32,
        c: *mut f32,
        /// Where the next tile writes.
        after: *const f32,
        c_stride: usize,
        overwrite: bool,
    }

    impl Tile {
        /// The product of 1 to 6 rows.
        ///
        /// # Safety
        /// As for [`Tile::multiply`].
        #[inline]
        #[target_feature(enable = "avx2,fma")]
        unsafe fn multiply_rows<const ROW_MAJOR: bool>(self, rows: usize) {
            // SAFETY: the caller guarantees as many rows.
            unsafe {
                match rows {
                    6 => self.multiply::<6, ROW_MAJOR>(),
                    5 => self.multiply::<5, ROW_MAJOR>(),
                    4 => self.multiply::<4, ROW_MAJOR>(),
                    3 => self.multiply::<3, ROW_MAJOR>(),
                    2 => self.multiply::<2, ROW_MAJOR>(),
                    _ => self.multiply::<1, ROW_MAJOR>(),
                }
            }
        }

        /// The product of R rows.
        ///
        /// # Safety
        /// The machine has AVX2 and FMA; R rows of `depth` numbers of the left-hand factor in the layout `ROW_MAJOR`, and
        /// `depth` x 16 numbers of `b` can be read; R rows of 16 that are `c_stride` apart can be written at `c`.
        #[inline(never)]
        #[target_feature(enable = "avx2,fma")]
        unsafe fn multiply<const R: usize, const ROW_MAJOR: bool>(self) {
            let Tile { depth, a, a_stride, mut b, mut ahead, c, after, c_stride, overwrite } = self;
            let (row, step) = if ROW_MAJOR { (a_stride, 1) } else { (1, a_stride) };
            let mut sums = [[_mm256_setzero_ps(); 2]; R];
            // SAFETY: every address that is read or written is within the bounds that the caller guarantees. A prefetch may
            // have any address.
            unsafe {
                for (i, sums) in sums.iter_mut().enumerate().filter(|_| !overwrite) {
                    sums[0] = _mm256_loadu_ps(c.add(i * c_stride));
                    sums[1] = _mm256_loadu_ps(c.add(i * c_stride + 8));
                }
                for i in 0..R {
                    _mm_prefetch::<_MM_HINT_T0>(after.wrapping_add(i * c_stride).cast());
                }
                let mut column = a;
                let mut step_down = || {
                    let (b0, b1) = (_mm256_loadu_ps(b), _mm256_loadu_ps(b.add(8)));
                    for (i, sums) in sums.iter_mut().enumerate() {
                        let a = _mm256_broadcast_ss(&*column.add(i * row));
                        sums[0] = _mm256_fmadd_ps(a, b0, sums[0]);
                        sums[1] = _mm256_fmadd_ps(a, b1, sums[1]);
                    }
                    // Wrapping: after the last step the pointer may be past the end, and is not read.
                    column = column.wrapping_add(step);
                    b = b.add(TILE_COLUMNS);
                };
                for _ in 0..depth / 4 {
                    _mm_prefetch::<_MM_HINT_T1>(ahead.cast());
                    ahead = ahead.wrapping_add(TILE_COLUMNS);
                    step_down();
                    step_down();
                    step_down();
                    step_down();
                }
                for _ in 0..depth % 4 {
                    step_down();
                }
                for (i, sums) in sums.iter().enumerate() {
                    _mm256_storeu_ps(c.add(i * c_stride), sums[0]);
                    _mm256_storeu_ps(c.add(i * c_stride + 8), sums[1]);
                }
            }
        }
    }

    /// Transposes 8 rows of 8 numbers, `stride` apart, into rows that are 16 apart.
    ///
    /// # Safety
    /// The machine has AVX2; `from` holds 8 rows of 8 that are `stride` apart, `to` 8 rows of 8 that are 16 apart.
    #[target_feature(enable = "avx2,fma")]
    pub(super) unsafe fn transpose(from: &[f32], stride: usize, to: &mut [f32]) {
        let (from, to) = (from.as_ptr(), to.as_mut_ptr());
        // SAFETY: the caller guarantees the bounds.
        let r: [__m256; 8] = std::array::from_fn(|i| unsafe { _mm256_loadu_ps(from.add(i * stride)) });
        let pairs = |i: usize| (_mm256_unpacklo_ps(r[i], r[i + 1]), _mm256_unpackhi_ps(r[i], r[i + 1]));
        let fours = |i: usize| {
            let ((a, b), (c, d)) = (pairs(i), pairs(i + 2));
            [
                _mm256_shuffle_ps::<0x44>(a, c),
                _mm256_shuffle_ps::<0xEE>(a, c),
                _mm256_shuffle_ps::<0x44>(b, d),
                _mm256_shuffle_ps::<0xEE>(b, d),
            ]
        };
        let (upper, lower) = (fours(0), fours(4));
        for i in 0..4 {
            let (low, high) = (
                _mm256_permute2f128_ps::<0x20>(upper[i], lower[i]),
                _mm256_permute2f128_ps::<0x31>(upper[i], lower[i]),
            );
            // SAFETY: the caller guarantees the bounds.
            unsafe {
                _mm256_storeu_ps(to.add(i * TILE_COLUMNS), low);
                _mm256_storeu_ps(to.add((i + 4) * TILE_COLUMNS), high);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbers(n: usize) -> Vec<f32> {
        (0..n).map(|i| ((i * 7919) % 2003) as f32 / 1001.0 - 1.0).collect()
    }

    #[test]
    fn avx2_and_portable_products_have_equal_bits() {
        let (depth, most, c_stride) = (37, 14, 20);
        let (a, b, c) = (numbers(3 * TILE_ROWS * depth), numbers(depth * TILE_COLUMNS), numbers(most * c_stride));
        let factors =
            [Lhs::RowMajor { data: &a, stride: depth }, Lhs::ColMajor { data: &a, stride: 16 }, Lhs::Packed(&a)];
        for rows in 1..=most {
            for a in factors {
                for overwrite in [false, true] {
                    let (mut portable, mut fast) = (c.clone(), c.clone());
                    super::portable::microkernel(rows, a, &b, &mut portable, c_stride, overwrite);
                    microkernel(rows, depth, a, &b, &mut fast, c_stride, overwrite);
                    assert!(portable == fast, "{rows} rows, overwrite: {overwrite}");
                }
            }
        }
    }

    #[test]
    fn avx2_and_portable_transposes_are_equal() {
        let (depth, stride) = (21, 30);
        let from = numbers(TILE_COLUMNS * stride);
        let (mut portable, mut fast) = (vec![0.0; depth * TILE_COLUMNS], vec![0.0; depth * TILE_COLUMNS]);
        super::portable::transpose(&from, stride, 0, &mut portable);
        transpose(&from, stride, depth, &mut fast);
        assert_eq!(portable, fast);
    }
}
