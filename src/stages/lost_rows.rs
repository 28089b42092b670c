//! Rows that a stage cannot use because they lack something: counted by reason, and an error beyond a stated share. What a
//! key of the stage filters out is no loss. Knows no kind.

use std::collections::BTreeMap;

use anyhow::{Result, anyhow};

use super::common::{check_range, share};
use ablate_core::base::wrong_input;
use ablate_core::stage::ConfigError;

/// Lost rows that an error shows.
const SHOWN: usize = 3;

/// What was lost of one source.
#[derive(Debug, Default)]
pub(super) struct Losses {
    of: usize,
    reasons: BTreeMap<&'static str, usize>,
    first: Vec<String>,
}

impl Losses {
    /// Of so many rows, the lost ones included.
    pub(super) fn of(rows: usize) -> Losses {
        Losses { of: rows, ..Losses::default() }
    }

    /// Counts a lost row; `reason` follows on its name: "without a rationale".
    pub(super) fn lose(&mut self, reason: &'static str, id: &str, dataset: &str) {
        *self.reasons.entry(reason).or_default() += 1;
        if self.first.len() < SHOWN {
            self.first.push(format!("`{id}` of `{dataset}` is {reason}"));
        }
    }

    fn lost(&self) -> usize {
        self.reasons.values().sum()
    }

    /// What was lost, to be told to everybody who uses the result; an error where it is more than the share `most`, which
    /// is what `key` says. `whose` are the rows: "source `a`".
    pub(super) fn check(&self, whose: &str, key: &str, most: f64) -> Result<Option<String>> {
        let lost = self.lost();
        if lost == 0 {
            return Ok(None);
        }
        let reasons: Vec<String> = self.reasons.iter().map(|(reason, count)| format!("{count} {reason}")).collect();
        let told = format!("{whose} loses {lost} of {} rows: {}", self.of, reasons.join(", "));
        let part = share(lost, self.of);
        if part <= most {
            return Ok(Some(told));
        }
        // Rounded up, so that the share that is named is one that suffices.
        let enough = (part * 1000.0).ceil() / 1000.0;
        Err(wrong_input(anyhow!(
            "{told}\n  {}\n`{key}` = {most} permits {}: complete these rows, or permit the loss with `{key} = {enough}`",
            self.first.join("\n  "),
            if most == 0.0 { "none".to_string() } else { format!("that share of the rows, and they are {part:.3}") },
        )))
    }
}

/// The mistake of a share that is none.
pub(super) fn check_most(errors: &mut Vec<ConfigError>, key: &str, most: Option<f64>) {
    if let Some(most) = most {
        check_range(errors, key, most, 0.0, 1.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_loss_is_an_error_beyond_the_share() {
        let mut losses = Losses::of(7);
        assert_eq!(losses.check("source `a`", "max_lost", 0.0).unwrap(), None);
        for id in ["1", "2", "3", "4"] {
            losses.lose(if id == "2" { "without an answer" } else { "without a rationale" }, id, "toy");
        }
        let told = "source `a` loses 4 of 7 rows: 3 without a rationale, 1 without an answer";
        assert_eq!(losses.check("source `a`", "max_lost", 0.572).unwrap().as_deref(), Some(told));
        let error = |most| losses.check("source `a`", "max_lost", most).unwrap_err().to_string();
        assert_eq!(
            error(0.0),
            format!(
                "{told}\n  `1` of `toy` is without a rationale\n  `2` of `toy` is without an answer\n  `3` of `toy` is \
                 without a rationale\n`max_lost` = 0 permits none: complete these rows, or permit the loss with \
                 `max_lost = 0.572`"
            )
        );
        assert!(error(0.5).contains("`max_lost` = 0.5 permits that share of the rows, and they are 0.571: complete"));
    }
}
