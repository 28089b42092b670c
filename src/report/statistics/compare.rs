//! Whether the average of a paired difference could be zero: exact McNemar, sign flips, Holm. Knows no cell.
//!
//! Input is a series of differences (or of a linear contrast). The null hypothesis is that the two sides are
//! exchangeable within an item, so that every difference is as likely with the other sign.

use rand::Rng;
use serde::Serialize;
use statrs::distribution::{Binomial, DiscreteCDF};

use super::power::detectable_difference;
use super::series::{Series, mean};
use ablate_core::base::Seed;

/// Which test gave the p value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Method {
    /// Exact McNemar: scores of 0 or 1, one seed, every item of equal weight.
    McNemar,
    /// Sign flips per item, its difference averaged over the seeds; all flips are tried.
    SignFlipExact,
    /// Sign flips per item, a random choice of flips.
    SignFlip,
}

impl Method {
    /// The test in words.
    pub fn words(self) -> &'static str {
        match self {
            Method::McNemar => "exact McNemar",
            Method::SignFlipExact => "sign-flip permutation over items (all flips)",
            Method::SignFlip => "sign-flip permutation over items",
        }
    }
}

/// What a paired difference shows.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Comparison {
    pub method: Method,
    /// Two-sided.
    pub p: f64,
    /// Pairs (item, seed) whose difference is above zero, and below.
    pub gained: usize,
    pub lost: usize,
    /// Measured pairs (item, seed).
    pub pairs: usize,
    /// Cohen's d_z: the mean of the items' differences over their standard deviation. None when all are equal.
    pub effect: Option<f64>,
    /// The smallest true difference that these items would show with 80 % power ([`detectable_difference`]).
    pub detectable: Option<f64>,
}

/// Random flips that are tried when there are too many to try all.
const FLIPS: usize = 10_000;

/// Flips whose sums are taken side by side: each is a chain of additions of its own, in the order of the items.
const LANES: usize = 16;

/// Items whose flips are all tried: `2^12` sums.
const EXACT_ITEMS: usize = 12;

/// Tests whether the average of `difference` could be zero. None without a measured pair.
///
/// With one seed, scores of 0 or 1 and data sets of equal size this is the exact McNemar test: the smaller of
/// the two discordant counts against `Binomial(discordant, 1/2)`, doubled (Q. McNemar, Psychometrika 12, 1947).
/// Else it is a sign-flip permutation test of the average (R. A. Fisher, "The Design of Experiments", 1935,
/// section 21). Pairs of one item under different seeds are flipped together: they share the item, and
/// counting them as independent would make p too small.
pub fn compare(difference: &Series, seed: Seed) -> Option<Comparison> {
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
    let differences = per_item(difference);
    let equal = differences.windows(2).all(|two| (two[0].weight / two[1].weight - 1.0).abs() < 1e-9);
    let (method, p) = if binary && equal && difference.seeds() == 1 {
        (Method::McNemar, mcnemar(gained, lost))
    } else {
        sign_flip(&differences.iter().map(|item| item.weight * item.difference).collect::<Vec<_>>(), seed)
    };
    let count = differences.len();
    let centre = mean(differences.iter().map(|item| item.difference)).unwrap_or(0.0);
    let squares: f64 = differences.iter().map(|item| (item.difference - centre).powi(2)).sum();
    let deviation = if count > 1 { (squares / (count - 1) as f64).sqrt() } else { 0.0 };
    // Data sets of unequal size: as many items of equal weight as would average as well (Kish).
    let weight = |power: i32| differences.iter().map(|item| item.weight.powi(power)).sum::<f64>();
    let effective = (weight(1).powi(2) / weight(2)).round() as usize;
    let squares_seen = differences.iter().map(|item| item.weight * item.difference.powi(2)).sum::<f64>();
    Some(Comparison {
        method,
        p,
        gained,
        lost,
        pairs,
        effect: (deviation > 1e-12).then(|| centre / deviation),
        detectable: detectable_difference(effective, squares_seen / weight(1)),
    })
}

/// The exact McNemar test, two-sided. Without a discordant pair p is 1.
pub fn mcnemar(gained: usize, lost: usize) -> f64 {
    let (fewer, all) = (gained.min(lost) as u64, (gained + lost) as u64);
    let binomial = Binomial::new(0.5, all).unwrap_or_else(|error| panic!("BUG: 1/2 is a probability: {error}"));
    (2.0 * binomial.cdf(fewer)).min(1.0)
}

/// Holm's step-down adjustment of a family of p values, in their order (S. Holm, Scand. J. Statist. 6, 1979):
/// the k-th smallest of m is multiplied by `m - k + 1`, and none falls below the one before it.
pub fn holm(p: &[f64]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..p.len()).collect();
    order.sort_by(|&a, &b| p[a].total_cmp(&p[b]));
    let mut adjusted = vec![0.0; p.len()];
    let mut floor: f64 = 0.0;
    for (rank, &index) in order.iter().enumerate() {
        floor = floor.max(p[index] * (p.len() - rank) as f64).min(1.0);
        adjusted[index] = floor;
    }
    adjusted
}

/// One item's difference, averaged over its seeds, and its weight in the average.
struct ItemDifference {
    difference: f64,
    weight: f64,
}

fn per_item(difference: &Series) -> Vec<ItemDifference> {
    let mut all = Vec::new();
    for sums in difference.by_item() {
        let measured: Vec<_> = sums.iter().filter(|(_, count)| *count > 0).collect();
        let weight = 1.0 / measured.len().max(1) as f64;
        let average = |(sum, count): &&(f64, usize)| ItemDifference { difference: sum / *count as f64, weight };
        all.extend(measured.iter().map(average));
    }
    all
}

/// The share of sign flips whose sum is at least as far from zero as the sum that was seen.
fn sign_flip(terms: &[f64], seed: Seed) -> (Method, f64) {
    let terms: Vec<f64> = terms.iter().copied().filter(|term| *term != 0.0).collect();
    // Sums that differ by rounding only are equal.
    let bound = terms.iter().sum::<f64>().abs() - 1e-9 * terms.iter().map(|term| term.abs()).sum::<f64>();
    if terms.len() <= EXACT_ITEMS {
        let flips = 1usize << terms.len();
        let sum = |flip: usize| -> f64 {
            terms.iter().enumerate().map(|(bit, term)| if flip >> bit & 1 == 1 { -term } else { *term }).sum()
        };
        let extreme = (0..flips).filter(|&flip| sum(flip).abs() >= bound).count();
        return (Method::SignFlipExact, extreme as f64 / flips as f64);
    }
    let mut random = seed.stream("sign flips");
    let words = terms.len().div_ceil(64);
    let mut bits = vec![0; LANES * words];
    let mut extreme = 0;
    for _ in 0..FLIPS / LANES {
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
    // The order that was seen is one of the flips, so p is never 0 (Phipson and Smyth, SAGMB 9(1), 2010).
    (Method::SignFlip, (extreme + 1) as f64 / (FLIPS + 1) as f64)
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
    fn binary_differences_of_one_seed_take_mcnemar() {
        // 6 gained, 1 lost of 10: p = 2 (1 + 7) / 2^7 = 0.125. d_z = 0.5 / sqrt(4.5 / 9) = 0.7071.
        let series = one_seed(&[1.0, 1.0, 1.0, 1.0, 1.0, 1.0, -1.0, 0.0, 0.0, 0.0]);
        let seen = compare(&series, Seed(0)).unwrap();
        assert_eq!((seen.method, seen.gained, seen.lost, seen.pairs), (Method::McNemar, 6, 1, 10));
        assert!((seen.p - 0.125).abs() < 1e-12 && (seen.effect.unwrap() - 0.5f64.sqrt()).abs() < 1e-12);
    }

    #[test]
    fn few_graded_differences_try_every_flip() {
        // Of the 8 sign patterns of (0.5, 0.3, 0.1) only +++ and --- reach 0.9: p = 1/4.
        let series = one_seed(&[0.5, 0.3, 0.1]);
        let seen = compare(&series, Seed(0)).unwrap();
        assert_eq!((seen.method, seen.p), (Method::SignFlipExact, 0.25));
    }

    #[test]
    fn many_graded_differences_agree_with_scipy() {
        // tests/golden/statistics.py: scipy.stats.permutation_test(permutation_type="samples"), 1e6 flips.
        let values: Vec<f64> = (0..40).map(|i| f64::from((i * 7) % 11 - 4) / 10.0).collect();
        let series = one_seed(&values);
        let seen = compare(&series, Seed(0)).unwrap();
        assert_eq!(seen.method, Method::SignFlip);
        assert!((seen.p - GOLDEN_SIGN_FLIP).abs() < 0.01, "{}", seen.p);
    }

    #[test]
    fn copies_of_a_seed_are_no_evidence() {
        // The same 8 gains and 2 losses in 1 and in 5 seeds: p stays that of 10 items.
        let items = Items::new(&[20]);
        let value = |item: usize| {
            if item < 8 {
                1.0
            } else if item < 10 {
                -1.0
            } else {
                0.0
            }
        };
        let series = |seeds| Series::new(seeds, &items, false, |_, item| Some(value(item)));
        let one = compare(&series(1), Seed(0)).unwrap();
        let five = compare(&series(5), Seed(0)).unwrap();
        // 2 (1 + 10 + 45) / 2^10
        assert!((one.p - 0.109_375).abs() < 1e-12 && (five.p - one.p).abs() < 1e-12);
        assert_eq!((five.method, five.gained, five.lost), (Method::SignFlipExact, 40, 10));
    }

    #[test]
    fn data_sets_of_unequal_size_are_weighed_not_counted() {
        let items = Items::new(&[4, 1]);
        let series = Series::new(1, &items, false, |_, item| Some(if item == 4 { -1.0 } else { 1.0 }));
        let seen = compare(&series, Seed(0)).unwrap();
        // The average is (1 - 1) / 2 = 0: no evidence, though 4 of 5 items gained.
        assert_eq!((seen.method, seen.p), (Method::SignFlipExact, 1.0));
    }

    #[test]
    fn nothing_changed_and_nothing_measured() {
        let (series, items) = (one_seed(&[0.0; 5]), Items::new(&[5]));
        let seen = compare(&series, Seed(0)).unwrap();
        assert_eq!((seen.p, seen.effect, seen.detectable), (1.0, None, None));
        let absent = Series::new(1, &items, false, |_, _| None);
        assert_eq!(compare(&absent, Seed(0)), None);
    }

    #[test]
    fn holm_steps_down() {
        // 0.01 x 4, 0.02 x 3, 0.03 x 2 -> 0.06, 0.04 x 1 -> not below 0.06.
        let adjusted = holm(&[0.04, 0.01, 0.03, 0.02]);
        for (seen, right) in adjusted.iter().zip([0.06, 0.04, 0.06, 0.06]) {
            assert!((seen - right).abs() < 1e-12);
        }
        assert_eq!(holm(&[0.5, 0.9]), [1.0, 1.0]);
        assert!(holm(&[]).is_empty());
    }
}
