//! One quantity per seed and item, laid over the items that a table shares. Knows no instance.

/// The items that the series of one table share, grouped by data set.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Items {
    /// Where each data set's items end: data set `d` is `ends[d - 1]..ends[d]`.
    ends: Vec<usize>,
}

impl Items {
    /// Items from the number of items of each data set.
    pub fn new(sizes: &[usize]) -> Items {
        let mut end = 0;
        let ends = sizes.iter().map(|size| {
            end += size;
            end
        });
        Items { ends: ends.collect() }
    }

    pub fn len(&self) -> usize {
        self.ends.last().copied().unwrap_or(0)
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The ranges of the data sets, in order.
    pub fn datasets(&self) -> impl Iterator<Item = std::ops::Range<usize>> + '_ {
        self.ends.iter().scan(0, |start, &end| {
            let range = *start..end;
            *start = end;
            Some(range)
        })
    }
}

/// A quantity per (seed, item). A pair that was not measured is absent and counts nowhere.
#[derive(Clone, Debug, PartialEq)]
pub struct Series {
    /// By seed, then item; an absent pair holds 0, so that sums need no branch.
    values: Vec<Vec<f64>>,
    /// 1 where a pair was measured, 0 where it is absent.
    present: Vec<Vec<f64>>,
    /// Measured once for all seeds: the rows are copies, and the seeds say nothing about its spread.
    shared: bool,
}

impl Series {
    /// A series from `value(seed, item)`. `shared` says that the quantity does not depend on the seed.
    pub fn new(seeds: usize, items: &Items, shared: bool, value: impl Fn(usize, usize) -> Option<f64>) -> Series {
        let mut series = Series { values: Vec::new(), present: Vec::new(), shared };
        for seed in 0..seeds {
            let row: Vec<Option<f64>> = (0..items.len()).map(|item| value(seed, item)).collect();
            series.values.push(row.iter().map(|value| value.unwrap_or(0.0)).collect());
            series.present.push(row.iter().map(|value| if value.is_some() { 1.0 } else { 0.0 }).collect());
        }
        series
    }

    /// The weighted sum of series, present where all of them are. The series share their items and seeds.
    pub fn combination(terms: &[(f64, &Series)]) -> Series {
        let Some((_, first)) = terms.first() else {
            return Series { values: Vec::new(), present: Vec::new(), shared: true };
        };
        let mut sum = Series { shared: terms.iter().all(|(_, series)| series.shared), ..(*first).clone() };
        for (seed, row) in sum.values.iter_mut().enumerate() {
            for (item, value) in row.iter_mut().enumerate() {
                let present = terms.iter().all(|(_, series)| series.present[seed][item] > 0.0);
                let total: f64 = terms.iter().map(|(weight, series)| weight * series.values[seed][item]).sum();
                *value = if present { total } else { 0.0 };
                sum.present[seed][item] = if present { 1.0 } else { 0.0 };
            }
        }
        sum
    }

    /// The value of one pair.
    pub fn value(&self, seed: usize, item: usize) -> Option<f64> {
        (self.present[seed][item] > 0.0).then(|| self.values[seed][item])
    }

    /// The measured pairs: seed, item, value.
    pub fn pairs(&self) -> impl Iterator<Item = (usize, usize, f64)> + '_ {
        let rows = self.values.iter().zip(&self.present).take(if self.shared { 1 } else { self.values.len() });
        rows.enumerate().flat_map(|(seed, (values, present))| {
            let measured = values.iter().zip(present).enumerate().filter(|(_, (_, present))| **present > 0.0);
            measured.map(move |(item, (value, _))| (seed, item, *value))
        })
    }

    /// Seeds with at least one pair; a series shared by all seeds counts as one.
    pub fn seeds(&self) -> usize {
        let measured = self.present.iter().filter(|row| row.iter().any(|present| *present > 0.0)).count();
        if self.shared { measured.min(1) } else { measured }
    }

    /// Items with at least one pair.
    pub fn items(&self, range: std::ops::Range<usize>) -> usize {
        range.filter(|&item| self.present.iter().any(|row| row[item] > 0.0)).count()
    }

    /// The average of all data sets: the mean of their means, each over all its pairs. None without pairs.
    pub fn average(&self, items: &Items) -> Option<f64> {
        mean(items.datasets().filter_map(|range| self.average_of(range)))
    }

    /// The mean of the pairs of one data set.
    pub fn average_of(&self, range: std::ops::Range<usize>) -> Option<f64> {
        let pairs = self.values.iter().zip(&self.present);
        let values = pairs.flat_map(|(values, present)| {
            let measured = range.clone().filter(|&item| present[item] > 0.0);
            measured.map(|item| values[item]).collect::<Vec<_>>()
        });
        mean(values)
    }

    /// The average of one seed alone.
    pub fn average_of_seed(&self, seed: usize, items: &Items) -> Option<f64> {
        mean(items.datasets().filter_map(|range| mean(range.filter_map(|item| self.value(seed, item)))))
    }

    /// Sum and weight of one data set under the weights of a resample.
    pub(super) fn weighted(&self, seeds: &[f64], items: &[f64], range: std::ops::Range<usize>) -> (f64, f64) {
        let mut sum = (0.0, 0.0);
        for ((values, present), &weight) in self.values.iter().zip(&self.present).zip(seeds) {
            if weight > 0.0 {
                let weights = &items[range.clone()];
                sum.0 += weight * dot(&values[range.clone()], weights);
                sum.1 += weight * dot(&present[range.clone()], weights);
            }
        }
        sum
    }
}

/// The mean of numbers; none of none.
pub fn mean(values: impl IntoIterator<Item = f64>) -> Option<f64> {
    let (sum, count) = values.into_iter().fold((0.0, 0usize), |(sum, count), value| (sum + value, count + 1));
    (count > 0).then(|| sum / count as f64)
}

/// A dot product in eight lanes, so that the compiler may use vector registers; the order of the sum is fixed.
fn dot(a: &[f64], b: &[f64]) -> f64 {
    let mut lanes = [0.0; 8];
    let (a_chunks, b_chunks) = (a.chunks_exact(8), b.chunks_exact(8));
    let rest: f64 = a_chunks.remainder().iter().zip(b_chunks.remainder()).map(|(a, b)| a * b).sum();
    for (a, b) in a_chunks.zip(b_chunks) {
        for lane in 0..8 {
            lanes[lane] += a[lane] * b[lane];
        }
    }
    lanes.iter().sum::<f64>() + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_average_counts_each_data_set_once() {
        let items = Items::new(&[3, 1]);
        let values = [1.0, 0.0, 0.0, 1.0];
        let series = Series::new(1, &items, false, |_, item| Some(values[item]));
        // (1/3 + 1) / 2, and not 2/4.
        assert!((series.average(&items).unwrap() - 2.0 / 3.0).abs() < 1e-9);
        assert_eq!(items.datasets().collect::<Vec<_>>(), [0..3, 3..4]);
    }

    #[test]
    fn a_difference_exists_only_where_both_sides_do() {
        let items = Items::new(&[3]);
        let one = Series::new(2, &items, false, |seed, item| (seed == 0 || item == 1).then_some(1.0));
        let other = Series::new(2, &items, false, |_, item| (item != 2).then_some(0.25));
        let difference = Series::combination(&[(1.0, &one), (-1.0, &other)]);
        assert_eq!(difference.pairs().collect::<Vec<_>>(), [(0, 0, 0.75), (0, 1, 0.75), (1, 1, 0.75)]);
        assert_eq!((difference.seeds(), difference.items(0..3)), (2, 2));
    }

    #[test]
    fn a_series_shared_by_all_seeds_counts_as_one_seed() {
        let items = Items::new(&[2]);
        let shared = Series::new(3, &items, true, |_, _| Some(1.0));
        let seeded = Series::new(3, &items, false, |seed, _| Some(seed as f64));
        assert_eq!((shared.seeds(), shared.pairs().count()), (1, 2));
        let difference = Series::combination(&[(1.0, &seeded), (-1.0, &shared)]);
        assert_eq!((difference.seeds(), difference.pairs().count()), (3, 6));
    }

    #[test]
    fn nothing_has_no_average() {
        let items = Items::new(&[2, 0]);
        let empty = Series::new(1, &items, false, |_, _| None);
        assert_eq!((empty.average(&items), empty.seeds()), (None, 0));
        assert_eq!(Series::combination(&[]).seeds(), 0);
    }

    #[test]
    fn the_dot_product_takes_the_rest_too() {
        let ones = vec![1.0; 19];
        let count: Vec<f64> = (0..19).map(f64::from).collect();
        assert!((dot(&ones, &count) - 171.0).abs() < 1e-9);
    }
}
