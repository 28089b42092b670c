//! The tiles of [`super::microkernel`] for AVX-512: a panel of 16 columns is one register, so a tile has up to twelve rows. Each element
//! is the same chain of fused multiply-adds, so the bits are those of the other kernels.

use std::arch::x86_64::{
    __m512, _MM_HINT_T0, _MM_HINT_T1, _mm_prefetch, _mm512_fmadd_ps, _mm512_loadu_ps, _mm512_set1_ps,
    _mm512_setzero_ps, _mm512_storeu_ps,
};

use super::{TILE_COLUMNS, TILE_ROWS, Tile};

/// Rows of a register tile: two tiles of a packed factor.
pub(super) const ROWS: usize = 2 * TILE_ROWS;

/// The product of 1 to 12 rows.
///
/// # Safety
/// As for [`multiply`].
#[target_feature(enable = "avx512f")]
pub(super) unsafe fn multiply_rows(tile: Tile, rows: usize) {
    // SAFETY: the caller guarantees as many rows.
    unsafe {
        if tile.step == 1 {
            multiply_in::<true>(tile, rows);
        } else {
            multiply_in::<false>(tile, rows);
        }
    }
}

/// As [`multiply_rows`], in one of the two layouts.
///
/// # Safety
/// As for [`multiply`].
#[inline]
#[target_feature(enable = "avx512f")]
unsafe fn multiply_in<const ROW_MAJOR: bool>(tile: Tile, rows: usize) {
    // SAFETY: the caller guarantees as many rows.
    unsafe {
        match rows {
            12 => multiply::<12, ROW_MAJOR>(tile),
            11 => multiply::<11, ROW_MAJOR>(tile),
            10 => multiply::<10, ROW_MAJOR>(tile),
            9 => multiply::<9, ROW_MAJOR>(tile),
            8 => multiply::<8, ROW_MAJOR>(tile),
            7 => multiply::<7, ROW_MAJOR>(tile),
            6 => multiply::<6, ROW_MAJOR>(tile),
            5 => multiply::<5, ROW_MAJOR>(tile),
            4 => multiply::<4, ROW_MAJOR>(tile),
            3 => multiply::<3, ROW_MAJOR>(tile),
            2 => multiply::<2, ROW_MAJOR>(tile),
            _ => multiply::<1, ROW_MAJOR>(tile),
        }
    }
}

/// The product of R rows. `ROW_MAJOR`: the step is 1, otherwise the distance of rows is.
///
/// # Safety
/// The machine has AVX-512F; R rows of `depth` numbers of the left-hand factor, and `depth` x 16 numbers of `b` can be read; R rows of
/// 16 that are `c_stride` apart can be written at `c`.
#[inline(never)]
#[target_feature(enable = "avx512f")]
unsafe fn multiply<const R: usize, const ROW_MAJOR: bool>(tile: Tile) {
    let Tile { depth, a, lower, row, step, mut b, mut ahead, c, after, c_stride, overwrite } = tile;
    let (row, step) = if ROW_MAJOR { (row, 1) } else { (1, step) };
    let mut sums: [__m512; R] = [_mm512_setzero_ps(); R];
    // SAFETY: every address that is read or written is within the bounds that the caller guarantees. A prefetch may have any
    // address.
    unsafe {
        for (i, sum) in sums.iter_mut().enumerate().filter(|_| !overwrite) {
            *sum = _mm512_loadu_ps(c.add(i * c_stride));
        }
        for i in 0..R {
            _mm_prefetch::<_MM_HINT_T0>(after.wrapping_add(i * c_stride).cast());
        }
        // Wrapping: with six rows or fewer `below` is not read, and after the last step both may be past the end.
        let (mut upper, mut below) = (a, a.wrapping_add(lower));
        let mut step_down = || {
            let columns = _mm512_loadu_ps(b);
            for (i, sum) in sums.iter_mut().enumerate() {
                let element = if i < TILE_ROWS { upper.add(i * row) } else { below.add((i - TILE_ROWS) * row) };
                *sum = _mm512_fmadd_ps(_mm512_set1_ps(*element), columns, *sum);
            }
            upper = upper.wrapping_add(step);
            below = below.wrapping_add(step);
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
        for (i, sum) in sums.iter().enumerate() {
            _mm512_storeu_ps(c.add(i * c_stride), *sum);
        }
    }
}
