//! Random numbers, shuffles and permutations from a seeded stream. The algorithms are written out here: those of a
//! crate may change with its version, and every result would change with them.

use rand::Rng;

/// A uniform integer in `0..end`. The bias is below 2^-40 for every `end` up to 2^24.
pub fn uniform_below(rng: &mut impl Rng, end: usize) -> usize {
    ((u128::from(rng.next_u64()) * end as u128) >> 64) as usize
}

/// A uniform number in [0, 1).
pub fn uniform(rng: &mut impl Rng) -> f64 {
    (rng.next_u64() >> 11) as f64 / (1u64 << 53) as f64
}

/// An approximately normal number of mean 0 and variance 1: the scaled sum of four uniform numbers, between -3.46 and
/// 3.46. Sums and products give the same bits on every machine; logarithms and cosines may not.
pub fn approx_normal(rng: &mut impl Rng) -> f64 {
    let bits = rng.next_u64();
    let sum: u32 = (0..4).map(|part| (bits >> (16 * part)) as u32 & 0xffff).sum();
    // Each part has mean 65535 / 2 and variance (65536^2 - 1) / 12.
    (f64::from(sum) - 131_070.0) * 2.642_899_8e-5
}

/// Fisher-Yates shuffle.
pub fn shuffle<T>(values: &mut [T], rng: &mut impl Rng) {
    for last in (1..values.len()).rev() {
        values.swap(last, uniform_below(rng, last + 1));
    }
}

/// The numbers `0..count` in random order.
pub fn permutation(rng: &mut impl Rng, count: usize) -> Vec<usize> {
    let mut order: Vec<usize> = (0..count).collect();
    shuffle(&mut order, rng);
    order
}

#[cfg(test)]
mod tests {
    use super::*;
    use ablate_core::base::Seed;

    #[test]
    fn integers_are_uniform() {
        let mut rng = Seed(1).stream("draw");
        let mut counts = [0; 6];
        for _ in 0..60_000 {
            counts[uniform_below(&mut rng, 6)] += 1;
        }
        // The tolerance is 5 standard deviations of 91.
        assert!(counts.iter().all(|&count: &i32| (count - 10_000).abs() < 460), "{counts:?}");
    }

    #[test]
    fn approx_normal_has_mean_0_and_variance_1() {
        let mut rng = Seed(1).stream("bell");
        let draws: Vec<f64> = (0..100_000).map(|_| approx_normal(&mut rng)).collect();
        let mean = draws.iter().sum::<f64>() / 1e5;
        let variance = draws.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / 1e5;
        assert!(mean.abs() < 0.016 && (variance - 1.0).abs() < 0.023, "{mean} {variance}");
    }

    #[test]
    fn a_permutation_has_each_number_once() {
        let mut order = permutation(&mut Seed(1).stream("order"), 50);
        assert_ne!(order, (0..50).collect::<Vec<_>>());
        order.sort_unstable();
        assert_eq!(order, (0..50).collect::<Vec<_>>());
    }
}
