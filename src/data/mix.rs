//! Decides how many rows and which rows of each source a mix contains.
//!
//! A source states its amount in one of six units; a mix states its size in rows, in tokens or as "all". What the
//! sources with a fixed amount leave is divided among the sources with a weight.
//!
//! Which rows are taken depends only on the seed, the source's name and the row keys. So a source that gives more rows
//! keeps the rows that it gave before, and neither other sources nor the size of the mix change the choice.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use anyhow::{Result, bail};
use serde::{Deserialize, Serialize};

use ablate_core::base::Seed;

/// The amount that a source gives.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Amount {
    /// A share, relative to the other weights, of what the sources with other units leave.
    Weight(f64),
    /// A number of tokens, to the nearest row.
    Tokens(u64),
    Rows(usize),
    /// A number of passes over the source; 1.5 is one pass and half of another.
    Epochs(f64),
    /// A fraction of the source, at most 1.
    Keep(f64),
    /// A number of rows of each of its data sets.
    PerDataset(usize),
}

/// The size of the mix.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MixSize {
    Rows(usize),
    Tokens(u64),
    /// The sum of the sources' amounts; no source may have a weight.
    All,
}

/// A source of rows.
#[derive(Clone, Debug)]
pub struct MixSource {
    pub name: String,
    /// A key per row, unique within a data set. The key decides the position of the row in the order.
    pub keys: Vec<String>,
    /// The data set of each row.
    pub datasets: Vec<String>,
    /// Tokens per row, if counted.
    pub tokens: Option<Vec<u64>>,
    pub amount: Amount,
    /// Whether `rows`, `tokens` or a weight may exceed the available rows.
    pub replace: bool,
}

/// Statistics of a source in a mix.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SourceStats {
    /// Rows of the source.
    pub available: usize,
    /// Rows in the mix.
    pub rows: usize,
    /// Text tokens in the mix, if counted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tokens: Option<u64>,
    /// Rows in the mix per row of the source.
    pub epochs: f64,
    /// Repetitions of rows in the mix.
    pub repeated: usize,
    /// Unusable rows by reason; they do not count as available.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub dropped: BTreeMap<String, usize>,
}

/// An invalid amount, or amounts that do not fit together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AmountError {
    /// Source and unit of the invalid amount, if a single one is invalid.
    pub source: Option<(String, &'static str)>,
    message: String,
}

impl fmt::Display for AmountError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for AmountError {}

/// Checks the amounts before any row is read.
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
            return wrong(name, unit, format!("source `{name}`: `{unit}` = {value} must be a number of at least 0"));
        }
        if unit == "keep" && value > 1.0 {
            let message = format!("source `{name}`: `keep` = {value} is above 1; to repeat rows use `epochs`");
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
        return Err(AmountError { source: None, message: "all weights are 0".to_string() });
    }
    Ok(())
}

/// The rows that each source gives: indices into its keys, in the order of `sources`.
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

/// Statistics of a source of which the rows `taken` are in the mix.
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

/// Divides the rest of the mix among the weighted sources.
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
                    "the mix has {rows} rows, but the sources with a fixed amount give {fixed}: \
                     give one of them a `weight`, or remove the size of the mix"
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
                    "the mix has {tokens} tokens, but the sources with a fixed amount give {fixed}: \
                     give one of them a `weight`, or remove the size of the mix"
                );
            }
            for (index, weight) in weighted {
                counts[index] = orders[index].rows_of(((tokens - fixed) as f64 * weight / total).round() as u64)?;
            }
        }
    }
    Ok(())
}

/// Rounds `exact` to integers with the sum `total`: largest remainder method, ties to the first.
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

/// Checks that `count` of the `available` rows may be taken; `of` names the source in errors.
fn check_repetition(source: &MixSource, of: &str, count: usize, available: usize, max: Option<f64>) -> Result<()> {
    if count > 0 && available == 0 {
        bail!("{of} must give {count} rows but has none");
    }
    let repeats = source.replace || matches!(source.amount, Amount::Epochs(_));
    if count > available && !repeats {
        bail!("{of} must give {count} rows but has {available}; `replace = true` allows repeated rows");
    }
    if let Some(max) = max
        && count as f64 > max * available as f64
    {
        let epochs = count as f64 / available as f64;
        bail!("{of} would be repeated {epochs:.2} times ({count} rows of {available}): `max_epochs` = {max}");
    }
    Ok(())
}

/// Maximum number of rows of a mix.
const MAX_ROWS: usize = 1_000_000_000;

/// Refuses a mix that does not fit into memory, usually because of a typo in an amount.
fn check_total(orders: &[SourceOrder], counts: &[usize]) -> Result<()> {
    let all = counts.iter().fold(0usize, |all, count| all.saturating_add(*count));
    if let (true, Some((order, count))) = (all > MAX_ROWS, orders.iter().zip(counts).max_by_key(|(_, count)| **count)) {
        bail!("a mix has at most {MAX_ROWS} rows, but source `{}` alone gives {count}", order.source.name);
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

    /// Number of rows of each data set.
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

    /// The first `wanted` rows of each data set, in the order of [`SourceOrder::take`].
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

    /// The first `count` rows. Every pass over the source has a different order.
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

    /// All rows, sorted by a rank that depends only on the row's key: adding or removing a row does not reorder the
    /// others.
    fn epoch(&self, epoch: usize) -> Vec<usize> {
        let seed = self.seed.derive(&format!("epoch/{epoch}"));
        let mut ranked: Vec<(u64, usize)> =
            self.source.keys.iter().enumerate().map(|(index, key)| (seed.derive(key).0, index)).collect();
        ranked.sort_unstable();
        ranked.into_iter().map(|(_, index)| index).collect()
    }

    /// The number of rows whose total is nearest to a number of tokens.
    fn rows_of(&self, tokens: u64) -> Result<usize> {
        let lengths = self.lengths()?;
        let whole: u64 = lengths.iter().sum();
        if whole == 0 || tokens == 0 {
            if tokens > 0 {
                bail!("source `{}` must give {tokens} tokens but has none", self.source.name);
            }
            return Ok(0);
        }
        let passes = (tokens / whole) as usize;
        let mut left = tokens % whole;
        let mut count = passes.saturating_mul(lengths.len());
        for row in self.epoch(passes) {
            // A row is included if more than half of it fits.
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

    /// The rows of a mix of one source.
    fn rows_of(source: &MixSource, seed: Seed) -> Vec<usize> {
        sample(std::slice::from_ref(source), MixSize::All, None, seed).unwrap().remove(0)
    }

    #[test]
    fn each_unit_gives_its_amount() {
        let sources = [
            source("a", 100, Amount::Rows(7)),
            source("b", 100, Amount::Keep(0.25)),
            source("c", 10, Amount::Epochs(2.5)),
            source("d", 100, Amount::Tokens(304)),
        ];
        assert_eq!(counts(&sources, MixSize::All).unwrap(), [7, 25, 25, 30]);
    }

    #[test]
    fn weights_divide_the_rest() {
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
    fn a_larger_share_keeps_the_smaller_ones_rows() {
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
    fn removing_a_row_keeps_the_order_of_the_others() {
        let all = source("a", 50, Amount::Rows(20));
        let mut fewer = all.clone();
        let gone = rows_of(&all, Seed(0))[3];
        fewer.keys.remove(gone);
        let keys = |source: &MixSource| -> Vec<String> {
            rows_of(source, Seed(0)).into_iter().map(|row| source.keys[row].clone()).collect()
        };
        let mut expected = keys(&all);
        expected.remove(3);
        assert_eq!(keys(&fewer)[..19], expected);
    }

    #[test]
    fn rows_repeat_only_if_allowed() {
        let few = source("a", 10, Amount::Rows(25));
        assert_eq!(
            counts(std::slice::from_ref(&few), MixSize::All).unwrap_err(),
            "source `a` must give 25 rows but has 10; `replace = true` allows repeated rows"
        );
        let again = MixSource { replace: true, ..few };
        let rows = rows_of(&again, Seed(1));
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
    fn each_data_set_needs_enough_rows() {
        let each = |rows, replace| {
            let mut source = MixSource { replace, ..source("f", 10, Amount::PerDataset(rows)) };
            source.datasets[7..].fill("rare".to_string());
            source
        };
        assert_eq!(counts(&[each(3, false)], MixSize::All).unwrap(), [6]);
        let with_weight = [each(3, false), source("a", 50, Amount::Weight(1.0))];
        assert_eq!(counts(&with_weight, MixSize::Rows(20)).unwrap(), [6, 14]);
        assert_eq!(
            counts(&[each(4, false)], MixSize::All).unwrap_err(),
            "source `f`, data set `rare`, must give 4 rows but has 3; `replace = true` allows repeated rows"
        );
        let again = each(4, true);
        let rows = rows_of(&again, Seed(1));
        assert_eq!((rows.len(), source_stats(&again, &rows, BTreeMap::new()).repeated), (8, 1));
        assert_eq!(
            sample(&[again], MixSize::All, Some(1.0), Seed(1)).unwrap_err().to_string(),
            "source `f`, data set `rare`, would be repeated 1.33 times (4 rows of 3): `max_epochs` = 1"
        );
    }

    #[test]
    fn an_empty_source_of_weight_0_is_allowed() {
        let sources = |rows| [source("a", 50, Amount::Weight(1.0)), source("b", rows, Amount::Weight(0.0))];
        for size in [MixSize::Rows(31), MixSize::Tokens(310)] {
            assert_eq!(counts(&sources(50), size).unwrap(), [31, 0]);
            let few = sample(&sources(0), size, Some(1.0), Seed(2)).unwrap();
            assert_eq!(few, sample(&sources(9), size, None, Seed(2)).unwrap());
        }
    }

    #[test]
    fn invalid_amounts_are_errors() {
        let error = |amount, size| counts(&[source("a", 10, amount)], size).unwrap_err();
        let uncounted = MixSource { tokens: None, ..source("a", 10, Amount::Tokens(50)) };
        let messages = [
            error(Amount::Weight(-1.0), MixSize::Rows(5)),
            error(Amount::Weight(0.0), MixSize::Rows(5)),
            error(Amount::Weight(1.0), MixSize::All),
            error(Amount::Keep(1.5), MixSize::All),
            counts(&[uncounted], MixSize::All).unwrap_err(),
            counts(&[source("a", 0, Amount::Rows(1))], MixSize::All).unwrap_err(),
        ];
        expect_test::expect![[r"
            source `a`: `weight` = -1 must be a number of at least 0
            all weights are 0
            source `a` has a `weight`, which is a share of the mix: give the mix `rows` or `tokens`
            source `a`: `keep` = 1.5 is above 1; to repeat rows use `epochs`
            tokens cannot be counted: the mix has no `tokenizer`
            source `a` must give 1 rows but has none"]]
        .assert_eq(&messages.join("\n"));
        assert!(error(Amount::Rows(9), MixSize::Rows(5)).starts_with("the mix has 5 rows, but the sources"));
        assert!(error(Amount::Rows(3), MixSize::Rows(5)).contains("give 3: give one of them a `weight`"));
        assert!(error(Amount::Epochs(f64::NAN), MixSize::All).contains("must be a number"));
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
    fn per_dataset_gives_rows_of_every_data_set() {
        let of = |rows: &[usize], dataset: &str| {
            rows.iter().filter(|row| two_datasets(1).datasets[**row] == dataset).copied().collect::<Vec<_>>()
        };
        let (two, three, four) = (drawn(2), drawn(3), drawn(4));
        for dataset in ["chart", "doc"] {
            assert_eq!((of(&two, dataset).len(), of(&four, dataset).len()), (2, 4));
            assert_eq!(of(&two, dataset), of(&three, dataset)[..2]);
            assert_eq!(of(&three, dataset), of(&four, dataset)[..3]);
        }
        // The fourth row of a data set of three is a repetition.
        let mut docs = of(&four, "doc");
        docs.sort_unstable();
        docs.dedup();
        assert_eq!(docs, [1, 3, 5]);
        assert!(drawn(0).is_empty());
    }
}
