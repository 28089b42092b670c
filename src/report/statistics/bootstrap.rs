//! The hierarchical bootstrap: intervals of averages over seeds and items. Knows no metric.
//!
//! Seeds and items are crossed (each seed's model answers the same items), so a resample draws seeds with
//! replacement, and items with replacement within their data set, the same items for every seed drawn: the
//! two-way bootstrap of A. B. Owen, "The pigeonhole bootstrap", Ann. Appl. Stat. 1(2), 2007. Drawing items
//! anew per seed would average the items' noise away and give intervals that are too short. Data sets are
//! not drawn: they are the ones that were chosen. Intervals are percentile intervals (Efron and Tibshirani,
//! "An Introduction to the Bootstrap", 1993, chapter 13).
//!
//! With `s` seeds, the part of the variance that is due to seeds comes out `(s - 1) / s` times its size, so
//! with two or three seeds the interval is on the short side; with one seed it is of the items alone.

use std::collections::BTreeMap;

use rand::Rng;
use rand_chacha::ChaCha8Rng;
use rayon::prelude::*;
use serde::Serialize;

use super::ALPHA;
use super::series::{Block, Items, Series};
use ablate_core::base::Seed;

/// A 95 % interval.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Interval {
    pub low: f64,
    pub high: f64,
}

/// The intervals of one series.
#[derive(Clone, Debug, PartialEq)]
pub struct Intervals {
    /// Of [`Series::average`]; none where the series has no pairs.
    pub overall: Option<Interval>,
    /// Of [`Series::average_of`] each data set of which it has pairs.
    pub datasets: BTreeMap<usize, Interval>,
}

/// Series that are resampled at once. The draws of further ones are drawn again, from the same streams, instead of being
/// kept: one batch takes two numbers per series and resample, whatever the number of data sets.
const BATCH: usize = 512;

/// The intervals of many series over the same items, from the same resamples.
///
/// `seeds` is the number of rows of each series. The result depends on `seed` and the series only.
pub fn bootstrap(series: &[&Series], seeds: usize, items: &Items, resamples: usize, seed: Seed) -> Vec<Intervals> {
    series.chunks(BATCH).flat_map(|batch| resample(batch, seeds, items, resamples, seed)).collect()
}

/// One resample, as far as it is drawn.
struct Resample {
    random: ChaCha8Rng,
    /// How often each seed was drawn.
    seeds: Vec<f64>,
}

/// Draws every resample data set by data set, so that the averages of one data set are there at a time.
fn resample(batch: &[&Series], seeds: usize, items: &Items, resamples: usize, seed: Seed) -> Vec<Intervals> {
    let begin = |resample: usize| {
        let mut random = seed.stream(&format!("bootstrap {resample}"));
        let mut weights = vec![0.0; seeds];
        for _ in 0..seeds {
            weights[below(&mut random, seeds)] += 1.0;
        }
        Resample { random, seeds: weights }
    };
    let mut drawn: Vec<Resample> = (0..resamples).map(begin).collect();
    let mut intervals = vec![Intervals { overall: None, datasets: BTreeMap::new() }; batch.len()];
    // Of each series and resample: the sum of the averages of the data sets so far.
    let mut sums = vec![vec![0.0; resamples]; batch.len()];
    let mut covered = vec![0usize; batch.len()];
    for (dataset, range) in items.datasets().enumerate() {
        let blocks = batch.iter().enumerate().filter_map(|(index, series)| Some((index, series.block(dataset)?)));
        let blocks: Vec<(usize, &Block)> = blocks.collect();
        let draw = |weights: &mut Vec<f64>, Resample { random, seeds }: &mut Resample| {
            weights.fill(0.0);
            for _ in range.clone() {
                weights[below(random, range.len())] += 1.0;
            }
            // A data set that a resample missed has no average there (0 / 0).
            let average = |(_, block): &(usize, &Block)| {
                let (sum, weight) = block.weighted(seeds, weights);
                sum / weight
            };
            blocks.iter().map(average).collect::<Vec<f64>>()
        };
        let averages: Vec<Vec<f64>> = drawn.par_iter_mut().map_init(|| vec![0.0; range.len()], draw).collect();
        let found: Vec<Option<Interval>> = (0..blocks.len())
            .into_par_iter()
            .map(|place| percentiles(averages.iter().map(|averages| averages[place])))
            .collect();
        for (place, ((index, _), interval)) in blocks.iter().zip(found).enumerate() {
            intervals[*index].datasets.extend(interval.map(|interval| (dataset, interval)));
            covered[*index] += 1;
            for (sum, averages) in sums[*index].iter_mut().zip(&averages) {
                *sum += averages[place];
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

/// The percentile interval of the finite values.
fn percentiles(values: impl Iterator<Item = f64>) -> Option<Interval> {
    let mut values: Vec<f64> = values.filter(|value| value.is_finite()).collect();
    values.sort_by(f64::total_cmp);
    let last = values.len().checked_sub(1)?;
    // Linear interpolation between order statistics, as numpy's `quantile` does by default.
    let quantile = |share: f64| {
        let position = share * last as f64;
        let (floor, part) = (position.floor() as usize, position.fract());
        values[floor] + part * (values[(floor + 1).min(last)] - values[floor])
    };
    Some(Interval { low: quantile(ALPHA / 2.0), high: quantile(1.0 - ALPHA / 2.0) })
}

/// A number below `bound`, by multiplication; the bias is below `bound / 2^32`.
fn below(random: &mut impl Rng, bound: usize) -> usize {
    ((u64::from(random.next_u32()) * bound as u64) >> 32) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    fn alternating(seeds: usize, items: &Items) -> Series {
        Series::new(seeds, items, false, |_, item| Some((item % 2) as f64))
    }

    fn only(series: &Series, seeds: usize, items: &Items, seed: u64) -> Intervals {
        bootstrap(&[series], seeds, items, 4000, Seed(seed)).remove(0)
    }

    #[test]
    fn equal_seeds_give_equal_intervals() {
        let items = Items::new(&[40, 60]);
        let series = alternating(2, &items);
        assert_eq!(only(&series, 2, &items, 1), only(&series, 2, &items, 1));
        assert_ne!(only(&series, 2, &items, 1), only(&series, 2, &items, 2));
    }

    #[test]
    fn with_one_seed_the_interval_is_that_of_a_proportion() {
        // 100 of 200 right: sd of the mean is sqrt(0.25 / 200) = 0.03536, so 0.5 -+ 1.96 * 0.03536 = 0.431, 0.569.
        let items = Items::new(&[200]);
        let interval = only(&alternating(1, &items), 1, &items, 3).overall.unwrap();
        assert!((interval.low - 0.431).abs() < 0.01 && (interval.high - 0.569).abs() < 0.01, "{interval:?}");
    }

    #[test]
    fn seeds_that_agree_on_every_item_add_nothing() {
        // Items are shared: three copies of the same answers are not three times the evidence.
        let items = Items::new(&[200]);
        let interval = only(&alternating(3, &items), 3, &items, 3).overall.unwrap();
        assert!((interval.low - 0.431).abs() < 0.01 && (interval.high - 0.569).abs() < 0.01, "{interval:?}");
    }

    #[test]
    fn seeds_that_differ_widen_the_interval() {
        // Every item right in one seed and wrong in the other: only the seeds vary, and both extremes are drawn.
        let items = Items::new(&[200]);
        let series = Series::new(2, &items, false, |seed, _| Some(seed as f64));
        assert_eq!(only(&series, 2, &items, 3).overall, Some(Interval { low: 0.0, high: 1.0 }));
    }

    #[test]
    fn one_item_and_no_item_are_no_accident() {
        let items = Items::new(&[1, 1]);
        let series = Series::new(1, &items, false, |_, item| (item == 0).then_some(1.0));
        let intervals = only(&series, 1, &items, 3);
        assert_eq!(intervals.overall, Some(Interval { low: 1.0, high: 1.0 }));
        assert_eq!(intervals.datasets, BTreeMap::from([(0, Interval { low: 1.0, high: 1.0 })]));
        assert!(bootstrap(&[&Series::combination(&[])], 0, &Items::new(&[]), 10, Seed(0))[0].overall.is_none());
    }

    #[test]
    fn quantiles_interpolate_as_numpy_does() {
        // numpy.quantile(range(11), [0.025, 0.975]) is [0.25, 9.75].
        assert_eq!(percentiles((0..11).map(f64::from)), Some(Interval { low: 0.25, high: 9.75 }));
    }
}
