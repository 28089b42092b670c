//! The variance of an average over seeds and items, split by its sources.
//!
//! Seeds and items are crossed: the models of all seeds answer the same items. Items with one image form a cluster,
//! because a model that misreads the image fails on all of them; an item without an image is a cluster of its own. Let
//! `e` be the part of the average's error that a pair (item, seed) contributes: its weight in the average times its
//! deviation from the mean of its data set. With `C` clusters and `S` seeds, and `E` the sum of `e` over a cluster, a seed, or
//! both, the three mean squares are
//!
//! ```text
//! clusters: C / (C - 1)             sum over clusters of E_c^2
//! seeds:    S / (S - 1)             sum over seeds of E_s^2
//! both:     C S / ((C - 1) (S - 1)) sum over both of (E_cs - E_c / S - E_s / C)^2
//! ```
//!
//! and `clusters + seeds - both` estimates the variance of the average without bias (J. Cornfield and J. W. Tukey, Ann. Math.
//! Stat. 27, 1956; for clustered sums A. C. Cameron, J. B. Gelbach and D. L. Miller, J. Bus. Econ. Stat. 29, 2011). The
//! data sets are fixed strata: sums over clusters are taken within each.

use std::collections::BTreeMap;

use super::series::{Items, Series};

/// What the values of a series can be. It bounds what no estimate can tell.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Range {
    /// Scores and other shares: 0 to 1.
    Share,
    /// Differences of shares, between minus and plus this size: 1 for two means.
    Difference(f64),
}

/// A mean square, in units of the variance of the average.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct MeanSquare {
    pub variance: f64,
    /// Degrees of freedom; for several data sets by Satterthwaite (Biometrics Bulletin 2, 1946).
    pub freedom: f64,
}

/// An average with the mean squares of its variance.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Average {
    pub range: Range,
    /// [`Series::average`].
    pub mean: f64,
    /// The mean of the squared values, with the weights of the average.
    pub mean_square: f64,
    /// Whether all values are -1, 0 or 1.
    pub binary: bool,
    /// Measured pairs (item, seed).
    pub pairs: usize,
    pub seeds: usize,
    pub clusters: usize,
    pub by_cluster: MeanSquare,
    /// Zero with one seed.
    pub by_seed: MeanSquare,
    /// Zero with one seed.
    pub by_both: MeanSquare,
}

impl Average {
    /// None for a series without a pair.
    pub fn new(series: &Series, items: &Items, range: Range) -> Option<Average> {
        let mean = series.average()?;
        let (mut binary, mut pairs) = (true, 0);
        let sums = ClusterSums::new(series, items, |dataset| series.average_of(dataset).unwrap_or(0.0));
        let mut squares: BTreeMap<usize, (f64, usize)> = BTreeMap::new();
        for (dataset, value) in series.values() {
            pairs += 1;
            binary &= [-1.0, 0.0, 1.0].contains(&value);
            let of_dataset = squares.entry(dataset).or_default();
            *of_dataset = (of_dataset.0 + value * value, of_dataset.1 + 1);
        }
        let strata = squares.len() as f64;
        let mean_square = squares.values().map(|(sum, count)| sum / *count as f64).sum::<f64>() / strata;
        let clusters = sums.strata.values().map(Vec::len).sum();
        let largest = match range {
            Range::Share => 0.25,
            Range::Difference(size) => size * size,
        } / (strata * strata);
        let (by_cluster, by_seed, by_both) = sums.mean_squares(largest);
        Some(Average {
            range,
            mean,
            mean_square,
            binary,
            pairs,
            seeds: sums.seeds,
            clusters,
            by_cluster,
            by_seed,
            by_both,
        })
    }
}

/// By data set, cluster and measured seed: the sum of the weighted deviations of the pairs from a centre.
struct ClusterSums {
    seeds: usize,
    /// By data set: one row of sums per cluster. A cluster that occurs in several data sets belongs to the first.
    strata: BTreeMap<usize, Vec<Vec<f64>>>,
}

impl ClusterSums {
    fn new(series: &Series, items: &Items, centre: impl Fn(usize) -> f64) -> ClusterSums {
        let measured = series.measured_seeds();
        let datasets = series.datasets().count();
        let mut place: BTreeMap<usize, (usize, usize)> = BTreeMap::new();
        let mut strata: BTreeMap<usize, Vec<Vec<f64>>> = BTreeMap::new();
        for dataset in series.datasets() {
            let weight = 1.0 / (datasets as f64 * series.pairs_of(dataset) as f64);
            let centre = centre(dataset);
            for (row, &seed) in measured.iter().enumerate() {
                for (item, value) in series.row(dataset, seed) {
                    let (stratum, cluster) = *place.entry(items.cluster(item)).or_insert_with(|| {
                        let clusters = strata.entry(dataset).or_default();
                        clusters.push(vec![0.0; measured.len()]);
                        (dataset, clusters.len() - 1)
                    });
                    if let Some(sums) = strata.get_mut(&stratum) {
                        sums[cluster][row] += weight * (value - centre);
                    }
                }
            }
        }
        ClusterSums { seeds: measured.len(), strata }
    }

    /// The mean squares of clusters, seeds and both. A data set with one cluster has the `largest` possible variance of a cluster.
    fn mean_squares(&self, largest: f64) -> (MeanSquare, MeanSquare, MeanSquare) {
        let seeds = self.seeds as f64;
        let (mut by_cluster, mut by_both, mut per_freedom) = (0.0, 0.0, 0.0);
        let mut of_seed = vec![0.0; self.seeds];
        for clusters in self.strata.values() {
            let count = clusters.len() as f64;
            let mut column = vec![0.0; self.seeds];
            for sums in clusters {
                for (total, sum) in column.iter_mut().zip(sums) {
                    *total += sum;
                }
            }
            for (total, sum) in of_seed.iter_mut().zip(&column) {
                *total += sum;
            }
            if clusters.len() == 1 {
                by_cluster += largest;
                continue;
            }
            let total: f64 = column.iter().sum();
            let (mut squares, mut residuals) = (0.0, 0.0);
            for sums in clusters {
                let row: f64 = sums.iter().sum();
                squares += (row - total / count).powi(2);
                for (sum, column) in sums.iter().zip(&column) {
                    residuals += (sum - row / seeds - column / count + total / (count * seeds)).powi(2);
                }
            }
            let variance = squares * count / (count - 1.0);
            by_cluster += variance;
            per_freedom += variance * variance / (count - 1.0);
            if self.seeds > 1 {
                by_both += residuals * count * seeds / ((count - 1.0) * (seeds - 1.0));
            }
        }
        let smallest = self.strata.values().map(|clusters| clusters.len() - 1).sum::<usize>().max(1) as f64;
        let freedom = if per_freedom > 0.0 { by_cluster * by_cluster / per_freedom } else { smallest };
        let by_cluster = MeanSquare { variance: by_cluster, freedom };
        if self.seeds < 2 {
            return (by_cluster, MeanSquare::default(), MeanSquare::default());
        }
        let variance = of_seed.iter().map(|sum| sum * sum).sum::<f64>() * seeds / (seeds - 1.0);
        let by_seed = MeanSquare { variance, freedom: seeds - 1.0 };
        (by_cluster, by_seed, MeanSquare { variance: by_both, freedom: freedom * (seeds - 1.0) })
    }
}

/// What each cluster contributes to [`Series::average`]: the terms add up to it.
pub fn cluster_terms(series: &Series, items: &Items) -> Vec<f64> {
    let sums = ClusterSums::new(series, items, |_| 0.0);
    sums.strata.into_values().flatten().map(|sums| sums.iter().sum()).collect()
}
