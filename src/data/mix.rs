//! How many rows of which source a mix holds, and which ones. Knows ids and token counts, no text and no template.
//!
//! Units are stated, never guessed: a source gives its share as one of six units, and a mix its size as rows, as
//! tokens or as all there is. What the sources with an amount of their own leave is shared among those with a weight.
//!
//! Which rows are taken depends on seed, source and row ids alone, in an order of its own for every source. So a
//! source that gives more keeps the rows it gave before, and neither other sources nor the size of the mix move it.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use anyhow::{Result, bail};
use serde::{Deserialize, Serialize};

use ablate_core::base::Seed;

/// How much one source gives.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Amount {
    /// A share, relative to the other weights, of what the sources with other units leave.
    Weight(f64),
    /// So many tokens, to the nearest row.
    Tokens(u64),
    Rows(usize),
    /// So many passes over the source; 1.5 is one pass and half of another.
    Epochs(f64),
    /// A fraction of the source, at most 1.
    Keep(f64),
    /// So many rows of each of its data sets.
    PerDataset(usize),
}

/// The size of the mix.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MixSize {
    Rows(usize),
    Tokens(u64),
    /// What the sources give; none may have a weight.
    All,
}

/// A source as far as a mix must know it.
#[derive(Clone, Debug)]
pub struct MixSource {
    pub name: String,
    /// One per row, unique within a data set: decides the order in which rows are taken.
    pub keys: Vec<String>,
    /// The data set of each row.
    pub datasets: Vec<String>,
    /// Tokens per row, where they are counted.
    pub tokens: Option<Vec<u64>>,
    pub amount: Amount,
    /// Whether `rows`, `tokens` or a weight may take more than there is.
    pub replace: bool,
}

/// What a source gave.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SourceStats {
    /// Rows that the source has.
    pub available: usize,
    /// Rows in the mix.
    pub rows: usize,
    /// Text tokens in the mix, where they were counted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tokens: Option<u64>,
    /// Rows in the mix for each row of the source.
    pub epochs: f64,
    /// Rows in the mix that are there for the second time or more often.
    pub repeated: usize,
    /// Rows that could not be used, by reason; they are not among those available.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub dropped: BTreeMap<String, usize>,
}

/// Amounts that make no sense together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AmountError {
    /// MixSource and unit of the amount that is wrong, where it is one.
    pub source: Option<(String, &'static str)>,
    message: String,
}

impl fmt::Display for AmountError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for AmountError {}

/// Whether the amounts of the sources make sense, which can be told before any row is there.
pub fn check<'a>(amounts: impl IntoIterator<Item = (&'a str, Amount)>, size: MixSize) -> Result<(), AmountError> {
    let wrong = |name: &str, unit, message| Err(AmountError { source: Some((name.to_string(), unit)), message });
    let mut weights = Vec::new();
    for (name, amount) in amounts {
        let (unit, value) = match amount {
            Amount::Weight(weight) => ("weight", weight),
            Amount::Epochs(epochs) => ("epochs", epochs),
            Amount::Keep(share) => ("keep", share),
            Amount::Rows(_) | Amount::Tokens(_) | Amount::PerDataset(_) => continue,
        };
        if !value.is_finite() || value < 0.0 {
            return wrong(name, unit, format!("source `{name}`: `{unit}` = {value} is not a number from 0 up"));
        }
        if unit == "keep" && value > 1.0 {
            let message = format!("source `{name}`: `keep` = {value} is more than all of it: `epochs` repeats rows");
            return wrong(name, unit, message);
        }
        if unit == "weight" {
            weights.push((name, value));
        }
    }
    if let (MixSize::All, Some((name, _))) = (size, weights.first()) {
        let message =
            format!("source `{name}` has a `weight`, which is a share of the mix: give the mix `rows` or `tokens`");
        return wrong(name, "weight", message);
    }
    if !weights.is_empty() && weights.iter().all(|(_, weight)| *weight == 0.0) {
        return Err(AmountError { source: None, message: "all weights are 0: nothing can be drawn".to_string() });
    }
    Ok(())
}

/// The rows that each source gives, as indices into its keys, in the order of `sources`.
pub fn sample(sources: &[MixSource], size: MixSize, max_epochs: Option<f64>, seed: Seed) -> Result<Vec<Vec<usize>>> {
    check(sources.iter().map(|source| (source.name.as_str(), source.amount)), size)?;
    let orders: Vec<SourceOrder> = sources.iter().map(|source| SourceOrder::new(source, seed)).collect();
    let mut counts: Vec<usize> = Vec::new();
    for order in &orders {
        let available = order.source.keys.len();
        counts.push(match order.source.amount {
            Amount::Weight(_) => 0,
            Amount::Rows(rows) => rows,
            Amount::Tokens(tokens) => order.rows_of(tokens)?,
            Amount::Epochs(epochs) => (epochs * available as f64).round() as usize,
            Amount::Keep(share) => (share * available as f64).round() as usize,
            Amount::PerDataset(rows) => rows.saturating_mul(order.datasets().len()),
        });
    }
    check_total(&orders, &counts)?;
    apportion_weights(&orders, size, &mut counts)?;
    check_total(&orders, &counts)?;
    for (order, &count) in orders.iter().zip(&counts) {
        let MixSource { name, keys, amount, .. } = order.source;
        match amount {
            Amount::PerDataset(rows) => {
                for (dataset, available) in order.datasets() {
                    let of = format!("source `{name}`, data set `{dataset}`,");
                    check_repetition(order.source, &of, *rows, available, max_epochs)?;
                }
            }
            _ => check_repetition(order.source, &format!("source `{name}`"), count, keys.len(), max_epochs)?,
        }
    }
    Ok(orders.iter().zip(counts).map(|(order, count)| order.give(count)).collect())
}

/// Facts about a source from which `taken` was drawn.
pub fn source_stats(source: &MixSource, taken: &[usize], dropped: BTreeMap<String, usize>) -> SourceStats {
    let available = source.keys.len();
    let tokens = source.tokens.as_ref().map(|tokens| taken.iter().map(|&row| tokens[row]).sum());
    let epochs = if available == 0 { 0.0 } else { taken.len() as f64 / available as f64 };
    SourceStats {
        available,
        rows: taken.len(),
        tokens,
        epochs,
        repeated: taken.len() - taken.iter().collect::<BTreeSet<_>>().len(),
        dropped,
    }
}

/// Gives the weighted sources their shares of what is left.
fn apportion_weights(orders: &[SourceOrder], size: MixSize, counts: &mut [usize]) -> Result<()> {
    let weighted: Vec<(usize, f64)> = orders
        .iter()
        .enumerate()
        .filter_map(|(index, order)| match order.source.amount {
            Amount::Weight(weight) => Some((index, weight)),
            _ => None,
        })
        .collect();
    let total: f64 = weighted.iter().map(|(_, weight)| weight).sum();
    match size {
        MixSize::All => {}
        MixSize::Rows(rows) => {
            let fixed: usize = counts.iter().sum();
            if fixed > rows || (weighted.is_empty() && fixed != rows) {
                bail!(
                    "the mix is to have {rows} rows, and the sources that state an amount give {fixed}: \
                     give one of them a `weight`, or leave out the size of the mix"
                );
            }
            let left = (rows - fixed) as f64;
            let exact: Vec<f64> = weighted.iter().map(|(_, weight)| left * weight / total).collect();
            for ((index, _), count) in weighted.iter().zip(largest_remainder(&exact, rows - fixed)) {
                counts[*index] = count;
            }
        }
        MixSize::Tokens(tokens) => {
            let mut fixed = 0;
            for (order, &count) in orders.iter().zip(counts.iter()) {
                fixed += order.tokens_of(count)?;
            }
            if weighted.is_empty() || fixed > tokens {
                bail!(
                    "the mix is to have {tokens} tokens, and the sources that state an amount give {fixed}: \
                     give one of them a `weight`, or leave out the size of the mix"
                );
            }
            for (index, weight) in weighted {
                counts[index] = orders[index].rows_of(((tokens - fixed) as f64 * weight / total).round() as u64)?;
            }
        }
    }
    Ok(())
}

/// Whole numbers near `exact` with the sum `total` (largest remainders; ties to the first).
fn largest_remainder(exact: &[f64], total: usize) -> Vec<usize> {
    let mut counts: Vec<usize> = exact.iter().map(|value| value.floor() as usize).collect();
    let mut order: Vec<usize> = (0..exact.len()).collect();
    order.sort_by(|&one, &other| (exact[other].fract()).total_cmp(&exact[one].fract()));
    let missing = total.saturating_sub(counts.iter().sum());
    for index in order.into_iter().take(missing) {
        counts[index] += 1;
    }
    counts
}

/// Whether `count` rows may be taken of `available` ones; `of` says of which.
fn check_repetition(
    source: &MixSource,
    of: &str,
    count: usize,
    available: usize,
    max_epochs: Option<f64>,
) -> Result<()> {
    if count > 0 && available == 0 {
        bail!("{of} is to give {count} rows and has none");
    }
    let repeats = source.replace || matches!(source.amount, Amount::Epochs(_));
    if count > available && !repeats {
        bail!("{of} is to give {count} rows and has {available}: `replace = true` lets rows come again");
    }
    if let Some(most) = max_epochs
        && count as f64 > most * available as f64
    {
        let epochs = count as f64 / available as f64;
        bail!("{of} would be repeated {epochs:.2} times ({count} rows of {available}): `max_epochs` = {most}");
    }
    Ok(())
}

/// Rows of a mix at most.
const MAX_ROWS: usize = 1_000_000_000;

/// Refuses what no memory holds: a slip in an amount.
fn check_total(orders: &[SourceOrder], counts: &[usize]) -> Result<()> {
    let all = counts.iter().fold(0usize, |all, count| all.saturating_add(*count));
    if let (true, Some((order, count))) = (all > MAX_ROWS, orders.iter().zip(counts).max_by_key(|(_, count)| **count)) {
        bail!("a mix has at most {MAX_ROWS} rows, and source `{}` alone is to give {count}", order.source.name);
    }
    Ok(())
}

/// The order in which a source gives its rows.
struct SourceOrder<'a> {
    source: &'a MixSource,
    seed: Seed,
}

impl SourceOrder<'_> {
    fn new(source: &MixSource, seed: Seed) -> SourceOrder<'_> {
        SourceOrder { source, seed: seed.derive(&format!("mix/{}", source.name)) }
    }

    /// How many rows each data set has.
    fn datasets(&self) -> BTreeMap<&str, usize> {
        let mut rows = BTreeMap::new();
        for dataset in &self.source.datasets {
            *rows.entry(dataset.as_str()).or_default() += 1;
        }
        rows
    }

    /// `count` rows by the source's unit.
    fn give(&self, count: usize) -> Vec<usize> {
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
    fn rows_of(&self, tokens: u64) -> Result<usize> {
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

    fn tokens_of(&self, count: usize) -> Result<u64> {
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

    fn source(name: &str, rows: usize, amount: Amount) -> MixSource {
        let keys: Vec<String> = (0..rows).map(|row| format!("{name}/{row}")).collect();
        let datasets = vec!["toy".to_string(); rows];
        MixSource { name: name.into(), tokens: Some(vec![10; rows]), keys, datasets, amount, replace: false }
    }

    fn counts(sources: &[MixSource], size: MixSize) -> Result<Vec<usize>, String> {
        let drawn = sample(sources, size, None, Seed(1)).map_err(|error| error.to_string())?;
        Ok(drawn.iter().map(Vec::len).collect())
    }

    #[test]
    fn each_unit_gives_what_it_says() {
        let sources = [
            source("a", 100, Amount::Rows(7)),
            source("b", 100, Amount::Keep(0.25)),
            source("c", 10, Amount::Epochs(2.5)),
            source("d", 100, Amount::Tokens(304)),
        ];
        assert_eq!(counts(&sources, MixSize::All).unwrap(), [7, 25, 25, 30]);
    }

    #[test]
    fn weights_share_what_the_others_leave() {
        let sources = [
            source("a", 100, Amount::Rows(10)),
            source("b", 100, Amount::Weight(2.0)),
            source("c", 100, Amount::Weight(1.0)),
            source("d", 100, Amount::Weight(0.0)),
        ];
        assert_eq!(counts(&sources, MixSize::Rows(60)).unwrap(), [10, 33, 17, 0]);
        assert_eq!(counts(&sources, MixSize::Tokens(700)).unwrap(), [10, 40, 20, 0]);
    }

    #[test]
    fn raising_a_ratio_adds_rows_and_keeps_those_it_had() {
        let drawn = |weight: f64| {
            let sources = [source("a", 500, Amount::Weight(weight)), source("b", 500, Amount::Weight(1.0 - weight))];
            sample(&sources, MixSize::Rows(400), None, Seed(3)).unwrap()
        };
        let (few, many) = (drawn(0.25), drawn(0.75));
        assert_eq!((few[0].len(), many[0].len()), (100, 300));
        assert_eq!(few[0], many[0][..100]);
        assert_eq!(many[1], few[1][..100]);
    }

    #[test]
    fn a_row_that_goes_leaves_the_others_in_order() {
        let all = source("a", 50, Amount::Rows(20));
        let mut fewer = all.clone();
        let gone = sample(std::slice::from_ref(&all), MixSize::All, None, Seed(0)).unwrap()[0][3];
        fewer.keys.remove(gone);
        let keys = |source: &MixSource| -> Vec<String> {
            let rows = sample(std::slice::from_ref(source), MixSize::All, None, Seed(0)).unwrap().remove(0);
            rows.into_iter().map(|row| source.keys[row].clone()).collect()
        };
        let mut expected = keys(&all);
        expected.remove(3);
        assert_eq!(keys(&fewer)[..19], expected);
    }

    #[test]
    fn rows_come_again_only_when_that_is_allowed() {
        let few = source("a", 10, Amount::Rows(25));
        assert_eq!(
            counts(std::slice::from_ref(&few), MixSize::All).unwrap_err(),
            "source `a` is to give 25 rows and has 10: `replace = true` lets rows come again"
        );
        let again = MixSource { replace: true, ..few };
        let rows = sample(std::slice::from_ref(&again), MixSize::All, None, Seed(1)).unwrap().remove(0);
        let mut first: Vec<usize> = rows[..10].to_vec();
        first.sort_unstable();
        assert_eq!(first, (0..10).collect::<Vec<_>>());
        assert_ne!(rows[..10], rows[10..20]);
        assert_eq!(source_stats(&again, &rows, BTreeMap::new()).repeated, 15);
        assert_eq!(
            sample(&[again], MixSize::All, Some(2.0), Seed(1)).unwrap_err().to_string(),
            "source `a` would be repeated 2.50 times (25 rows of 10): `max_epochs` = 2"
        );
    }

    #[test]
    fn each_data_set_must_have_its_rows() {
        let each = |rows, replace| {
            let mut source = MixSource { replace, ..source("f", 10, Amount::PerDataset(rows)) };
            source.datasets[7..].fill("rare".to_string());
            source
        };
        assert_eq!(counts(&[each(3, false)], MixSize::All).unwrap(), [6]);
        assert_eq!(
            counts(&[each(3, false), source("a", 50, Amount::Weight(1.0))], MixSize::Rows(20)).unwrap(),
            [6, 14]
        );
        assert_eq!(
            counts(&[each(4, false)], MixSize::All).unwrap_err(),
            "source `f`, data set `rare`, is to give 4 rows and has 3: `replace = true` lets rows come again"
        );
        let again = each(4, true);
        let rows = sample(std::slice::from_ref(&again), MixSize::All, None, Seed(1)).unwrap().remove(0);
        assert_eq!((rows.len(), source_stats(&again, &rows, BTreeMap::new()).repeated), (8, 1));
        assert_eq!(
            sample(&[again], MixSize::All, Some(1.0), Seed(1)).unwrap_err().to_string(),
            "source `f`, data set `rare`, would be repeated 1.33 times (4 rows of 3): `max_epochs` = 1"
        );
    }

    #[test]
    fn a_source_of_weight_0_gives_nothing_even_if_it_has_nothing() {
        let sources = |rows| [source("a", 50, Amount::Weight(1.0)), source("b", rows, Amount::Weight(0.0))];
        for size in [MixSize::Rows(31), MixSize::Tokens(310)] {
            assert_eq!(counts(&sources(50), size).unwrap(), [31, 0]);
            assert_eq!(
                sample(&sources(0), size, Some(1.0), Seed(2)).unwrap(),
                sample(&sources(9), size, None, Seed(2)).unwrap()
            );
        }
    }

    #[test]
    fn wrong_amounts_are_errors() {
        let told = |amount, size| counts(&[source("a", 10, amount)], size).unwrap_err();
        assert_eq!(told(Amount::Weight(-1.0), MixSize::Rows(5)), "source `a`: `weight` = -1 is not a number from 0 up");
        assert_eq!(told(Amount::Weight(0.0), MixSize::Rows(5)), "all weights are 0: nothing can be drawn");
        assert_eq!(
            told(Amount::Weight(1.0), MixSize::All),
            "source `a` has a `weight`, which is a share of the mix: give the mix `rows` or `tokens`"
        );
        assert_eq!(
            told(Amount::Keep(1.5), MixSize::All),
            "source `a`: `keep` = 1.5 is more than all of it: `epochs` repeats rows"
        );
        assert!(told(Amount::Rows(9), MixSize::Rows(5)).starts_with("the mix is to have 5 rows, and the sources"));
        assert!(told(Amount::Rows(3), MixSize::Rows(5)).contains("give 3: give one of them a `weight`"));
        assert!(told(Amount::Epochs(f64::NAN), MixSize::All).contains("is not a number"));
        let uncounted = MixSource { tokens: None, ..source("a", 10, Amount::Tokens(50)) };
        assert_eq!(
            counts(&[uncounted], MixSize::All).unwrap_err(),
            "tokens cannot be counted: the mix has no `tokenizer`"
        );
        assert_eq!(
            counts(&[source("a", 0, Amount::Rows(1))], MixSize::All).unwrap_err(),
            "source `a` is to give 1 rows and has none"
        );
    }

    /// 5 rows of `chart` and 3 of `doc`, in turn.
    fn two_datasets(rows: usize) -> MixSource {
        let datasets = ["chart", "doc", "chart", "doc", "chart", "doc", "chart", "chart"].map(str::to_string).to_vec();
        let keys = (0..8).map(|row| format!("{}/{row}", datasets[row])).collect();
        MixSource { name: "f".into(), tokens: None, keys, datasets, amount: Amount::PerDataset(rows), replace: true }
    }

    fn drawn(rows: usize) -> Vec<usize> {
        SourceOrder::new(&two_datasets(rows), Seed(4)).give(0)
    }

    #[test]
    fn every_data_set_gives_so_many_rows_and_a_larger_number_keeps_them() {
        let of = |rows: &[usize], dataset: &str| {
            rows.iter().filter(|row| two_datasets(1).datasets[**row] == dataset).copied().collect::<Vec<_>>()
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
