//! Tests whether the average of paired differences is zero: exact McNemar test, sign-flip permutation test,
//! Holm-Bonferroni correction.
//!
//! The input is a series of differences, or of a linear contrast. The null hypothesis is that the two sides are
//! exchangeable within an item: every difference is as likely with the opposite sign.

use std::fmt;

use rand::Rng;
use serde::Serialize;
use statrs::distribution::{Binomial, DiscreteCDF};

use super::power::minimum_detectable_difference;
use super::series::{Series, mean};
use ablate_core::base::Seed;

/// The test that gave the p-value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum TestMethod {
    /// Exact McNemar test: scores of 0 or 1, one seed, items of equal weight.
    McNemar,
    /// Sign-flip permutation test over all sign patterns. The difference of an item is averaged over the seeds.
    SignFlipExact,
    /// As `SignFlipExact`, over a random sample of sign patterns.
    SignFlip,
}

impl fmt::Display for TestMethod {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            TestMethod::McNemar => "exact McNemar test",
            TestMethod::SignFlipExact => "sign-flip permutation test over items (all sign patterns)",
            TestMethod::SignFlip => "sign-flip permutation test over items",
        })
    }
}

/// The result of a paired test.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct PairedTest {
    pub method: TestMethod,
    /// Two-sided.
    #[serde(rename = "p")]
    pub p_value: f64,
    /// Pairs (item, seed) with a positive difference.
    pub gained: usize,
    /// Pairs (item, seed) with a negative difference.
    pub lost: usize,
    /// Measured pairs (item, seed).
    pub pairs: usize,
    /// Cohen's d_z: mean of the items' differences / their standard deviation. None if all differences are equal.
    #[serde(rename = "effect")]
    pub cohens_d: Option<f64>,
    /// See [`minimum_detectable_difference`].
    #[serde(rename = "detectable")]
    pub minimum_detectable: Option<f64>,
}

/// Size of the random sample of sign patterns.
const SIGN_PATTERNS: usize = 10_000;

/// Sign patterns that are summed in parallel. Each sum adds the items in their order.
const LANES: usize = 16;

/// Up to this number of items all sign patterns are summed: `2^12` sums.
const EXACT_ITEMS: usize = 12;

/// Tests whether the average of `difference` is zero. None without a measured pair.
///
/// With one seed, scores of 0 or 1 and data sets of equal size this is the exact McNemar test: the smaller of
/// the two discordant counts against `Binomial(discordant, 1/2)`, doubled (Q. McNemar, Psychometrika 12, 1947).
/// Otherwise it is a sign-flip permutation test of the average (R. A. Fisher, "The Design of Experiments", 1935,
/// section 21). The pairs of one item under different seeds get the same sign, because they are not independent:
/// separate signs would make the p-value too small.
pub fn paired_test(difference: &Series, seed: Seed) -> Option<PairedTest> {
    let (mut gained, mut lost, mut pairs, mut binary) = (0, 0, 0, true);
    for (_, _, value) in difference.pairs() {
        pairs += 1;
        gained += usize::from(value > 0.0);
        lost += usize::from(value < 0.0);
        binary &= [-1.0, 0.0, 1.0].contains(&value);
    }
    if pairs == 0 {
        return None;
    }
    let differences = item_differences(difference);
    let equal = differences.windows(2).all(|two| (two[0].weight / two[1].weight - 1.0).abs() < 1e-9);
    let (method, p_value) = if binary && equal && difference.seeds() == 1 {
        (TestMethod::McNemar, mcnemar(gained, lost))
    } else {
        sign_flip(&differences.iter().map(|item| item.weight * item.difference).collect::<Vec<_>>(), seed)
    };
    let count = differences.len();
    let centre = mean(differences.iter().map(|item| item.difference)).unwrap_or(0.0);
    let squares: f64 = differences.iter().map(|item| (item.difference - centre).powi(2)).sum();
    let deviation = if count > 1 { (squares / (count - 1) as f64).sqrt() } else { 0.0 };
    // Kish's effective sample size: data sets of unequal size give their items unequal weights.
    let weight = |power: i32| differences.iter().map(|item| item.weight.powi(power)).sum::<f64>();
    let effective = (weight(1).powi(2) / weight(2)).round() as usize;
    let weighted_squares = differences.iter().map(|item| item.weight * item.difference.powi(2)).sum::<f64>();
    Some(PairedTest {
        method,
        p_value,
        gained,
        lost,
        pairs,
        cohens_d: (deviation > 1e-12).then(|| centre / deviation),
        minimum_detectable: minimum_detectable_difference(effective, weighted_squares / weight(1)),
    })
}

/// The p-value of the exact two-sided McNemar test. It is 1 without a discordant pair.
pub fn mcnemar(gained: usize, lost: usize) -> f64 {
    let (fewer, all) = (gained.min(lost) as u64, (gained + lost) as u64);
    let binomial = Binomial::new(0.5, all).unwrap_or_else(|error| panic!("BUG: 1/2 is a probability: {error}"));
    (2.0 * binomial.cdf(fewer)).min(1.0)
}

/// Holm-Bonferroni correction: the adjusted p-values, in the order of the input (S. Holm, Scand. J. Statist. 6, 1979).
///
/// The k-th smallest of m p-values is multiplied by `m - k + 1`. An adjusted p-value is never below the one before it.
pub fn holm(p_values: &[f64]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..p_values.len()).collect();
    order.sort_by(|&a, &b| p_values[a].total_cmp(&p_values[b]));
    let mut adjusted = vec![0.0; p_values.len()];
    let mut floor: f64 = 0.0;
    for (rank, &index) in order.iter().enumerate() {
        floor = floor.max(p_values[index] * (p_values.len() - rank) as f64).min(1.0);
        adjusted[index] = floor;
    }
    adjusted
}

/// The difference of one item, averaged over its seeds, and its weight in the average.
struct ItemDifference {
    difference: f64,
    weight: f64,
}

fn item_differences(difference: &Series) -> Vec<ItemDifference> {
    let mut all = Vec::new();
    for sums in difference.sums_by_item() {
        let measured: Vec<_> = sums.iter().filter(|(_, count)| *count > 0).collect();
        let weight = 1.0 / measured.len().max(1) as f64;
        let average = |(sum, count): &&(f64, usize)| ItemDifference { difference: sum / *count as f64, weight };
        all.extend(measured.iter().map(average));
    }
    all
}

/// The share of sign patterns whose sum is at least as far from zero as the observed sum.
fn sign_flip(terms: &[f64], seed: Seed) -> (TestMethod, f64) {
    let terms: Vec<f64> = terms.iter().copied().filter(|term| *term != 0.0).collect();
    // The tolerance treats sums that differ by rounding only as equal.
    let bound = terms.iter().sum::<f64>().abs() - 1e-9 * terms.iter().map(|term| term.abs()).sum::<f64>();
    if terms.len() <= EXACT_ITEMS {
        let patterns = 1usize << terms.len();
        let sum = |signs: usize| -> f64 {
            terms.iter().enumerate().map(|(bit, term)| if signs >> bit & 1 == 1 { -term } else { *term }).sum()
        };
        let extreme = (0..patterns).filter(|&signs| sum(signs).abs() >= bound).count();
        return (TestMethod::SignFlipExact, extreme as f64 / patterns as f64);
    }
    let mut random = seed.stream("sign flips");
    let words = terms.len().div_ceil(64);
    let mut bits = vec![0; LANES * words];
    let mut extreme = 0;
    for _ in 0..SIGN_PATTERNS / LANES {
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
    }
    // The observed signs count as one pattern, so the p-value is never 0 (Phipson and Smyth, SAGMB 9(1), 2010).
    (TestMethod::SignFlip, (extreme + 1) as f64 / (SIGN_PATTERNS + 1) as f64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::statistics::Items;

    const GOLDEN_MCNEMAR: [(usize, usize, f64); 7] = [
        (6, 1, 0.125),
        (115, 189, 2.596_829_911_610_536e-5),
        (73, 43, 0.006_831_631_268_294_236),
        (62, 60, 0.927_910_799_605_540_2),
        (0, 5, 0.0625),
        (1, 0, 1.0),
        (400, 520, 8.549_170_923_883_781e-5),
    ];
    const GOLDEN_SIGN_FLIP: f64 = 0.0551;

    fn one_seed(values: &[f64]) -> Series {
        let items = Items::new(&[values.len()]);
        Series::new(1, &items, false, |_, item| Some(values[item]))
    }

    #[test]
    fn mcnemar_agrees_with_scipy() {
        // tests/golden/statistics.py: scipy.stats.binomtest(min, b + c, 0.5).pvalue
        for (gained, lost, p) in GOLDEN_MCNEMAR {
            assert!((mcnemar(gained, lost) / p - 1.0).abs() < 1e-9, "{gained}/{lost}: {}", mcnemar(gained, lost));
        }
        assert!((mcnemar(0, 0) - 1.0).abs() < 1e-12 && (mcnemar(3, 3) - 1.0).abs() < 1e-12);
    }

    #[test]
    fn binary_differences_of_one_seed_use_mcnemar() {
        // 6 gained, 1 lost of 10: p = 2 (1 + 7) / 2^7 = 0.125. d_z = 0.5 / sqrt(4.5 / 9) = 0.7071.
        let series = one_seed(&[1.0, 1.0, 1.0, 1.0, 1.0, 1.0, -1.0, 0.0, 0.0, 0.0]);
        let test = paired_test(&series, Seed(0)).unwrap();
        assert_eq!((test.method, test.gained, test.lost, test.pairs), (TestMethod::McNemar, 6, 1, 10));
        assert!((test.p_value - 0.125).abs() < 1e-12 && (test.cohens_d.unwrap() - 0.5f64.sqrt()).abs() < 1e-12);
    }

    #[test]
    fn few_graded_differences_use_all_sign_patterns() {
        // Of the 8 sign patterns of (0.5, 0.3, 0.1) only +++ and --- reach 0.9: p = 1/4.
        let series = one_seed(&[0.5, 0.3, 0.1]);
        let test = paired_test(&series, Seed(0)).unwrap();
        assert_eq!((test.method, test.p_value), (TestMethod::SignFlipExact, 0.25));
    }

    #[test]
    fn many_graded_differences_agree_with_scipy() {
        // tests/golden/statistics.py: scipy.stats.permutation_test(permutation_type="samples"), 1e6 sign patterns.
        let values: Vec<f64> = (0..40).map(|i| f64::from((i * 7) % 11 - 4) / 10.0).collect();
        let series = one_seed(&values);
        let test = paired_test(&series, Seed(0)).unwrap();
        assert_eq!(test.method, TestMethod::SignFlip);
        assert!((test.p_value - GOLDEN_SIGN_FLIP).abs() < 0.01, "{}", test.p_value);
    }

    #[test]
    fn identical_seeds_leave_the_p_value_unchanged() {
        // The same 8 gains and 2 losses in 1 and in 5 seeds: the p-value is that of 10 items.
        let items = Items::new(&[20]);
        let value = |item: usize| match item {
            0..8 => 1.0,
            8..10 => -1.0,
            _ => 0.0,
        };
        let series = |seeds| Series::new(seeds, &items, false, |_, item| Some(value(item)));
        let one = paired_test(&series(1), Seed(0)).unwrap();
        let five = paired_test(&series(5), Seed(0)).unwrap();
        // 2 (1 + 10 + 45) / 2^10
        assert!((one.p_value - 0.109_375).abs() < 1e-12 && (five.p_value - one.p_value).abs() < 1e-12);
        assert_eq!((five.method, five.gained, five.lost), (TestMethod::SignFlipExact, 40, 10));
    }

    #[test]
    fn data_sets_have_equal_weight() {
        let items = Items::new(&[4, 1]);
        let series = Series::new(1, &items, false, |_, item| Some(if item == 4 { -1.0 } else { 1.0 }));
        let test = paired_test(&series, Seed(0)).unwrap();
        // The average is (1 - 1) / 2 = 0, although 4 of 5 items gained.
        assert_eq!((test.method, test.p_value), (TestMethod::SignFlipExact, 1.0));
    }

    #[test]
    fn zero_differences_and_no_differences() {
        let (series, items) = (one_seed(&[0.0; 5]), Items::new(&[5]));
        let test = paired_test(&series, Seed(0)).unwrap();
        assert_eq!((test.p_value, test.cohens_d, test.minimum_detectable), (1.0, None, None));
        let absent = Series::new(1, &items, false, |_, _| None);
        assert_eq!(paired_test(&absent, Seed(0)), None);
    }

    #[test]
    fn holm_steps_down() {
        // 0.01 x 4, 0.02 x 3, 0.03 x 2 -> 0.06, 0.04 x 1 -> not below 0.06.
        let adjusted = holm(&[0.04, 0.01, 0.03, 0.02]);
        for (actual, expected) in adjusted.iter().zip([0.06, 0.04, 0.06, 0.06]) {
            assert!((actual - expected).abs() < 1e-12);
        }
        assert_eq!(holm(&[0.5, 0.9]), [1.0, 1.0]);
        assert!(holm(&[]).is_empty());
    }
}
