//! In which order a source of a mix gives its rows, and what so many of them hold. Knows no other source.

use std::collections::BTreeMap;

use anyhow::{Result, bail};

use super::mix::{Amount, Source};
use ablate_core::base::Seed;

/// Rows of a mix at most.
const MOST: usize = 1_000_000_000;

/// Refuses what no memory holds: a slip in an amount.
pub(super) fn few_enough(orders: &[Order], counts: &[usize]) -> Result<()> {
    let all = counts.iter().fold(0usize, |all, count| all.saturating_add(*count));
    if let (true, Some((order, count))) = (all > MOST, orders.iter().zip(counts).max_by_key(|(_, count)| **count)) {
        bail!("a mix has at most {MOST} rows, and source `{}` alone is to give {count}", order.source.name);
    }
    Ok(())
}

/// The order in which a source gives its rows.
pub(super) struct Order<'a> {
    pub(super) source: &'a Source,
    seed: Seed,
}

impl Order<'_> {
    pub(super) fn new(source: &Source, seed: Seed) -> Order<'_> {
        Order { source, seed: seed.derive(&format!("mix/{}", source.name)) }
    }

    /// How many rows each data set has.
    pub(super) fn datasets(&self) -> BTreeMap<&str, usize> {
        let mut rows = BTreeMap::new();
        for dataset in &self.source.datasets {
            *rows.entry(dataset.as_str()).or_default() += 1;
        }
        rows
    }

    /// `count` rows by the source's unit.
    pub(super) fn give(&self, count: usize) -> Vec<usize> {
        match self.source.amount {
            Amount::PerDataset(rows) => self.take_each(rows),
            _ => self.take(count),
        }
    }

    /// The first `wanted` rows of each data set, in the same order that all rows have.
    fn take_each(&self, wanted: usize) -> Vec<usize> {
        let mut missing: BTreeMap<&str, usize> = self.datasets().into_keys().map(|name| (name, wanted)).collect();
        let mut rows = Vec::new();
        let mut epoch = 0;
        while missing.values().any(|missing| *missing > 0) {
            for row in self.epoch(epoch) {
                if let Some(missing) = missing.get_mut(self.source.datasets[row].as_str())
                    && *missing > 0
                {
                    *missing -= 1;
                    rows.push(row);
                }
            }
            epoch += 1;
        }
        rows
    }

    /// The first `count` rows; every pass over the source has an order of its own.
    fn take(&self, count: usize) -> Vec<usize> {
        let mut rows = Vec::new();
        let mut epoch = 0;
        while rows.len() < count && !self.source.keys.is_empty() {
            rows.extend(self.epoch(epoch));
            epoch += 1;
        }
        rows.truncate(count);
        rows
    }

    /// All rows, by a rank that each has from its own key: a row that is added or goes leaves the others in order.
    fn epoch(&self, epoch: usize) -> Vec<usize> {
        let seed = self.seed.derive(&format!("epoch/{epoch}"));
        let mut ranked: Vec<(u64, usize)> =
            self.source.keys.iter().enumerate().map(|(index, key)| (seed.derive(key).0, index)).collect();
        ranked.sort_unstable();
        ranked.into_iter().map(|(_, index)| index).collect()
    }

    /// How many rows come nearest to so many tokens.
    pub(super) fn rows_of(&self, tokens: u64) -> Result<usize> {
        let lengths = self.lengths()?;
        let whole: u64 = lengths.iter().sum();
        if whole == 0 || tokens == 0 {
            if tokens > 0 {
                bail!("source `{}` is to give {tokens} tokens and has none", self.source.name);
            }
            return Ok(0);
        }
        let passes = (tokens / whole) as usize;
        let mut left = tokens % whole;
        let mut count = passes.saturating_mul(lengths.len());
        for row in self.epoch(passes) {
            // A row belongs to the amount when more than half of it does.
            if 2 * left <= lengths[row] {
                break;
            }
            left = left.saturating_sub(lengths[row]);
            count += 1;
        }
        Ok(count)
    }

    pub(super) fn tokens_of(&self, count: usize) -> Result<u64> {
        let lengths = self.lengths()?;
        Ok(self.give(count).into_iter().map(|row| lengths[row]).sum())
    }

    fn lengths(&self) -> Result<&[u64]> {
        match &self.source.tokens {
            Some(tokens) => Ok(tokens),
            None => bail!("tokens cannot be counted: the mix has no `tokenizer`"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 5 rows of `chart` and 3 of `doc`, in turn.
    fn source(rows: usize) -> Source {
        let datasets = ["chart", "doc", "chart", "doc", "chart", "doc", "chart", "chart"].map(str::to_string).to_vec();
        let keys = (0..8).map(|row| format!("{}/{row}", datasets[row])).collect();
        Source { name: "f".into(), tokens: None, keys, datasets, amount: Amount::PerDataset(rows), replace: true }
    }

    fn drawn(rows: usize) -> Vec<usize> {
        Order::new(&source(rows), Seed(4)).give(0)
    }

    #[test]
    fn every_data_set_gives_so_many_rows_and_a_larger_number_keeps_them() {
        let of = |rows: &[usize], dataset: &str| {
            rows.iter().filter(|row| source(1).datasets[**row] == dataset).copied().collect::<Vec<_>>()
        };
        let (two, three, four) = (drawn(2), drawn(3), drawn(4));
        for dataset in ["chart", "doc"] {
            assert_eq!((of(&two, dataset).len(), of(&four, dataset).len()), (2, 4));
            assert_eq!(of(&two, dataset), of(&three, dataset)[..2]);
            assert_eq!(of(&three, dataset), of(&four, dataset)[..3]);
        }
        // A data set of three rows begins again with the fourth.
        let mut docs = of(&four, "doc");
        docs.sort_unstable();
        docs.dedup();
        assert_eq!(docs, [1, 3, 5]);
        assert!(drawn(0).is_empty());
    }
}
