//! The key `too_long`: encodes rows as token sequences, and reports, drops or truncates those that exceed the context
//! length of the model.

use anyhow::{Result, anyhow};
use serde::{Deserialize, Serialize};

use ablate_core::base::wrong_input;
use ablate_data::jsonl::ErrorList;
use ablate_data::tokens::TooLong;

/// What happens to a sequence that exceeds the context length.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, schemars::JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(super) enum TooLongAction {
    /// The stage fails.
    #[default]
    Error,
    /// It is dropped.
    Drop,
    /// A response loses its end, and the text of a prompt its beginning. Image tokens are never truncated.
    Truncate,
}

/// The encoded rows.
#[derive(Debug)]
pub(super) struct Encoded<T> {
    /// The indices of the rows that were not dropped, ascending.
    pub(super) indices: Vec<usize>,
    /// Their sequences.
    pub(super) sequences: Vec<T>,
    pub(super) warnings: Vec<String>,
}

/// Encodes rows. `encode` fails with [`TooLong`] for a row that exceeds the context length; `encode_truncated` then
/// returns a shorter sequence, or `None` if nothing useful fits. `what` is the word for the rows in messages, `removed`
/// the part that truncation removes.
pub(super) fn encode<R, T>(
    rows: &[R],
    (what, removed): (&str, &str),
    action: TooLongAction,
    encode: impl Fn(&R) -> Result<T>,
    encode_truncated: impl Fn(&R) -> Result<Option<T>>,
) -> Result<Encoded<T>> {
    let (mut indices, mut sequences) = (Vec::with_capacity(rows.len()), Vec::with_capacity(rows.len()));
    let mut mistakes = ErrorList::default();
    let (mut truncated, mut useless, mut dropped) = (0, 0, 0);
    for (index, row) in rows.iter().enumerate() {
        let sequence = match (encode(row), action) {
            (Err(error), TooLongAction::Error) if TooLong::is(&error) => {
                mistakes.add(format!("{error:#}"));
                None
            }
            (Err(error), TooLongAction::Drop) if TooLong::is(&error) => {
                dropped += 1;
                None
            }
            (Err(error), TooLongAction::Truncate) if TooLong::is(&error) => {
                let sequence = encode_truncated(row)?;
                match sequence {
                    Some(_) => truncated += 1,
                    None => useless += 1,
                }
                sequence
            }
            (encoded, _) => Some(encoded?),
        };
        if let Some(sequence) = sequence {
            indices.push(index);
            sequences.push(sequence);
        }
    }
    mistakes.check().map_err(|error| {
        let help =
            format!("help: `too_long = \"drop\"` drops such {what}, `too_long = \"truncate\"` removes {removed}");
        wrong_input(anyhow!("{error}\n{help}"))
    })?;
    let all = rows.len();
    if sequences.is_empty() && all > 0 {
        return Err(wrong_input(anyhow!("all {all} {what} exceed the context length of the model")));
    }
    let warnings = [
        (dropped, "exceed the context length and are dropped".to_string()),
        (truncated, format!("exceed the context length and lose {removed}")),
        (useless, "are dropped: truncated to the context length they have no useful tokens".to_string()),
    ];
    let warning = |(count, outcome): (usize, String)| (count > 0).then(|| format!("{count} of {all} {what} {outcome}"));
    Ok(Encoded { indices, sequences, warnings: warnings.into_iter().filter_map(warning).collect() })
}

/// The rows at ascending indices.
pub(super) fn select<R>(rows: Vec<R>, indices: &[usize]) -> Vec<R> {
    let mut rows: Vec<Option<R>> = rows.into_iter().map(Some).collect();
    indices.iter().filter_map(|&index| rows[index].take()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Indices, sequences and warnings, or an error message.
    type Outcome = Result<(Vec<usize>, Vec<usize>, Vec<String>), String>;

    /// Rows are their own lengths. The context length is 4, and rows from 20 have no useful truncation.
    fn outcome(rows: &[usize], action: TooLongAction) -> Outcome {
        let whole = |row: &usize| match *row {
            tokens @ 5.. => Err(anyhow::Error::from(TooLong { tokens, max: 4 }).context(format!("row {tokens}"))),
            row => Ok(row),
        };
        let cut = |row: &usize| Ok((*row < 20).then_some(4));
        encode(rows, ("rows", "the end"), action, whole, cut)
            .map(|Encoded { indices, sequences, warnings }| (indices, sequences, warnings))
            .map_err(|error| error.to_string())
    }

    #[test]
    fn long_rows_are_refused_dropped_or_truncated() {
        let rows = [3, 9, 4, 30, 1];
        assert_eq!(
            outcome(&rows, TooLongAction::Error).unwrap_err(),
            "row 9: the sequence has 9 tokens, the model allows 4\n\
             row 30: the sequence has 30 tokens, the model allows 4\n\
             help: `too_long = \"drop\"` drops such rows, `too_long = \"truncate\"` removes the end"
        );
        let strings = |texts: &[&str]| texts.iter().map(ToString::to_string).collect::<Vec<_>>();
        assert_eq!(
            outcome(&rows, TooLongAction::Drop).unwrap(),
            (vec![0, 2, 4], vec![3, 4, 1], strings(&["2 of 5 rows exceed the context length and are dropped"]))
        );
        let cut = [
            "1 of 5 rows exceed the context length and lose the end",
            "1 of 5 rows are dropped: truncated to the context length they have no useful tokens",
        ];
        assert_eq!(
            outcome(&rows, TooLongAction::Truncate).unwrap(),
            (vec![0, 1, 2, 4], vec![3, 4, 4, 1], strings(&cut))
        );
        for action in [TooLongAction::Error, TooLongAction::Drop, TooLongAction::Truncate] {
            assert_eq!(outcome(&[4, 1], action).unwrap(), (vec![0, 1], vec![4, 1], vec![]));
        }
        let none = "all 2 rows exceed the context length of the model";
        assert_eq!(outcome(&[30, 40], TooLongAction::Truncate).unwrap_err(), none);
        assert_eq!(outcome(&[30, 40], TooLongAction::Drop).unwrap_err(), none);
        assert_eq!(select(vec!["a", "b", "c"], &[0, 2]), ["a", "c"]);
    }
}
