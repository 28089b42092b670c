//! One quantity per seed and item, over the items of a table.

use std::collections::BTreeMap;

/// The items of a table, grouped by data set. All series of the table share them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Items {
    /// Data set `d` has the items `ends[d - 1]..ends[d]`.
    ends: Vec<usize>,
    /// By item: its cluster. Empty if every item is a cluster of its own.
    clusters: Vec<usize>,
}

impl Items {
    /// `sizes` are the numbers of items of the data sets. Every item is a cluster of its own.
    pub fn new(sizes: &[usize]) -> Items {
        let mut end = 0;
        let ends = sizes.iter().map(|size| {
            end += size;
            end
        });
        Items { ends: ends.collect(), clusters: Vec::new() }
    }

    /// As [`Items::new`]. `clusters` names the cluster of each item: items with one image are not independent.
    pub fn clustered(sizes: &[usize], clusters: Vec<usize>) -> Items {
        Items { clusters, ..Items::new(sizes) }
    }

    /// The number of clusters.
    pub fn clusters(&self) -> usize {
        let mut clusters = self.clusters.clone();
        clusters.sort_unstable();
        clusters.dedup();
        if self.clusters.is_empty() { self.len() } else { clusters.len() }
    }

    pub(super) fn cluster(&self, item: usize) -> usize {
        self.clusters.get(item).copied().unwrap_or(item)
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

/// A quantity per (seed, item). A pair that was not measured is absent: no function counts it.
#[derive(Clone, Debug, PartialEq)]
pub struct Series {
    seeds: usize,
    /// By data set. A data set without a measured pair has no block, which saves memory.
    blocks: BTreeMap<usize, DatasetBlock>,
    /// Measured once for all seeds: the rows are copies of each other and count as one seed.
    shared: bool,
}

/// The part of a series on one data set.
#[derive(Clone, Debug, PartialEq)]
struct DatasetBlock {
    /// Index of the data set's first item.
    start: usize,
    /// By seed.
    rows: Vec<SeedRow>,
}

#[derive(Clone, Debug, PartialEq)]
struct SeedRow {
    /// By item. An absent pair has the value 0, so that sums need no branch.
    values: Vec<f64>,
    /// By item: 1 for a measured pair, 0 for an absent one. None if all pairs were measured.
    present: Option<Vec<f64>>,
}

impl Series {
    /// A series from `value(seed, item)`. `shared`: the quantity does not depend on the seed.
    pub fn new(seeds: usize, items: &Items, shared: bool, value: impl Fn(usize, usize) -> Option<f64>) -> Series {
        let mut series = Series::empty(seeds, shared);
        for (dataset, range) in items.datasets().enumerate() {
            let row = |seed: usize| range.clone().map(|item| value(seed, item)).collect();
            series.add(dataset, range.start, (0..seeds).map(row));
        }
        series
    }

    /// A series without pairs.
    pub(crate) fn empty(seeds: usize, shared: bool) -> Series {
        Series { seeds, blocks: BTreeMap::new(), shared }
    }

    /// Adds the values of one data set, whose first item is `start`: one row per seed.
    pub(crate) fn add(&mut self, dataset: usize, start: usize, rows: impl Iterator<Item = Vec<Option<f64>>>) {
        let rows: Vec<SeedRow> = rows.map(|row| SeedRow::new(&row)).collect();
        if rows.iter().any(SeedRow::any_present) {
            self.blocks.insert(dataset, DatasetBlock { start, rows });
        }
    }

    /// The weighted sum of series over the same items and seeds. A pair is present if all series have it.
    pub fn linear_combination(terms: &[(f64, &Series)]) -> Series {
        let Some((_, first)) = terms.first() else { return Series::empty(0, true) };
        let mut sum = Series::empty(first.seeds, terms.iter().all(|(_, series)| series.shared));
        for (dataset, block) in &first.blocks {
            let blocks = terms.iter().map(|(weight, series)| Some((*weight, series.blocks.get(dataset)?)));
            let Some(blocks) = blocks.collect::<Option<Vec<(f64, &DatasetBlock)>>>() else { continue };
            let row = |seed: usize| {
                let rows: Vec<(f64, &SeedRow)> =
                    blocks.iter().map(|(weight, block)| (*weight, &block.rows[seed])).collect();
                let value = |item: usize| {
                    let present = rows.iter().all(|(_, row)| row.is_present(item));
                    present.then(|| rows.iter().map(|(weight, row)| weight * row.values[item]).sum())
                };
                (0..block.rows[seed].values.len()).map(value).collect()
            };
            sum.add(*dataset, block.start, (0..first.seeds).map(row));
        }
        sum
    }

    /// The series restricted to one data set.
    #[must_use]
    pub fn restrict_to(&self, dataset: usize) -> Series {
        let block = self.blocks.get(&dataset).map(|block| (dataset, block.clone()));
        Series { seeds: self.seeds, blocks: block.into_iter().collect(), shared: self.shared }
    }

    /// The series without one data set.
    #[must_use]
    pub fn without(&self, dataset: usize) -> Series {
        let mut rest = self.clone();
        rest.blocks.remove(&dataset);
        rest
    }

    /// The data sets with a measured pair.
    pub fn datasets(&self) -> impl Iterator<Item = usize> + '_ {
        self.blocks.keys().copied()
    }

    /// The seeds with a measured pair. A series shared by all seeds has one.
    pub(super) fn measured_seeds(&self) -> Vec<usize> {
        let has_pair = |seed: &usize| self.blocks.values().any(|block| block.rows[*seed].any_present());
        (0..self.distinct_rows()).filter(has_pair).collect()
    }

    /// The measured pairs of one data set and seed: item, value.
    pub(super) fn row(&self, dataset: usize, seed: usize) -> impl Iterator<Item = (usize, f64)> + '_ {
        let block = self.blocks.get(&dataset);
        block
            .into_iter()
            .flat_map(move |block| block.rows[seed].measured().map(move |(item, value)| (block.start + item, value)))
    }

    /// Measured pairs of one data set.
    pub(super) fn pairs_of(&self, dataset: usize) -> usize {
        let rows = self.blocks.get(&dataset).map_or(&[][..], |block| &block.rows);
        rows.iter().take(self.distinct_rows()).map(|row| row.measured().count()).sum()
    }

    /// The measured pairs: data set, value.
    pub(super) fn values(&self) -> impl Iterator<Item = (usize, f64)> + '_ {
        self.blocks.iter().flat_map(move |(dataset, block)| {
            let rows = block.rows.iter().take(self.distinct_rows());
            rows.flat_map(move |row| row.measured().map(move |(_, value)| (*dataset, value)))
        })
    }

    /// By data set and item: the sum over the seeds, and the number of seeds.
    pub(super) fn sums_by_item(&self) -> impl Iterator<Item = Vec<(f64, usize)>> + '_ {
        self.blocks.values().map(|block| {
            let mut sums = vec![(0.0, 0); block.rows.first().map_or(0, |row| row.values.len())];
            for (item, value) in block.rows.iter().take(self.distinct_rows()).flat_map(SeedRow::measured) {
                sums[item] = (sums[item].0 + value, sums[item].1 + 1);
            }
            sums
        })
    }

    /// Rows that are not copies of another row.
    fn distinct_rows(&self) -> usize {
        if self.shared { self.seeds.min(1) } else { self.seeds }
    }

    /// Seeds with at least one pair. A series shared by all seeds has one.
    pub fn seeds(&self) -> usize {
        self.measured_seeds().len()
    }

    /// Items with at least one pair.
    pub fn items(&self) -> usize {
        self.blocks.values().map(DatasetBlock::items).sum()
    }

    /// Items of one data set with at least one pair.
    pub fn items_of(&self, dataset: usize) -> usize {
        self.blocks.get(&dataset).map_or(0, DatasetBlock::items)
    }

    /// The mean of the data sets' means, each over all its pairs. None without pairs.
    pub fn average(&self) -> Option<f64> {
        mean(self.blocks.values().filter_map(DatasetBlock::average))
    }

    /// The mean of the pairs of one data set.
    pub fn average_of(&self, dataset: usize) -> Option<f64> {
        self.blocks.get(&dataset).and_then(DatasetBlock::average)
    }

    /// The average of one seed.
    pub fn average_of_seed(&self, seed: usize) -> Option<f64> {
        mean(self.blocks.values().filter_map(|block| mean(block.rows[seed].measured().map(|(_, value)| value))))
    }
}

impl DatasetBlock {
    fn items(&self) -> usize {
        let items = self.rows.first().map_or(0, |row| row.values.len());
        (0..items).filter(|&item| self.rows.iter().any(|row| row.is_present(item))).count()
    }

    fn average(&self) -> Option<f64> {
        mean(self.rows.iter().flat_map(SeedRow::measured).map(|(_, value)| value))
    }
}

impl SeedRow {
    fn new(row: &[Option<f64>]) -> SeedRow {
        let present = || row.iter().map(|value| if value.is_some() { 1.0 } else { 0.0 }).collect();
        SeedRow {
            values: row.iter().map(|value| value.unwrap_or(0.0)).collect(),
            present: row.iter().any(Option::is_none).then(present),
        }
    }

    fn is_present(&self, item: usize) -> bool {
        self.present.as_ref().is_none_or(|present| present[item] > 0.0)
    }

    fn any_present(&self) -> bool {
        (0..self.values.len()).any(|item| self.is_present(item))
    }

    /// The measured items with their values.
    fn measured(&self) -> impl Iterator<Item = (usize, f64)> + '_ {
        self.values.iter().copied().enumerate().filter(|(item, _)| self.is_present(*item))
    }
}

/// The mean. None without values.
pub fn mean(values: impl IntoIterator<Item = f64>) -> Option<f64> {
    let (sum, count) = values.into_iter().fold((0.0, 0usize), |(sum, count), value| (sum + value, count + 1));
    (count > 0).then(|| sum / count as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The measured pairs: seed, item, value.
    fn pairs(series: &Series) -> Vec<(usize, usize, f64)> {
        let seeds = series.measured_seeds().into_iter();
        let of_seed = |seed| {
            series
                .datasets()
                .flat_map(move |dataset| series.row(dataset, seed).map(move |(item, value)| (seed, item, value)))
        };
        seeds.flat_map(of_seed).collect()
    }

    #[test]
    fn average_weights_data_sets_equally() {
        let items = Items::new(&[3, 1]);
        let values = [1.0, 0.0, 0.0, 1.0];
        let series = Series::new(1, &items, false, |_, item| Some(values[item]));
        // (1/3 + 1) / 2, and not 2/4.
        assert!((series.average().unwrap() - 2.0 / 3.0).abs() < 1e-9);
        assert_eq!(items.datasets().collect::<Vec<_>>(), [0..3, 3..4]);
    }

    #[test]
    fn a_difference_needs_both_sides() {
        let items = Items::new(&[3]);
        let one = Series::new(2, &items, false, |seed, item| (seed == 0 || item == 1).then_some(1.0));
        let other = Series::new(2, &items, false, |_, item| (item != 2).then_some(0.25));
        let difference = Series::linear_combination(&[(1.0, &one), (-1.0, &other)]);
        assert_eq!(pairs(&difference), [(0, 0, 0.75), (0, 1, 0.75), (1, 1, 0.75)]);
        assert_eq!((difference.seeds(), difference.items()), (2, 2));
    }

    #[test]
    fn a_shared_series_counts_as_one_seed() {
        let items = Items::new(&[2]);
        let shared = Series::new(3, &items, true, |_, _| Some(1.0));
        let seeded = Series::new(3, &items, false, |seed, _| Some(seed as f64));
        assert_eq!((shared.seeds(), pairs(&shared).len()), (1, 2));
        let difference = Series::linear_combination(&[(1.0, &seeded), (-1.0, &shared)]);
        assert_eq!((difference.seeds(), pairs(&difference).len()), (3, 6));
    }

    #[test]
    fn restriction_keeps_the_values_of_the_data_set() {
        let items = Items::new(&[2, 3]);
        let whole = Series::new(2, &items, false, |seed, item| (seed == 0 || item < 2).then_some(item as f64));
        let alone = whole.restrict_to(1);
        assert_eq!(pairs(&alone), [(0, 2, 2.0), (0, 3, 3.0), (0, 4, 4.0)]);
        assert_eq!((alone.seeds(), alone.items(), alone.average()), (1, 3, Some(3.0)));
        assert_eq!((whole.items_of(1), whole.average_of(1), whole.average_of_seed(1)), (3, Some(3.0), Some(0.5)));
        assert_eq!(whole.restrict_to(2).average(), None);
    }

    #[test]
    fn an_empty_series_has_no_average() {
        let items = Items::new(&[2, 0]);
        let empty = Series::new(1, &items, false, |_, _| None);
        assert_eq!((empty.average(), empty.seeds()), (None, 0));
        assert_eq!(Series::linear_combination(&[]).seeds(), 0);
    }
}
