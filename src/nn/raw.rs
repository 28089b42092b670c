//! All `unsafe` code around numbers, each piece with its proof: wider instructions, the register tile
//! of matrix products. Everything here is safe to call. Knows no model and no operation.

#![allow(unsafe_code)]

use super::portable;

/// Asks for numbers that will be read soon: short stretches far apart come too late by themselves.
#[inline]
pub(crate) fn prefetch(numbers: &[f32]) {
    #[cfg(target_arch = "x86_64")]
    for line in numbers.chunks(64 / size_of::<f32>()) {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        // SAFETY: a prefetch changes nothing that a program can see, and every x86-64 has it.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(line.as_ptr().cast()) };
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = numbers;
}

/// Compiles a function twice, for AVX2 and for every machine, and chooses at run time. Both give the same bits.
macro_rules! simd {
    ($(#[$attribute:meta])* pub(crate) fn $name:ident($($argument:ident : $type:ty),* $(,)?) $(-> $result:ty)? $body:block) => {
        $(#[$attribute])*
        pub(crate) fn $name($($argument: $type),*) $(-> $result)? {
            #[inline(always)]
            #[allow(clippy::too_many_arguments)]
            fn body($($argument: $type),*) $(-> $result)? $body
            #[cfg(target_arch = "x86_64")]
            {
                #[target_feature(enable = "avx2,fma")]
                #[allow(clippy::too_many_arguments)]
                fn fast($($argument: $type),*) $(-> $result)? { body($($argument),*) }
                if $crate::portable::has_fma() {
                    #[allow(unsafe_code)]
                    // SAFETY: the instructions that `fast` is compiled for have just been seen to be there.
                    return unsafe { fast($($argument),*) };
                }
            }
            body($($argument),*)
        }
    };
}
pub(crate) use simd;

/// Rows of a register tile of a matrix product.
pub(crate) const TILE_ROWS: usize = 6;
/// Columns of a register tile: two AVX registers.
pub(crate) const TILE_COLUMNS: usize = 16;

/// The left-hand factor of a strip.
#[derive(Clone, Copy)]
pub(crate) enum Rows<'a> {
    /// Each along its row: element (i, p) lies at `i * row + p`.
    Along { data: &'a [f32], row: usize },
    /// All side by side: element (i, p) lies at `p * step + i`.
    Across { data: &'a [f32], step: usize },
    /// [`TILE_ROWS`] side by side, depth by depth, then the next ones.
    Tiles(&'a [f32]),
}

/// One strip of a matrix product, 16 columns wide: `c (rows, 16) <- c + a (rows, depth) b (depth, 16)`, each element one
/// chain of fused multiply-adds in order of the depth; `fresh` takes 0 for what is in `c`. The rows of `c` lie `c_row`
/// apart.
#[inline]
pub(crate) fn strip(rows: usize, depth: usize, a: Rows, b: &[f32], c: &mut [f32], c_row: usize, fresh: bool) {
    assert!(rows > 0 && depth > 0, "BUG: an empty strip");
    // Saturating: no stride can be so large that a check passes by wrapping.
    let extent = |count: usize, stride: usize, last: usize| (count - 1).saturating_mul(stride).saturating_add(last);
    let (held, needed) = match a {
        Rows::Along { data, row } => (data.len(), extent(rows, row, depth)),
        Rows::Across { data, step } => (data.len(), extent(depth, step, rows)),
        Rows::Tiles(data) => (data.len(), rows.div_ceil(TILE_ROWS).saturating_mul(TILE_ROWS * depth)),
    };
    assert!(needed <= held, "BUG: a strip outside its rows");
    assert!(b.len() / TILE_COLUMNS == depth, "BUG: a strip outside its panel");
    assert!(extent(rows, c_row, TILE_COLUMNS) <= c.len(), "BUG: a strip outside its product");
    #[cfg(target_arch = "x86_64")]
    if portable::has_fma() {
        // SAFETY: the bounds have just been checked, and so has that the instructions are there.
        unsafe { fast::strip(rows, depth, a, b, c, c_row, fresh) };
        return;
    }
    portable::strip(rows, a, b, c, c_row, fresh);
}

/// Writes 16 rows of `depth` numbers, `stride` apart, as `depth` rows of 16.
pub(crate) fn transpose(from: &[f32], stride: usize, depth: usize, to: &mut [f32]) {
    let count = TILE_COLUMNS;
    assert!((count - 1).saturating_mul(stride).saturating_add(depth) <= from.len(), "BUG: a panel outside its matrix");
    assert!(to.len() == depth * count, "BUG: a panel of another size");
    let mut done = 0;
    #[cfg(target_arch = "x86_64")]
    if portable::has_fma() {
        done = depth / 8 * 8;
        for p in (0..done).step_by(8) {
            for half in [0, 8] {
                let (from, to) = (&from[half * stride + p..], &mut to[p * count + half..]);
                // SAFETY: of `from`, 8 rows of 8 numbers from here on are inside, since rows `half + 7 <= 15` and
                // columns `p + 7 < depth` are; of `to`, rows `p + 7 < depth` from column `half <= 8` on. The
                // instructions are there.
                unsafe { fast::transpose(from, stride, to) };
            }
        }
    }
    portable::transpose(from, stride, done, to);
}

#[cfg(target_arch = "x86_64")]
mod fast {
    //! The same in AVX2.

    use std::arch::x86_64::{
        __m256, _MM_HINT_T0, _MM_HINT_T1, _mm_prefetch, _mm256_broadcast_ss, _mm256_fmadd_ps, _mm256_loadu_ps,
        _mm256_permute2f128_ps, _mm256_setzero_ps, _mm256_shuffle_ps, _mm256_storeu_ps, _mm256_unpackhi_ps,
        _mm256_unpacklo_ps,
    };

    use super::{Rows, TILE_COLUMNS, TILE_ROWS};

    /// The strip's tiles from top to bottom: of six rows where the factor is packed so, else as even as can be, since a
    /// tile of one or two rows takes as long as one of four.
    ///
    /// # Safety
    /// The machine has AVX2 and FMA; `a` holds (rows, depth), `b` is depth x 16, `c` holds `rows` rows of 16 lying `c_row`
    /// apart.
    #[target_feature(enable = "avx2,fma")]
    pub(super) unsafe fn strip(
        rows: usize,
        depth: usize,
        a: Rows,
        b: &[f32],
        c: &mut [f32],
        c_row: usize,
        fresh: bool,
    ) {
        let (b, c) = (b.as_ptr(), c.as_mut_ptr());
        let count = rows.div_ceil(TILE_ROWS);
        let (fewer, with_more) = (rows / count, rows % count);
        let mut first = 0;
        for number in 0..count {
            let even = fewer + usize::from(number < with_more);
            // A quarter of the panel behind this one, which mostly is the next, or what is at hand anyway.
            let ahead = if number < 4 { b.wrapping_add((4 + number) * (depth / 4) * TILE_COLUMNS) } else { b };
            // SAFETY: the rows of the tile are among those of the strip, which the caller vouches for.
            unsafe {
                // Below the last tile nothing follows, but beside the first one.
                let after = if number + 1 < count {
                    c.wrapping_add((first + even) * c_row)
                } else {
                    c.wrapping_add(TILE_COLUMNS)
                };
                let tile = |a, apart| Tile { depth, a, apart, b, ahead, c: c.add(first * c_row), after, c_row, fresh };
                let (some, along, tile) = match a {
                    Rows::Along { data, row } => (even, true, tile(data.as_ptr().add(first * row), row)),
                    Rows::Across { data, step } => (even, false, tile(data.as_ptr().add(first), step)),
                    Rows::Tiles(data) => {
                        (TILE_ROWS.min(rows - first), false, tile(data.as_ptr().add(first * depth), TILE_ROWS))
                    }
                };
                if along {
                    tile.multiply_rows::<ALONG>(some);
                } else {
                    tile.multiply_rows::<ACROSS>(some);
                }
                first += some;
            }
        }
    }

    /// The layouts of a tile's rows, for code that is compiled for each: their numbers lie side by side, and the rows apart,
    /// or the other way round.
    const ALONG: usize = 0;
    const ACROSS: usize = 1;

    /// One register tile: some rows of `depth` numbers times a panel.
    struct Tile {
        depth: usize,
        a: *const f32,
        /// Numbers between two rows, or, if these lie side by side, between two steps of the depth.
        apart: usize,
        b: *const f32,
        /// A quarter as many numbers as the panel has, which will be read next.
        ahead: *const f32,
        c: *mut f32,
        /// Where the tile that comes next writes.
        after: *const f32,
        c_row: usize,
        fresh: bool,
    }

    impl Tile {
        /// The product of 1 to 6 rows.
        ///
        /// # Safety
        /// As for [`Tile::multiply`].
        #[inline]
        #[target_feature(enable = "avx2,fma")]
        unsafe fn multiply_rows<const LAYOUT: usize>(self, rows: usize) {
            // SAFETY: the caller vouches for as many rows.
            unsafe {
                match rows {
                    6 => self.multiply::<6, LAYOUT>(),
                    5 => self.multiply::<5, LAYOUT>(),
                    4 => self.multiply::<4, LAYOUT>(),
                    3 => self.multiply::<3, LAYOUT>(),
                    2 => self.multiply::<2, LAYOUT>(),
                    _ => self.multiply::<1, LAYOUT>(),
                }
            }
        }

        /// The product of R rows.
        ///
        /// # Safety
        /// The machine has AVX2 and FMA; R rows of `depth` numbers of the left-hand factor, laid out as `LAYOUT` says, and
        /// `depth` x 16 numbers of `b` can be read; R rows of 16 that lie `c_row` apart can be written at `c`.
        #[inline(never)]
        #[target_feature(enable = "avx2,fma")]
        unsafe fn multiply<const R: usize, const LAYOUT: usize>(self) {
            let Tile { depth, a, apart, mut b, mut ahead, c, after, c_row, fresh } = self;
            let (row, step) = if LAYOUT == ALONG { (apart, 1) } else { (1, apart) };
            let mut sums = [[_mm256_setzero_ps(); 2]; R];
            // SAFETY: every address that is read or written lies within the bounds that the caller vouches for. A prefetch
            // may go anywhere.
            unsafe {
                for (i, sums) in sums.iter_mut().enumerate().filter(|_| !fresh) {
                    sums[0] = _mm256_loadu_ps(c.add(i * c_row));
                    sums[1] = _mm256_loadu_ps(c.add(i * c_row + 8));
                }
                for i in 0..R {
                    _mm_prefetch::<_MM_HINT_T0>(after.wrapping_add(i * c_row).cast());
                }
                let mut column = a;
                let mut step_down = || {
                    let (b0, b1) = (_mm256_loadu_ps(b), _mm256_loadu_ps(b.add(8)));
                    for (i, sums) in sums.iter_mut().enumerate() {
                        let a = _mm256_broadcast_ss(&*column.add(i * row));
                        sums[0] = _mm256_fmadd_ps(a, b0, sums[0]);
                        sums[1] = _mm256_fmadd_ps(a, b1, sums[1]);
                    }
                    // Wrapping: after the last step the pointer may lie past the end, and is not read.
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
                    _mm256_storeu_ps(c.add(i * c_row), sums[0]);
                    _mm256_storeu_ps(c.add(i * c_row + 8), sums[1]);
                }
            }
        }
    }

    /// Writes 8 rows of 8 numbers, `stride` apart, as columns of rows that lie 16 apart.
    ///
    /// # Safety
    /// The machine has AVX2; `from` holds 8 rows of 8 lying `stride` apart, `to` 8 rows of 8 lying 16 apart.
    #[target_feature(enable = "avx2,fma")]
    pub(super) unsafe fn transpose(from: &[f32], stride: usize, to: &mut [f32]) {
        let (from, to) = (from.as_ptr(), to.as_mut_ptr());
        // SAFETY: the caller vouches for the bounds.
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
            // SAFETY: the caller vouches for the bounds.
            unsafe {
                _mm256_storeu_ps(to.add(i * TILE_COLUMNS), low);
                _mm256_storeu_ps(to.add((i + 4) * TILE_COLUMNS), high);
            }
        }
    }
}
