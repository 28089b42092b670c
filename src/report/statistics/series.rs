//! One quantity per seed and item, laid over the items that a table shares. Knows no instance.

use std::collections::BTreeMap;

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
    seeds: usize,
    /// By data set of which a pair was measured: a series takes no memory for the others.
    blocks: BTreeMap<usize, Block>,
    /// Measured once for all seeds: the rows are copies, and the seeds say nothing about its spread.
    shared: bool,
}

/// What a series has of one data set.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Block {
    /// Index of the data set's first item.
    start: usize,
    /// By seed.
    rows: Vec<Row>,
}

#[derive(Clone, Debug, PartialEq)]
struct Row {
    /// By item; an absent pair holds 0, so that sums need no branch.
    values: Vec<f64>,
    /// 1 where a pair was measured, 0 where it is absent; none where all were.
    present: Option<Vec<f64>>,
}

impl Series {
    /// A series from `value(seed, item)`. `shared` says that the quantity does not depend on the seed.
    pub fn new(seeds: usize, items: &Items, shared: bool, value: impl Fn(usize, usize) -> Option<f64>) -> Series {
        let mut series = Series::empty(seeds, shared);
        for (dataset, range) in items.datasets().enumerate() {
            let row = |seed: usize| range.clone().map(|item| value(seed, item)).collect();
            series.add(dataset, range.start, (0..seeds).map(row));
        }
        series
    }

    /// A series without a pair.
    pub(crate) fn empty(seeds: usize, shared: bool) -> Series {
        Series { seeds, blocks: BTreeMap::new(), shared }
    }

    /// Adds what was measured on one data set, whose items begin at `start`: a row per seed.
    pub(crate) fn add(&mut self, dataset: usize, start: usize, rows: impl Iterator<Item = Vec<Option<f64>>>) {
        let rows: Vec<Row> = rows.map(|row| Row::new(&row)).collect();
        if rows.iter().any(Row::any) {
            self.blocks.insert(dataset, Block { start, rows });
        }
    }

    /// The weighted sum of series, present where all of them are. The series share their items and seeds.
    pub fn combination(terms: &[(f64, &Series)]) -> Series {
        let Some((_, first)) = terms.first() else { return Series::empty(0, true) };
        let mut sum = Series::empty(first.seeds, terms.iter().all(|(_, series)| series.shared));
        for (dataset, block) in &first.blocks {
            let blocks = terms.iter().map(|(weight, series)| Some((*weight, series.blocks.get(dataset)?)));
            let Some(blocks) = blocks.collect::<Option<Vec<(f64, &Block)>>>() else { continue };
            let row = |seed: usize| {
                let rows: Vec<(f64, &Row)> =
                    blocks.iter().map(|(weight, block)| (*weight, &block.rows[seed])).collect();
                let value = |item: usize| {
                    let present = rows.iter().all(|(_, row)| row.has(item));
                    present.then(|| rows.iter().map(|(weight, row)| weight * row.values[item]).sum())
                };
                (0..block.rows[seed].values.len()).map(value).collect()
            };
            sum.add(*dataset, block.start, (0..first.seeds).map(row));
        }
        sum
    }

    /// What the series has of one data set alone.
    #[must_use]
    pub fn only(&self, dataset: usize) -> Series {
        let block = self.blocks.get(&dataset).map(|block| (dataset, block.clone()));
        Series { seeds: self.seeds, blocks: block.into_iter().collect(), shared: self.shared }
    }

    /// Whether a pair of the data set was measured.
    pub fn covers(&self, dataset: usize) -> bool {
        self.blocks.contains_key(&dataset)
    }

    pub(super) fn block(&self, dataset: usize) -> Option<&Block> {
        self.blocks.get(&dataset)
    }

    /// The measured pairs: seed, item, value.
    pub fn pairs(&self) -> impl Iterator<Item = (usize, usize, f64)> + '_ {
        (0..self.spread()).flat_map(move |seed| {
            self.blocks.values().flat_map(move |block| {
                let measured = block.rows[seed].measured();
                measured.map(move |(item, value)| (seed, block.start + item, value))
            })
        })
    }

    /// By data set, for each of its items: the sum over the seeds, and how many seeds measured it.
    pub(super) fn by_item(&self) -> impl Iterator<Item = Vec<(f64, usize)>> + '_ {
        self.blocks.values().map(|block| {
            let mut sums = vec![(0.0, 0); block.rows.first().map_or(0, |row| row.values.len())];
            for (item, value) in block.rows.iter().take(self.spread()).flat_map(Row::measured) {
                sums[item] = (sums[item].0 + value, sums[item].1 + 1);
            }
            sums
        })
    }

    /// Rows that say something of their own.
    fn spread(&self) -> usize {
        if self.shared { self.seeds.min(1) } else { self.seeds }
    }

    /// Seeds with at least one pair; a series shared by all seeds counts as one.
    pub fn seeds(&self) -> usize {
        let measured = (0..self.seeds).filter(|&seed| self.blocks.values().any(|block| block.rows[seed].any())).count();
        if self.shared { measured.min(1) } else { measured }
    }

    /// As [`Series::seeds`], of one data set.
    pub fn seeds_of(&self, dataset: usize) -> usize {
        let rows = self.blocks.get(&dataset).map_or(&[][..], |block| &block.rows);
        let measured = rows.iter().filter(|row| row.any()).count();
        if self.shared { measured.min(1) } else { measured }
    }

    /// Items with at least one pair.
    pub fn items(&self) -> usize {
        self.blocks.values().map(Block::items).sum()
    }

    /// Items of one data set with at least one pair.
    pub fn items_of(&self, dataset: usize) -> usize {
        self.blocks.get(&dataset).map_or(0, Block::items)
    }

    /// The average of all data sets: the mean of their means, each over all its pairs. None without pairs.
    pub fn average(&self) -> Option<f64> {
        mean(self.blocks.values().filter_map(Block::average))
    }

    /// The mean of the pairs of one data set.
    pub fn average_of(&self, dataset: usize) -> Option<f64> {
        self.blocks.get(&dataset).and_then(Block::average)
    }

    /// The average of one seed alone.
    pub fn average_of_seed(&self, seed: usize) -> Option<f64> {
        mean(self.blocks.values().filter_map(|block| mean(block.rows[seed].measured().map(|(_, value)| value))))
    }
}

impl Block {
    fn items(&self) -> usize {
        let items = self.rows.first().map_or(0, |row| row.values.len());
        (0..items).filter(|&item| self.rows.iter().any(|row| row.has(item))).count()
    }

    fn average(&self) -> Option<f64> {
        mean(self.rows.iter().flat_map(Row::measured).map(|(_, value)| value))
    }

    /// Sum and weight under the weights of a resample: of the seeds, and of the data set's items, which add up to their
    /// number.
    pub(super) fn weighted(&self, seeds: &[f64], items: &[f64]) -> (f64, f64) {
        let mut sum = (0.0, 0.0);
        for (row, &weight) in self.rows.iter().zip(seeds) {
            if weight > 0.0 {
                sum.0 += weight * dot(&row.values, items);
                // Weights are whole numbers, so their sum is exact in any order.
                let present = row.present.as_ref().map_or(items.len() as f64, |present| dot(present, items));
                sum.1 += weight * present;
            }
        }
        sum
    }
}

impl Row {
    fn new(row: &[Option<f64>]) -> Row {
        let present = || row.iter().map(|value| if value.is_some() { 1.0 } else { 0.0 }).collect();
        Row {
            values: row.iter().map(|value| value.unwrap_or(0.0)).collect(),
            present: row.iter().any(Option::is_none).then(present),
        }
    }

    fn has(&self, item: usize) -> bool {
        self.present.as_ref().is_none_or(|present| present[item] > 0.0)
    }

    fn any(&self) -> bool {
        (0..self.values.len()).any(|item| self.has(item))
    }

    /// The measured items with their values.
    fn measured(&self) -> impl Iterator<Item = (usize, f64)> + '_ {
        self.values.iter().copied().enumerate().filter(|(item, _)| self.has(*item))
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
        assert!((series.average().unwrap() - 2.0 / 3.0).abs() < 1e-9);
        assert_eq!(items.datasets().collect::<Vec<_>>(), [0..3, 3..4]);
    }

    #[test]
    fn a_difference_exists_only_where_both_sides_do() {
        let items = Items::new(&[3]);
        let one = Series::new(2, &items, false, |seed, item| (seed == 0 || item == 1).then_some(1.0));
        let other = Series::new(2, &items, false, |_, item| (item != 2).then_some(0.25));
        let difference = Series::combination(&[(1.0, &one), (-1.0, &other)]);
        assert_eq!(difference.pairs().collect::<Vec<_>>(), [(0, 0, 0.75), (0, 1, 0.75), (1, 1, 0.75)]);
        assert_eq!((difference.seeds(), difference.items()), (2, 2));
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
    fn a_data_set_by_itself_has_what_the_whole_has_of_it() {
        let items = Items::new(&[2, 3]);
        let whole = Series::new(2, &items, false, |seed, item| (seed == 0 || item < 2).then_some(item as f64));
        let alone = whole.only(1);
        assert_eq!(alone.pairs().collect::<Vec<_>>(), [(0, 2, 2.0), (0, 3, 3.0), (0, 4, 4.0)]);
        assert_eq!((alone.seeds(), alone.items(), alone.average()), (1, 3, Some(3.0)));
        assert_eq!((whole.items_of(1), whole.average_of(1), whole.average_of_seed(1)), (3, Some(3.0), Some(0.5)));
        assert_eq!((whole.only(2).average(), whole.covers(2)), (None, false));
    }

    #[test]
    fn nothing_has_no_average() {
        let items = Items::new(&[2, 0]);
        let empty = Series::new(1, &items, false, |_, _| None);
        assert_eq!((empty.average(), empty.seeds()), (None, 0));
        assert_eq!(Series::combination(&[]).seeds(), 0);
    }

    #[test]
    fn the_dot_product_takes_the_rest_too() {
        let ones = vec![1.0; 19];
        let count: Vec<f64> = (0..19).map(f64::from).collect();
        assert!((dot(&ones, &count) - 171.0).abs() < 1e-9);
    }
}
