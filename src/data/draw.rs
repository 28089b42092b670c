//! Draws from a named stream: numbers, shuffles, subsets. Written out here, because what a crate's own helpers
//! draw may change with its version, and then every result would.

use rand::Rng;

/// A whole number from 0 up to and without `end`. The bias is below 2^-40 for every `end` that fits a data set.
pub fn below(random: &mut impl Rng, end: usize) -> usize {
    ((u128::from(random.next_u64()) * end as u128) >> 64) as usize
}

/// A number in [0, 1).
pub fn unit(random: &mut impl Rng) -> f64 {
    (random.next_u64() >> 11) as f64 / (1u64 << 53) as f64
}

/// A nearly normal number of mean 0 and variance 1: the sum of four uniform ones, between -3.46 and 3.46. Sums and
/// products give the same bits on every machine, which logarithms and cosines do not promise.
pub fn bell(random: &mut impl Rng) -> f64 {
    let bits = random.next_u64();
    let sum: u32 = (0..4).map(|part| (bits >> (16 * part)) as u32 & 0xffff).sum();
    // Each part has mean 65535 / 2 and variance (65536^2 - 1) / 12.
    (f64::from(sum) - 131_070.0) * 2.642_899_8e-5
}

/// Fisher and Yates' shuffle.
pub fn shuffle<T>(values: &mut [T], random: &mut impl Rng) {
    for last in (1..values.len()).rev() {
        values.swap(last, below(random, last + 1));
    }
}

/// The numbers 0 to `count` - 1 in random order.
pub fn permutation(random: &mut impl Rng, count: usize) -> Vec<usize> {
    let mut order: Vec<usize> = (0..count).collect();
    shuffle(&mut order, random);
    order
}

#[cfg(test)]
mod tests {
    use super::*;
    use ablate_core::base::Seed;

    #[test]
    fn draws_are_uniform_enough() {
        let mut random = Seed(1).stream("draw");
        let mut counts = [0; 6];
        for _ in 0..60_000 {
            counts[below(&mut random, 6)] += 1;
        }
        // Standard deviation 91: 5 of them.
        assert!(counts.iter().all(|&count: &i32| (count - 10_000).abs() < 460), "{counts:?}");
    }

    #[test]
    fn bell_numbers_have_mean_0_and_variance_1() {
        let mut random = Seed(1).stream("bell");
        let draws: Vec<f64> = (0..100_000).map(|_| bell(&mut random)).collect();
        let mean = draws.iter().sum::<f64>() / 1e5;
        let variance = draws.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / 1e5;
        assert!(mean.abs() < 0.016 && (variance - 1.0).abs() < 0.023, "{mean} {variance}");
    }

    #[test]
    fn a_permutation_holds_each_number_once() {
        let mut order = permutation(&mut Seed(1).stream("order"), 50);
        assert_ne!(order, (0..50).collect::<Vec<_>>());
        order.sort_unstable();
        assert_eq!(order, (0..50).collect::<Vec<_>>());
    }
}
