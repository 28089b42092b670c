//! What the fast paths of [`raw`](super::raw) compute, bit for bit, for machines that lack their instructions; and whether this
//! one has them.

use super::raw::{Rows, TILE_COLUMNS, TILE_ROWS};

/// Whether the machine has the instructions that the fast paths are compiled for.
#[inline]
pub(crate) fn has_fma() -> bool {
    #[cfg(target_arch = "x86_64")]
    {
        std::arch::is_x86_feature_detected!("avx2") && std::arch::is_x86_feature_detected!("fma")
    }
    #[cfg(not(target_arch = "x86_64"))]
    {
        false
    }
}

/// [`raw::strip`](super::raw::strip), whose checks it relies on.
pub(super) fn strip(rows: usize, a: Rows, b: &[f32], c: &mut [f32], c_row: usize, fresh: bool) {
    let depth = b.len() / TILE_COLUMNS;
    for i in 0..rows {
        let c = &mut c[i * c_row..][..TILE_COLUMNS];
        if fresh {
            c.fill(0.0);
        }
        for (p, b) in b.chunks_exact(TILE_COLUMNS).enumerate() {
            let a = match a {
                Rows::Along { data, row } => data[i * row + p],
                Rows::Across { data, step } => data[p * step + i],
                Rows::Tiles(data) => data[i / TILE_ROWS * TILE_ROWS * depth + p * TILE_ROWS + i % TILE_ROWS],
            };
            for (c, &b) in c.iter_mut().zip(b) {
                *c = a.mul_add(b, *c);
            }
        }
    }
}

/// [`raw::transpose`](super::raw::transpose) from row `done` of the result on.
pub(super) fn transpose(from: &[f32], stride: usize, done: usize, to: &mut [f32]) {
    for (p, to) in to.chunks_exact_mut(TILE_COLUMNS).enumerate().skip(done) {
        for (j, to) in to.iter_mut().enumerate() {
            *to = from[j * stride + p];
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::raw;
    use super::*;

    fn numbers(n: usize) -> Vec<f32> {
        (0..n).map(|i| ((i * 7919) % 2003) as f32 / 1001.0 - 1.0).collect()
    }

    #[test]
    fn a_strip_has_the_bits_of_the_fast_path() {
        let (depth, most, c_row) = (37, 14, 20);
        let (a, b, c) = (numbers(3 * TILE_ROWS * depth), numbers(depth * TILE_COLUMNS), numbers(most * c_row));
        for rows in 1..=most {
            for a in [Rows::Along { data: &a, row: depth }, Rows::Across { data: &a, step: 16 }, Rows::Tiles(&a)] {
                for fresh in [false, true] {
                    let (mut ours, mut fast) = (c.clone(), c.clone());
                    strip(rows, a, &b, &mut ours, c_row, fresh);
                    raw::strip(rows, depth, a, &b, &mut fast, c_row, fresh);
                    assert!(ours == fast, "{rows} rows, fresh: {fresh}");
                }
            }
        }
    }

    #[test]
    fn a_transpose_moves_the_same_numbers() {
        let (depth, stride) = (21, 30);
        let from = numbers(TILE_COLUMNS * stride);
        let (mut ours, mut fast) = (vec![0.0; depth * TILE_COLUMNS], vec![0.0; depth * TILE_COLUMNS]);
        transpose(&from, stride, 0, &mut ours);
        raw::transpose(&from, stride, depth, &mut fast);
        assert_eq!(ours, fast);
    }
}
