//! Tests whether the average of paired differences is zero, and the Holm-Bonferroni correction.
//!
//! The input is a series of differences, or of a linear contrast.

use std::fmt;

use serde::Serialize;
use statrs::distribution::{Binomial, DiscreteCDF};

use super::interval::{ENOUGH_SEEDS, ErrorDistribution};
use super::series::{Items, Series, mean};
use super::sign_flip::{SignFlip, sign_flip};
use super::variance::{Average, cluster_terms};
use ablate_core::base::Seed;

/// The test that gave the p-value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum TestMethod {
    /// Three or more seeds: seeds and items are samples. See [`super::interval`].
    CrossedSeeds,
    /// Exact McNemar test: scores of 0 or 1, one seed, items of equal weight, no clusters.
    McNemar,
    /// Sign-flip permutation test over all sign patterns of the clusters. The difference of an item is averaged over the seeds.
    SignFlipExact,
    /// As `SignFlipExact`, over random sign patterns.
    SignFlip,
}

impl fmt::Display for TestMethod {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            TestMethod::CrossedSeeds => "generalised p-value of crossed seeds and items",
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
    /// The p-value is the smallest that the random sign patterns can give.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub at_floor: bool,
    /// Pairs (item, seed) with a positive difference.
    pub gained: usize,
    /// Pairs (item, seed) with a negative difference.
    pub lost: usize,
    /// Measured pairs (item, seed).
    pub pairs: usize,
    /// Cohen's d_z: mean of the items' differences / their standard deviation. None if all differences are equal.
    #[serde(rename = "effect")]
    pub cohens_d: Option<f64>,
}

/// Tests whether the `average` of `difference` is zero.
///
/// With three or more seeds, seeds and items are samples, and the p-value is that of the confidence interval. With
/// fewer, the null hypothesis is about these training runs: that the two sides are exchangeable within a cluster of items. With
/// one seed, scores of 0 or 1, data sets of equal size and no clusters this is the exact McNemar test: the smaller of the
/// two discordant counts against `Binomial(discordant, 1/2)`, doubled (Q. McNemar, Psychometrika 12, 1947). Otherwise it is a
/// sign-flip test. The pairs of one cluster get the same sign, because they are not independent.
pub fn paired_test(average: &Average, difference: &Series, items: &Items, seed: Seed) -> PairedTest {
    let (mut gained, mut lost) = (0, 0);
    for (_, value) in difference.values() {
        gained += usize::from(value > 0.0);
        lost += usize::from(value < 0.0);
    }
    let (method, p_value, at_floor) = if average.seeds >= ENOUGH_SEEDS {
        let error = ErrorDistribution::new(average);
        (TestMethod::CrossedSeeds, error.beyond(error.centre.abs()).clamp(f64::MIN_POSITIVE, 1.0), false)
    } else {
        let sizes: Vec<usize> = difference.datasets().map(|dataset| difference.items_of(dataset)).collect();
        let equal = sizes.windows(2).all(|two| two[0] == two[1]);
        let independent = average.clusters == difference.items();
        if average.binary && equal && independent && average.seeds == 1 {
            (TestMethod::McNemar, mcnemar(gained, lost), false)
        } else {
            let SignFlip { p_value, patterns, at_floor } = sign_flip(&cluster_terms(difference, items), seed);
            let method = if patterns.is_none() { TestMethod::SignFlipExact } else { TestMethod::SignFlip };
            (method, p_value, at_floor)
        }
    };
    PairedTest { method, p_value, at_floor, gained, lost, pairs: average.pairs, cohens_d: cohens_d(difference) }
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

/// Over the items, whose differences are averaged over the seeds.
fn cohens_d(difference: &Series) -> Option<f64> {
    let sums = difference.sums_by_item();
    let differences: Vec<f64> =
        sums.flatten().filter(|(_, count)| *count > 0).map(|(sum, count)| sum / count as f64).collect();
    let centre = mean(differences.iter().copied())?;
    let squares: f64 = differences.iter().map(|difference| (difference - centre).powi(2)).sum();
    let deviation = (squares / (differences.len().checked_sub(1).filter(|rest| *rest > 0)? as f64)).sqrt();
    (deviation > 1e-12).then(|| centre / deviation)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::statistics::Range;

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

    fn test(series: &Series, items: &Items) -> PairedTest {
        paired_test(&Average::new(series, items, Range::Difference(1.0)).unwrap(), series, items, Seed(0))
    }

    fn one_seed(values: &[f64]) -> PairedTest {
        let items = Items::new(&[values.len()]);
        test(&Series::new(1, &items, false, |_, item| Some(values[item])), &items)
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
        let test = one_seed(&[1.0, 1.0, 1.0, 1.0, 1.0, 1.0, -1.0, 0.0, 0.0, 0.0]);
        assert_eq!((test.method, test.gained, test.lost, test.pairs), (TestMethod::McNemar, 6, 1, 10));
        assert!((test.p_value - 0.125).abs() < 1e-12 && (test.cohens_d.unwrap() - 0.5f64.sqrt()).abs() < 1e-12);
    }

    #[test]
    fn graded_differences_agree_with_scipy() {
        // tests/golden/statistics.py: scipy.stats.permutation_test(permutation_type="samples"), 1e6 sign patterns.
        let values: Vec<f64> = (0..40).map(|i| f64::from((i * 7) % 11 - 4) / 10.0).collect();
        let test = one_seed(&values);
        assert_eq!(test.method, TestMethod::SignFlipExact);
        assert!((test.p_value - GOLDEN_SIGN_FLIP).abs() < 0.001, "{}", test.p_value);
    }

    #[test]
    fn items_of_one_image_flip_together() {
        // Five images with four items each, all gained: p = 2 / 2^5, and not 2 / 2^20.
        let items = Items::clustered(&[20], (0..20).map(|item| item / 4).collect());
        let series = Series::new(1, &items, false, |_, _| Some(1.0));
        let test = test(&series, &items);
        assert_eq!((test.method, test.gained), (TestMethod::SignFlipExact, 20));
        assert!((test.p_value - 0.0625).abs() < 1e-12);
    }

    #[test]
    fn a_second_identical_seed_leaves_the_p_value_unchanged() {
        let items = Items::new(&[20]);
        let value = |item: usize| match item {
            0..8 => 1.0,
            8..10 => -1.0,
            _ => 0.0,
        };
        let [one, two] =
            [1, 2].map(|seeds| test(&Series::new(seeds, &items, false, |_, item| Some(value(item))), &items));
        // 2 (1 + 10 + 45) / 2^10
        assert!((one.p_value - 0.109_375).abs() < 1e-12 && (two.p_value - one.p_value).abs() < 1e-12);
        assert_eq!((two.method, two.gained, two.lost), (TestMethod::SignFlipExact, 16, 4));
    }

    #[test]
    fn three_seeds_are_a_sample() {
        // +10, +2 and +3 of 100 items: the sign-flip test would give p < 0.001, the seeds say less.
        let items = Items::new(&[100]);
        let series = Series::new(3, &items, false, |seed, item| Some(f64::from(item < [10, 2, 3][seed])));
        let test = test(&series, &items);
        assert_eq!(test.method, TestMethod::CrossedSeeds);
        assert!((0.1..0.3).contains(&test.p_value), "{}", test.p_value);
    }

    #[test]
    fn data_sets_have_equal_weight() {
        let items = Items::new(&[4, 1]);
        let series = Series::new(1, &items, false, |_, item| Some(if item == 4 { -1.0 } else { 1.0 }));
        let test = test(&series, &items);
        // The average is (1 - 1) / 2 = 0, although 4 of 5 items gained.
        assert_eq!((test.method, test.p_value), (TestMethod::SignFlipExact, 1.0));
    }

    #[test]
    fn zero_differences_have_no_effect() {
        let test = one_seed(&[0.0; 5]);
        assert_eq!((test.p_value, test.cohens_d), (1.0, None));
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
