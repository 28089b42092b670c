//! The innermost kernel of matrix products: a panel of [`TILE_COLUMNS`] columns times rows, in register tiles, and the
//! transposition that packs a panel. For AVX-512, for AVX2 with FMA, and portable, all with the same bits.

#![allow(unsafe_code)]

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;

#[cfg(target_arch = "x86_64")]
use super::simd::{has_avx512, has_fma};

/// Rows of a register tile of a matrix product.
pub(crate) const TILE_ROWS: usize = 6;
/// Columns of a register tile: two AVX registers, or one of AVX-512.
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
    if has_avx512() {
        // SAFETY: the bounds and the instructions have just been checked.
        unsafe { for_tiles(rows, depth, a, b, c, c_stride, overwrite, avx512::ROWS, avx512::multiply_rows) };
        return;
    }
    #[cfg(target_arch = "x86_64")]
    if has_fma() {
        // SAFETY: the bounds and the instructions have just been checked.
        unsafe { for_tiles(rows, depth, a, b, c, c_stride, overwrite, TILE_ROWS, avx2::multiply_rows) };
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

/// One register tile: some rows of `depth` numbers times a panel.
#[cfg(target_arch = "x86_64")]
#[derive(Clone, Copy)]
struct Tile {
    depth: usize,
    /// The first row of the left-hand factor.
    a: *const f32,
    /// From the first row to the row [`TILE_ROWS`] below it.
    lower: usize,
    /// From a row to the next, within [`TILE_ROWS`] of them.
    row: usize,
    /// From a step of the depth to the next. It or `row` is 1.
    step: usize,
    b: *const f32,
    /// Where to prefetch: a quarter as many numbers as the panel has.
    ahead: *const f32,
    c: *mut f32,
    /// Where the next tile writes.
    after: *const f32,
    c_stride: usize,
    overwrite: bool,
}

/// Calls `multiply` with the tiles from top to bottom and their numbers of rows, `most` at most: [`TILE_ROWS`] or twice as many. A
/// packed factor has tiles of `most` rows. Otherwise the tiles are as equal as possible, since a tile of one or two rows takes as long as one
/// of four.
///
/// # Safety
/// `a` holds (rows, depth), `b` is depth x 16, `c` holds `rows` rows of 16 that are `c_stride` apart. The machine has the instructions
/// of `multiply`.
#[cfg(target_arch = "x86_64")]
#[expect(clippy::too_many_arguments, reason = "those of the product, and how to compute a tile")]
#[inline]
unsafe fn for_tiles(
    rows: usize,
    depth: usize,
    a: Lhs,
    b: &[f32],
    c: &mut [f32],
    c_stride: usize,
    overwrite: bool,
    most: usize,
    multiply: unsafe fn(Tile, usize),
) {
    let (b, c) = (b.as_ptr(), c.as_mut_ptr());
    let count = rows.div_ceil(most);
    let (smallest, larger) = (rows / count, rows % count);
    let mut first = 0;
    for number in 0..count {
        let even = smallest + usize::from(number < larger);
        // The first four tiles each prefetch a quarter of the panel that follows in memory, which is mostly the next.
        let ahead = if number < 4 { b.wrapping_add((4 + number) * (depth / 4) * TILE_COLUMNS) } else { b };
        // SAFETY: the rows of the tile are among `rows`, for which the caller guarantees the bounds.
        unsafe {
            let (tile_rows, a, lower, row, step) = match a {
                Lhs::RowMajor { data, stride } => {
                    (even, data.as_ptr().add(first * stride), TILE_ROWS * stride, stride, 1)
                }
                Lhs::ColMajor { data, stride } => (even, data.as_ptr().add(first), TILE_ROWS, 1, stride),
                Lhs::Packed(data) => {
                    (most.min(rows - first), data.as_ptr().add(first * depth), TILE_ROWS * depth, 1, TILE_ROWS)
                }
            };
            // After the last tile comes the first one of the next panel, to the right.
            let next = first + tile_rows;
            let after = c.wrapping_add(if next < rows { next * c_stride } else { TILE_COLUMNS });
            let c = c.add(first * c_stride);
            multiply(Tile { depth, a, lower, row, step, b, ahead, c, after, c_stride, overwrite }, tile_rows);
            first = next;
        }
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    fn numbers(n: usize) -> Vec<f32> {
        (0..n).map(|i| ((i * 7919) % 2003) as f32 / 1001.0 - 1.0).collect()
    }

    #[test]
    fn products_have_equal_bits_with_all_instructions() {
        let (depth, most, c_stride) = (37, 29, 20);
        let (a, b, c) = (numbers(5 * TILE_ROWS * depth), numbers(depth * TILE_COLUMNS), numbers(most * c_stride));
        let factors =
            [Lhs::RowMajor { data: &a, stride: depth }, Lhs::ColMajor { data: &a, stride: 30 }, Lhs::Packed(&a)];
        for rows in 1..=most {
            for a in factors {
                for overwrite in [false, true] {
                    let (mut portable, mut fast) = (c.clone(), c.clone());
                    super::portable::microkernel(rows, a, &b, &mut portable, c_stride, overwrite);
                    microkernel(rows, depth, a, &b, &mut fast, c_stride, overwrite);
                    assert!(portable == fast, "{rows} rows, overwrite: {overwrite}");
                    #[cfg(target_arch = "x86_64")]
                    if has_fma() {
                        fast.clone_from(&c);
                        // SAFETY: `microkernel` has checked the same bounds, and the instructions have been checked.
                        unsafe {
                            let (c, multiply) = (&mut fast, avx2::multiply_rows);
                            for_tiles(rows, depth, a, &b, c, c_stride, overwrite, TILE_ROWS, multiply);
                        }
                        assert!(portable == fast, "AVX2: {rows} rows, overwrite: {overwrite}");
                    }
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
