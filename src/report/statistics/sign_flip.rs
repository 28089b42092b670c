//! The sign-flip permutation test: are the terms of a sum as likely with the opposite sign?

use rand::Rng;
use statrs::distribution::{Binomial, Discrete};

use ablate_core::base::Seed;

/// The p-value of a sign-flip test.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SignFlip {
    /// Two-sided.
    pub p_value: f64,
    /// Number of random sign patterns. None if all patterns count.
    pub patterns: Option<usize>,
    /// No random pattern is as extreme as the observed one: the true p-value may be smaller.
    pub at_floor: bool,
}

/// Random sign patterns at first, and at most: more are drawn while fewer than [`ENOUGH`] are extreme.
const FIRST_PATTERNS: usize = 10_000;
const MOST_PATTERNS: usize = 100_000;
const ENOUGH: usize = 50;

/// Sign patterns that are summed in parallel. Each sum adds the terms in their order.
const LANES: usize = 16;

/// Largest number of multiplications of the exact distribution.
const EXACT_WORK: usize = 20_000_000;

/// Largest denominator of the smallest term that makes all terms whole numbers.
const DENOMINATORS: u32 = 12;

/// The share of sign patterns whose sum is at least as far from zero as the observed sum (R. A. Fisher, "The Design of
/// Experiments", 1935, section 21).
///
/// Terms that are multiples of one unit have the exact distribution of a sum of binomial variables. Other terms need random
/// sign patterns, of which the observed one counts, so the p-value is never 0 (Phipson and Smyth, SAGMB 9(1), 2010).
pub fn sign_flip(terms: &[f64], seed: Seed) -> SignFlip {
    let terms: Vec<f64> = terms.iter().copied().filter(|term| *term != 0.0).collect();
    if let Some(p_value) = exact(&terms) {
        return SignFlip { p_value, patterns: None, at_floor: false };
    }
    // The tolerance treats sums that differ by rounding only as equal.
    let bound = terms.iter().sum::<f64>().abs() - 1e-9 * terms.iter().map(|term| term.abs()).sum::<f64>();
    let mut random = seed.stream("sign flips");
    let words = terms.len().div_ceil(64);
    let mut bits = vec![0; LANES * words];
    let (mut extreme, mut patterns) = (0, 0);
    while patterns < FIRST_PATTERNS || (extreme < ENOUGH && patterns < MOST_PATTERNS) {
        bits.fill_with(|| random.next_u64());
        let mut sums = [0.0f64; LANES];
        for (word, terms) in terms.chunks(64).enumerate() {
            let signs: [u64; LANES] = std::array::from_fn(|lane| bits[lane * words + word]);
            for (bit, term) in terms.iter().enumerate() {
                for (sum, signs) in sums.iter_mut().zip(signs) {
                    *sum += f64::from_bits(term.to_bits() ^ ((signs >> bit & 1) << 63));
                }
            }
        }
        extreme += sums.iter().filter(|sum| sum.abs() >= bound).count();
        patterns += LANES;
    }
    let p_value = (extreme + 1) as f64 / (patterns + 1) as f64;
    SignFlip { p_value, patterns: Some(patterns), at_floor: extreme == 0 }
}

/// The exact p-value, if the terms are small multiples of one unit.
fn exact(terms: &[f64]) -> Option<f64> {
    let multiples = multiples(terms)?;
    let observed: i64 = multiples.iter().sum();
    let mut counts = std::collections::BTreeMap::<usize, u64>::new();
    for multiple in &multiples {
        *counts.entry(multiple.unsigned_abs() as usize).or_default() += 1;
    }
    let size: usize = counts.iter().map(|(multiple, count)| multiple * *count as usize).sum();
    let work: usize = counts.values().map(|count| *count as usize).sum::<usize>().saturating_mul(size);
    if work > EXACT_WORK && counts.len() > 1 {
        return None;
    }
    // The probability that the terms with a positive sign add up to the index.
    let mut distribution = vec![1.0];
    for (multiple, count) in counts {
        let binomial = Binomial::new(0.5, count).unwrap_or_else(|error| panic!("BUG: 1/2 is a probability: {error}"));
        let mut next = vec![0.0; distribution.len() + multiple * count as usize];
        for positive in 0..=count {
            let probability = binomial.pmf(positive);
            if probability > 0.0 {
                let shift = multiple * positive as usize;
                for (next, before) in next[shift..].iter_mut().zip(&distribution) {
                    *next += probability * before;
                }
            }
        }
        distribution = next;
    }
    let extreme = |index: &usize| (2 * *index as i64 - size as i64).abs() >= observed.abs();
    let p_value: f64 = (0..=size).filter(extreme).map(|index| distribution[index]).sum();
    Some(p_value.clamp(f64::MIN_POSITIVE, 1.0))
}

/// The terms as multiples of a unit: the smallest term over a small denominator.
fn multiples(terms: &[f64]) -> Option<Vec<i64>> {
    let smallest = terms.iter().map(|term| term.abs()).fold(f64::INFINITY, f64::min);
    (1..=DENOMINATORS).find_map(|denominator| {
        let unit = smallest / f64::from(denominator);
        let multiple = |term: &f64| {
            let multiple = term / unit;
            let whole = (multiple - multiple.round()).abs() < 1e-6 && multiple.abs() < 1e4;
            whole.then(|| multiple.round() as i64)
        };
        terms.iter().map(multiple).collect()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn p_value(terms: &[f64]) -> f64 {
        sign_flip(terms, Seed(0)).p_value
    }

    #[test]
    fn few_terms_use_all_patterns() {
        // Of the 8 sign patterns of (0.5, 0.3, 0.1) only +++ and --- reach 0.9: p = 1/4.
        assert!((p_value(&[0.5, 0.3, 0.1]) - 0.25).abs() < 1e-12);
        assert!((p_value(&[]) - 1.0).abs() < 1e-12 && (p_value(&[0.0, 0.0]) - 1.0).abs() < 1e-12);
        // Halves and thirds: 1/2 + 1/3 of (+-1/2, +-1/3).
        assert!((p_value(&[0.5, 1.0 / 3.0]) - 0.5).abs() < 1e-12);
    }

    #[test]
    fn exact_distribution_agrees_with_all_patterns() {
        let terms = [0.2, 0.4, -0.6, 1.0, 0.2, 0.8, -0.2, 0.4, 0.6];
        let bound = terms.iter().sum::<f64>().abs() - 1e-9;
        let extreme = (0..1usize << terms.len())
            .filter(|signs| {
                let sum: f64 =
                    terms.iter().enumerate().map(|(bit, term)| if signs >> bit & 1 == 1 { -term } else { *term }).sum();
                sum.abs() >= bound
            })
            .count();
        assert!((p_value(&terms) - extreme as f64 / 512.0).abs() < 1e-12);
    }

    #[test]
    fn a_strong_effect_has_no_floor_if_the_terms_are_multiples() {
        // All 200 terms are positive: p = 2 / 2^200.
        assert!((p_value(&[0.5; 200]) / 2f64.powi(-199) - 1.0).abs() < 1e-9);
    }

    #[test]
    fn random_patterns_say_that_they_are_at_their_floor() {
        let terms: Vec<f64> = (1..=60).map(|term| f64::from(term).sqrt()).collect();
        let found = sign_flip(&terms, Seed(0));
        assert_eq!((found.patterns, found.at_floor), (Some(MOST_PATTERNS), true));
        assert!(found.p_value < 1.001e-5);
    }
}
