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

use super::mix_order::{self, Order};
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
pub enum Size {
    Rows(usize),
    Tokens(u64),
    /// What the sources give; none may have a weight.
    All,
}

/// A source as far as a mix must know it.
#[derive(Clone, Debug)]
pub struct Source {
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
pub struct SourceFacts {
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
pub struct Misfit {
    /// Source and unit of the amount that is wrong, where it is one.
    pub amount: Option<(String, &'static str)>,
    message: String,
}

impl fmt::Display for Misfit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Misfit {}

/// Whether the amounts of the sources make sense, which can be told before any row is there.
pub fn check<'a>(amounts: impl IntoIterator<Item = (&'a str, Amount)>, size: Size) -> Result<(), Misfit> {
    let wrong = |name: &str, unit, message| Err(Misfit { amount: Some((name.to_string(), unit)), message });
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
    if let (Size::All, Some((name, _))) = (size, weights.first()) {
        let message =
            format!("source `{name}` has a `weight`, which is a share of the mix: give the mix `rows` or `tokens`");
        return wrong(name, "weight", message);
    }
    if !weights.is_empty() && weights.iter().all(|(_, weight)| *weight == 0.0) {
        return Err(Misfit { amount: None, message: "all weights are 0: nothing can be drawn".to_string() });
    }
    Ok(())
}

/// The rows that each source gives, as indices into its keys, in the order of `sources`.
pub fn draw(sources: &[Source], size: Size, max_epochs: Option<f64>, seed: Seed) -> Result<Vec<Vec<usize>>> {
    check(sources.iter().map(|source| (source.name.as_str(), source.amount)), size)?;
    let orders: Vec<Order> = sources.iter().map(|source| Order::new(source, seed)).collect();
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
    mix_order::few_enough(&orders, &counts)?;
    share_out(&orders, size, &mut counts)?;
    mix_order::few_enough(&orders, &counts)?;
    for (order, &count) in orders.iter().zip(&counts) {
        let Source { name, keys, amount, .. } = order.source;
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
pub fn facts(source: &Source, taken: &[usize], dropped: BTreeMap<String, usize>) -> SourceFacts {
    let available = source.keys.len();
    let tokens = source.tokens.as_ref().map(|tokens| taken.iter().map(|&row| tokens[row]).sum());
    let epochs = if available == 0 { 0.0 } else { taken.len() as f64 / available as f64 };
    SourceFacts {
        available,
        rows: taken.len(),
        tokens,
        epochs,
        repeated: taken.len() - taken.iter().collect::<BTreeSet<_>>().len(),
        dropped,
    }
}

/// Gives the weighted sources their shares of what is left.
fn share_out(orders: &[Order], size: Size, counts: &mut [usize]) -> Result<()> {
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
        Size::All => {}
        Size::Rows(rows) => {
            let fixed: usize = counts.iter().sum();
            if fixed > rows || (weighted.is_empty() && fixed != rows) {
                bail!(
                    "the mix is to have {rows} rows, and the sources that state an amount give {fixed}: \
                     give one of them a `weight`, or leave out the size of the mix"
                );
            }
            let left = (rows - fixed) as f64;
            let exact: Vec<f64> = weighted.iter().map(|(_, weight)| left * weight / total).collect();
            for ((index, _), count) in weighted.iter().zip(whole(&exact, rows - fixed)) {
                counts[*index] = count;
            }
        }
        Size::Tokens(tokens) => {
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
fn whole(exact: &[f64], total: usize) -> Vec<usize> {
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
fn check_repetition(source: &Source, of: &str, count: usize, available: usize, max_epochs: Option<f64>) -> Result<()> {
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

#[cfg(test)]
mod tests {
    use super::*;

    fn source(name: &str, rows: usize, amount: Amount) -> Source {
        let keys: Vec<String> = (0..rows).map(|row| format!("{name}/{row}")).collect();
        let datasets = vec!["toy".to_string(); rows];
        Source { name: name.into(), tokens: Some(vec![10; rows]), keys, datasets, amount, replace: false }
    }

    fn counts(sources: &[Source], size: Size) -> Result<Vec<usize>, String> {
        let drawn = draw(sources, size, None, Seed(1)).map_err(|error| error.to_string())?;
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
        assert_eq!(counts(&sources, Size::All).unwrap(), [7, 25, 25, 30]);
    }

    #[test]
    fn weights_share_what_the_others_leave() {
        let sources = [
            source("a", 100, Amount::Rows(10)),
            source("b", 100, Amount::Weight(2.0)),
            source("c", 100, Amount::Weight(1.0)),
            source("d", 100, Amount::Weight(0.0)),
        ];
        assert_eq!(counts(&sources, Size::Rows(60)).unwrap(), [10, 33, 17, 0]);
        assert_eq!(counts(&sources, Size::Tokens(700)).unwrap(), [10, 40, 20, 0]);
    }

    #[test]
    fn raising_a_ratio_adds_rows_and_keeps_those_it_had() {
        let drawn = |weight: f64| {
            let sources = [source("a", 500, Amount::Weight(weight)), source("b", 500, Amount::Weight(1.0 - weight))];
            draw(&sources, Size::Rows(400), None, Seed(3)).unwrap()
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
        let gone = draw(std::slice::from_ref(&all), Size::All, None, Seed(0)).unwrap()[0][3];
        fewer.keys.remove(gone);
        let keys = |source: &Source| -> Vec<String> {
            let rows = draw(std::slice::from_ref(source), Size::All, None, Seed(0)).unwrap().remove(0);
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
            counts(std::slice::from_ref(&few), Size::All).unwrap_err(),
            "source `a` is to give 25 rows and has 10: `replace = true` lets rows come again"
        );
        let again = Source { replace: true, ..few };
        let rows = draw(std::slice::from_ref(&again), Size::All, None, Seed(1)).unwrap().remove(0);
        let mut first: Vec<usize> = rows[..10].to_vec();
        first.sort_unstable();
        assert_eq!(first, (0..10).collect::<Vec<_>>());
        assert_ne!(rows[..10], rows[10..20]);
        assert_eq!(facts(&again, &rows, BTreeMap::new()).repeated, 15);
        assert_eq!(
            draw(&[again], Size::All, Some(2.0), Seed(1)).unwrap_err().to_string(),
            "source `a` would be repeated 2.50 times (25 rows of 10): `max_epochs` = 2"
        );
    }

    #[test]
    fn each_data_set_must_have_its_rows() {
        let each = |rows, replace| {
            let mut source = Source { replace, ..source("f", 10, Amount::PerDataset(rows)) };
            source.datasets[7..].fill("rare".to_string());
            source
        };
        assert_eq!(counts(&[each(3, false)], Size::All).unwrap(), [6]);
        assert_eq!(counts(&[each(3, false), source("a", 50, Amount::Weight(1.0))], Size::Rows(20)).unwrap(), [6, 14]);
        assert_eq!(
            counts(&[each(4, false)], Size::All).unwrap_err(),
            "source `f`, data set `rare`, is to give 4 rows and has 3: `replace = true` lets rows come again"
        );
        let again = each(4, true);
        let rows = draw(std::slice::from_ref(&again), Size::All, None, Seed(1)).unwrap().remove(0);
        assert_eq!((rows.len(), facts(&again, &rows, BTreeMap::new()).repeated), (8, 1));
        assert_eq!(
            draw(&[again], Size::All, Some(1.0), Seed(1)).unwrap_err().to_string(),
            "source `f`, data set `rare`, would be repeated 1.33 times (4 rows of 3): `max_epochs` = 1"
        );
    }

    #[test]
    fn a_source_of_weight_0_gives_nothing_even_if_it_has_nothing() {
        let sources = |rows| [source("a", 50, Amount::Weight(1.0)), source("b", rows, Amount::Weight(0.0))];
        for size in [Size::Rows(31), Size::Tokens(310)] {
            assert_eq!(counts(&sources(50), size).unwrap(), [31, 0]);
            assert_eq!(
                draw(&sources(0), size, Some(1.0), Seed(2)).unwrap(),
                draw(&sources(9), size, None, Seed(2)).unwrap()
            );
        }
    }

    #[test]
    fn wrong_amounts_are_errors() {
        let told = |amount, size| counts(&[source("a", 10, amount)], size).unwrap_err();
        assert_eq!(told(Amount::Weight(-1.0), Size::Rows(5)), "source `a`: `weight` = -1 is not a number from 0 up");
        assert_eq!(told(Amount::Weight(0.0), Size::Rows(5)), "all weights are 0: nothing can be drawn");
        assert_eq!(
            told(Amount::Weight(1.0), Size::All),
            "source `a` has a `weight`, which is a share of the mix: give the mix `rows` or `tokens`"
        );
        assert_eq!(
            told(Amount::Keep(1.5), Size::All),
            "source `a`: `keep` = 1.5 is more than all of it: `epochs` repeats rows"
        );
        assert!(told(Amount::Rows(9), Size::Rows(5)).starts_with("the mix is to have 5 rows, and the sources"));
        assert!(told(Amount::Rows(3), Size::Rows(5)).contains("give 3: give one of them a `weight`"));
        assert!(told(Amount::Epochs(f64::NAN), Size::All).contains("is not a number"));
        let uncounted = Source { tokens: None, ..source("a", 10, Amount::Tokens(50)) };
        assert_eq!(
            counts(&[uncounted], Size::All).unwrap_err(),
            "tokens cannot be counted: the mix has no `tokenizer`"
        );
        assert_eq!(
            counts(&[source("a", 0, Amount::Rows(1))], Size::All).unwrap_err(),
            "source `a` is to give 1 rows and has none"
        );
    }
}
