//! Sequences that are longer than the model takes: an error, left out, or cut, as the stage says. Knows no kind.

use anyhow::{Result, anyhow};
use serde::{Deserialize, Serialize};

use ablate_core::base::wrong_input;
use ablate_data::jsonl::ErrorList;
use ablate_data::tokens::TooLong;

/// What becomes of a sequence that is longer than the model takes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, schemars::JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(super) enum Long {
    /// The stage fails.
    #[default]
    Error,
    /// It is left out.
    Drop,
    /// A response loses its end, a question that is asked its beginning; an image loses nothing.
    Truncate,
}

/// What of the rows has room.
#[derive(Debug)]
pub(super) struct Fitted<T> {
    /// The places of the rows that stay, ascending.
    pub(super) places: Vec<usize>,
    /// Their sequences.
    pub(super) sequences: Vec<T>,
    pub(super) warnings: Vec<String>,
}

/// Lays out `rows`, which are called `what` ("rows"). `whole` makes a sequence or says that it is too long; `cut` makes a
/// shorter one, or none where nothing of use has room. `loses` is what a cut takes away.
pub(super) fn fit<R, T>(
    rows: &[R],
    (what, loses): (&str, &str),
    long: Long,
    whole: impl Fn(&R) -> Result<T>,
    cut: impl Fn(&R) -> Result<Option<T>>,
) -> Result<Fitted<T>> {
    let (mut places, mut sequences) = (Vec::with_capacity(rows.len()), Vec::with_capacity(rows.len()));
    let mut mistakes = ErrorList::default();
    let (mut shortened, mut useless, mut dropped) = (0, 0, 0);
    for (place, row) in rows.iter().enumerate() {
        let sequence = match (whole(row), long) {
            (Err(error), Long::Error) if TooLong::is(&error) => {
                mistakes.add(format!("{error:#}"));
                None
            }
            (Err(error), Long::Drop) if TooLong::is(&error) => {
                dropped += 1;
                None
            }
            (Err(error), Long::Truncate) if TooLong::is(&error) => {
                let sequence = cut(row)?;
                match sequence {
                    Some(_) => shortened += 1,
                    None => useless += 1,
                }
                sequence
            }
            (whole, _) => Some(whole?),
        };
        if let Some(sequence) = sequence {
            places.push(place);
            sequences.push(sequence);
        }
    }
    mistakes.check().map_err(|error| {
        let help = format!("`too_long = \"drop\"` leaves such {what} out, `too_long = \"truncate\"` cuts {loses}");
        wrong_input(anyhow!("{error}\n{help}"))
    })?;
    let all = rows.len();
    if sequences.is_empty() && all > 0 {
        return Err(wrong_input(anyhow!("all {all} {what} are longer than the model takes: none is left")));
    }
    let warnings = [
        (dropped, "are longer than the model takes and left out".to_string()),
        (shortened, format!("are longer than the model takes: {loses} is cut")),
        (useless, "are left out: cut to what the model takes, nothing of use is left of them".to_string()),
    ];
    let told = |(count, fate): (usize, String)| (count > 0).then(|| format!("{count} of {all} {what} {fate}"));
    Ok(Fitted { places, sequences, warnings: warnings.into_iter().filter_map(told).collect() })
}

/// The rows at some places.
pub(super) fn at<R>(rows: Vec<R>, places: &[usize]) -> Vec<R> {
    let mut rows: Vec<Option<R>> = rows.into_iter().map(Some).collect();
    places.iter().filter_map(|&place| rows[place].take()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Places, sequences and warnings, or an error.
    type Told = Result<(Vec<usize>, Vec<usize>, Vec<String>), String>;

    /// Rows are their own lengths; the model takes four, and two are of no use.
    fn fitted(rows: &[usize], long: Long) -> Told {
        let whole = |row: &usize| match *row {
            tokens @ 5.. => Err(anyhow::Error::from(TooLong { tokens, most: 4 }).context(format!("row {tokens}"))),
            row => Ok(row),
        };
        let cut = |row: &usize| Ok((*row < 20).then_some(4));
        fit(rows, ("rows", "the end"), long, whole, cut)
            .map(|Fitted { places, sequences, warnings }| (places, sequences, warnings))
            .map_err(|error| error.to_string())
    }

    #[test]
    fn rows_that_are_too_long_are_an_error_or_left_out_or_cut() {
        let rows = [3, 9, 4, 30, 1];
        assert_eq!(
            fitted(&rows, Long::Error).unwrap_err(),
            "row 9: the sequence has 9 tokens, and the model takes 4\n\
             row 30: the sequence has 30 tokens, and the model takes 4\n\
             `too_long = \"drop\"` leaves such rows out, `too_long = \"truncate\"` cuts the end"
        );
        let told = |texts: &[&str]| texts.iter().map(ToString::to_string).collect::<Vec<_>>();
        assert_eq!(
            fitted(&rows, Long::Drop).unwrap(),
            (vec![0, 2, 4], vec![3, 4, 1], told(&["2 of 5 rows are longer than the model takes and left out"]))
        );
        let cut = [
            "1 of 5 rows are longer than the model takes: the end is cut",
            "1 of 5 rows are left out: cut to what the model takes, nothing of use is left of them",
        ];
        assert_eq!(fitted(&rows, Long::Truncate).unwrap(), (vec![0, 1, 2, 4], vec![3, 4, 4, 1], told(&cut)));
        for long in [Long::Error, Long::Drop, Long::Truncate] {
            assert_eq!(fitted(&[4, 1], long).unwrap(), (vec![0, 1], vec![4, 1], vec![]));
        }
        let none = "all 2 rows are longer than the model takes: none is left";
        assert_eq!(fitted(&[30, 40], Long::Truncate).unwrap_err(), none);
        assert_eq!(fitted(&[30, 40], Long::Drop).unwrap_err(), none);
        assert_eq!(at(vec!["a", "b", "c"], &[0, 2]), ["a", "c"]);
    }
}
