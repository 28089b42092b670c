//! The two-way bootstrap: confidence intervals of averages over seeds and items.
//!
//! Seeds and items are crossed: the models of all seeds answer the same items. A resample therefore draws seeds with
//! replacement, and items with replacement within their data set. All drawn seeds get the same items (A. B. Owen, "The
//! pigeonhole bootstrap", Ann. Appl. Stat. 1(2), 2007). Separate items for each seed would average out the variation
//! between items, and the intervals would be too short. Data sets are fixed, not drawn. Intervals are percentile
//! intervals (Efron and Tibshirani, "An Introduction to the Bootstrap", 1993, chapter 13).
//!
//! With `s` seeds, the bootstrap estimates `(s - 1) / s` of the variance between seeds: with two or three seeds the
//! interval is too short, and with one seed it covers the variation between items only.

use std::collections::BTreeMap;

use rand::Rng;
use rand_chacha::ChaCha8Rng;
use rayon::prelude::*;
use serde::Serialize;

use super::ALPHA;
use super::series::{DatasetBlock, Items, Series};
use ablate_core::base::Seed;

/// A 95 % confidence interval.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct ConfidenceInterval {
    pub low: f64,
    pub high: f64,
}

/// The confidence intervals of one series.
#[derive(Clone, Debug, PartialEq)]
pub struct SeriesIntervals {
    /// The interval of [`Series::average`]. None if the series has no pairs.
    pub overall: Option<ConfidenceInterval>,
    /// The interval of [`Series::average_of`], by data set that has pairs.
    pub datasets: BTreeMap<usize, ConfidenceInterval>,
}

/// Series per batch. A batch keeps two numbers per series and resample, whatever the number of data sets. Every batch
/// draws the same resamples again from the same streams instead of keeping them in memory.
const BATCH: usize = 512;

/// The confidence intervals of many series over the same items, from the same resamples.
///
/// `seeds` is the number of rows of each series. The result depends on `seed` and the series only.
pub fn bootstrap(
    series: &[&Series],
    seeds: usize,
    items: &Items,
    resamples: usize,
    seed: Seed,
) -> Vec<SeriesIntervals> {
    series.chunks(BATCH).flat_map(|batch| bootstrap_batch(batch, seeds, items, resamples, seed)).collect()
}

/// One resample: its generator, from which the items are drawn, and its seeds.
struct Resample {
    rng: ChaCha8Rng,
    /// How often each seed was drawn.
    seed_weights: Vec<f64>,
}

/// Draws all resamples of one data set before the next, so that only the averages of one data set are in memory.
fn bootstrap_batch(
    batch: &[&Series],
    seeds: usize,
    items: &Items,
    resamples: usize,
    seed: Seed,
) -> Vec<SeriesIntervals> {
    let begin = |resample: usize| {
        let mut rng = seed.stream(&format!("bootstrap {resample}"));
        let mut weights = vec![0.0; seeds];
        for _ in 0..seeds {
            weights[random_below(&mut rng, seeds)] += 1.0;
        }
        Resample { rng, seed_weights: weights }
    };
    let mut drawn: Vec<Resample> = (0..resamples).map(begin).collect();
    let mut intervals = vec![SeriesIntervals { overall: None, datasets: BTreeMap::new() }; batch.len()];
    // By series and resample: the sum of the data sets' averages so far.
    let mut sums = vec![vec![0.0; resamples]; batch.len()];
    let mut covered = vec![0usize; batch.len()];
    for (dataset, range) in items.datasets().enumerate() {
        let blocks = batch.iter().enumerate().filter_map(|(index, series)| Some((index, series.block(dataset)?)));
        let blocks: Vec<(usize, &DatasetBlock)> = blocks.collect();
        let draw = |weights: &mut Vec<f64>, Resample { rng, seed_weights }: &mut Resample| {
            weights.fill(0.0);
            for _ in range.clone() {
                weights[random_below(rng, range.len())] += 1.0;
            }
            // If the resample has no measured pair of the data set, the average is 0 / 0.
            let average = |(_, block): &(usize, &DatasetBlock)| {
                let (sum, weight) = block.weighted_sum(seed_weights, weights);
                sum / weight
            };
            blocks.iter().map(average).collect::<Vec<f64>>()
        };
        let averages: Vec<Vec<f64>> = drawn.par_iter_mut().map_init(|| vec![0.0; range.len()], draw).collect();
        let found: Vec<Option<ConfidenceInterval>> = (0..blocks.len())
            .into_par_iter()
            .map(|block| percentiles(averages.iter().map(|averages| averages[block])))
            .collect();
        for (block, ((index, _), interval)) in blocks.iter().zip(found).enumerate() {
            intervals[*index].datasets.extend(interval.map(|interval| (dataset, interval)));
            covered[*index] += 1;
            for (sum, averages) in sums[*index].iter_mut().zip(&averages) {
                *sum += averages[block];
            }
        }
    }
    let overall = sums
        .par_iter()
        .zip(&covered)
        .map(|(sums, &covered)| percentiles(sums.iter().filter(|_| covered > 0).map(|sum| sum / covered as f64)));
    for (intervals, overall) in intervals.iter_mut().zip(overall.collect::<Vec<_>>()) {
        intervals.overall = overall;
    }
    intervals
}

/// The percentile interval of the finite values. None without any.
fn percentiles(values: impl Iterator<Item = f64>) -> Option<ConfidenceInterval> {
    let mut values: Vec<f64> = values.filter(|value| value.is_finite()).collect();
    values.sort_by(f64::total_cmp);
    let last = values.len().checked_sub(1)?;
    // Linear interpolation between order statistics, as numpy's `quantile` does by default.
    let quantile = |share: f64| {
        let position = share * last as f64;
        let (floor, part) = (position.floor() as usize, position.fract());
        values[floor] + part * (values[(floor + 1).min(last)] - values[floor])
    };
    Some(ConfidenceInterval { low: quantile(ALPHA / 2.0), high: quantile(1.0 - ALPHA / 2.0) })
}

/// A random integer below `bound`, by multiplication. The bias is below `bound / 2^32`.
fn random_below(rng: &mut impl Rng, bound: usize) -> usize {
    ((u64::from(rng.next_u32()) * bound as u64) >> 32) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    fn alternating(seeds: usize, items: &Items) -> Series {
        Series::new(seeds, items, false, |_, item| Some((item % 2) as f64))
    }

    fn intervals_of(series: &Series, seeds: usize, items: &Items, seed: u64) -> SeriesIntervals {
        bootstrap(&[series], seeds, items, 4000, Seed(seed)).remove(0)
    }

    #[test]
    fn intervals_are_reproducible() {
        let items = Items::new(&[40, 60]);
        let series = alternating(2, &items);
        assert_eq!(intervals_of(&series, 2, &items, 1), intervals_of(&series, 2, &items, 1));
        assert_ne!(intervals_of(&series, 2, &items, 1), intervals_of(&series, 2, &items, 2));
    }

    #[test]
    fn identical_seeds_have_the_interval_of_one() {
        // 100 of 200 right: sd of the mean is sqrt(0.25 / 200) = 0.03536, so 0.5 -+ 1.96 * 0.03536 = 0.431, 0.569.
        // Seeds share the items: three copies of the same answers do not add information.
        let items = Items::new(&[200]);
        for seeds in [1, 3] {
            let interval = intervals_of(&alternating(seeds, &items), seeds, &items, 3).overall.unwrap();
            let near = |end: f64, expected: f64| (end - expected).abs() < 0.01;
            assert!(near(interval.low, 0.431) && near(interval.high, 0.569), "{seeds} seeds: {interval:?}");
        }
    }

    #[test]
    fn seeds_that_differ_widen_the_interval() {
        // Every item is right in one seed and wrong in the other: only the seeds vary, and both extremes are drawn.
        let items = Items::new(&[200]);
        let series = Series::new(2, &items, false, |seed, _| Some(seed as f64));
        assert_eq!(intervals_of(&series, 2, &items, 3).overall, Some(ConfidenceInterval { low: 0.0, high: 1.0 }));
    }

    #[test]
    fn one_item_and_no_item_have_intervals_or_none() {
        let items = Items::new(&[1, 1]);
        let series = Series::new(1, &items, false, |_, item| (item == 0).then_some(1.0));
        let intervals = intervals_of(&series, 1, &items, 3);
        assert_eq!(intervals.overall, Some(ConfidenceInterval { low: 1.0, high: 1.0 }));
        assert_eq!(intervals.datasets, BTreeMap::from([(0, ConfidenceInterval { low: 1.0, high: 1.0 })]));
        assert!(bootstrap(&[&Series::linear_combination(&[])], 0, &Items::new(&[]), 10, Seed(0))[0].overall.is_none());
    }

    #[test]
    fn quantiles_interpolate_like_numpy() {
        // numpy.quantile(range(11), [0.025, 0.975]) is [0.25, 9.75].
        assert_eq!(percentiles((0..11).map(f64::from)), Some(ConfidenceInterval { low: 0.25, high: 9.75 }));
    }
}
