//! The tiles of [`super::microkernel`], and [`super::transpose`], for AVX2 with FMA.

use std::arch::x86_64::{
    __m256, _MM_HINT_T0, _MM_HINT_T1, _mm_prefetch, _mm256_broadcast_ss, _mm256_fmadd_ps, _mm256_loadu_ps,
    _mm256_permute2f128_ps, _mm256_setzero_ps, _mm256_shuffle_ps, _mm256_storeu_ps, _mm256_unpackhi_ps,
    _mm256_unpacklo_ps,
};

use super::{TILE_COLUMNS, Tile};

/// The product of 1 to 6 rows.
///
/// # Safety
/// As for [`multiply`].
#[target_feature(enable = "avx2,fma")]
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
#[target_feature(enable = "avx2,fma")]
unsafe fn multiply_in<const ROW_MAJOR: bool>(tile: Tile, rows: usize) {
    // SAFETY: the caller guarantees as many rows.
    unsafe {
        match rows {
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
/// The machine has AVX2 and FMA; R rows of `depth` numbers of the left-hand factor, and `depth` x 16 numbers of `b` can be read; R
/// rows of 16 that are `c_stride` apart can be written at `c`.
#[inline(never)]
#[target_feature(enable = "avx2,fma")]
unsafe fn multiply<const R: usize, const ROW_MAJOR: bool>(tile: Tile) {
    let Tile { depth, a, row, step, mut b, mut ahead, c, after, c_stride, overwrite, .. } = tile;
    let (row, step) = if ROW_MAJOR { (row, 1) } else { (1, step) };
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
        let (low, high) =
            (_mm256_permute2f128_ps::<0x20>(upper[i], lower[i]), _mm256_permute2f128_ps::<0x31>(upper[i], lower[i]));
        // SAFETY: the caller guarantees the bounds.
        unsafe {
            _mm256_storeu_ps(to.add(i * TILE_COLUMNS), low);
            _mm256_storeu_ps(to.add((i + 4) * TILE_COLUMNS), high);
        }
    }
}
