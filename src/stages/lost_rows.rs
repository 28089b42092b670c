//! Counts the rows that a stage cannot use because they lack something (the key `max_lost`). Rows that a key of the
//! stage filters out are not counted.

use std::collections::BTreeMap;

use anyhow::{Result, anyhow};

use super::common::{check_range, ratio};
use ablate_core::base::wrong_input;
use ablate_core::stage::ConfigError;

/// Number of lost rows that an error message lists.
const SHOWN: usize = 3;

/// The lost rows of one source.
#[derive(Debug, Default)]
pub(super) struct LostRows {
    total: usize,
    reasons: BTreeMap<&'static str, usize>,
    first: Vec<String>,
}

impl LostRows {
    /// `total` counts all rows of the source, with the lost ones.
    pub(super) fn new(total: usize) -> LostRows {
        LostRows { total, ..LostRows::default() }
    }

    /// Counts a lost row. `reason` is a phrase such as "without a rationale".
    pub(super) fn add(&mut self, reason: &'static str, id: &str, dataset: &str) {
        *self.reasons.entry(reason).or_default() += 1;
        if self.first.len() < SHOWN {
            self.first.push(format!("`{id}` of `{dataset}` is {reason}"));
        }
    }

    fn count(&self) -> usize {
        self.reasons.values().sum()
    }

    /// A warning that describes the lost rows, or an error if their share of all rows is above `max`, the value of
    /// `key`. `source` names the rows in messages: "source `a`".
    pub(super) fn check(&self, source: &str, key: &str, max: f64) -> Result<Option<String>> {
        let lost = self.count();
        if lost == 0 {
            return Ok(None);
        }
        let reasons: Vec<String> = self.reasons.iter().map(|(reason, count)| format!("{count} {reason}")).collect();
        let message = format!("{source} loses {lost} of {} rows: {}", self.total, reasons.join(", "));
        let share = ratio(lost, self.total);
        if share <= max {
            return Ok(Some(message));
        }
        // Rounded up so that the suggested value is sufficient.
        let sufficient = (share * 1000.0).ceil() / 1000.0;
        Err(wrong_input(anyhow!(
            "{message}\n  {}\nthe share of lost rows is {share:.3}, above `{key}` = {max}\nhelp: complete these rows, or \
             accept the loss with `{key} = {sufficient}`",
            self.first.join("\n  "),
        )))
    }
}

/// Adds a mistake if `max` is not a share.
pub(super) fn check_max_lost(errors: &mut Vec<ConfigError>, key: &str, max: Option<f64>) {
    if let Some(max) = max {
        check_range(errors, key, max, 0.0, 1.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn too_many_lost_rows_are_an_error() {
        let mut lost_rows = LostRows::new(7);
        assert_eq!(lost_rows.check("source `a`", "max_lost", 0.0).unwrap(), None);
        for id in ["1", "2", "3", "4"] {
            lost_rows.add(if id == "2" { "without an answer" } else { "without a rationale" }, id, "toy");
        }
        let message = "source `a` loses 4 of 7 rows: 3 without a rationale, 1 without an answer";
        assert_eq!(lost_rows.check("source `a`", "max_lost", 0.572).unwrap().as_deref(), Some(message));
        let error = |max| lost_rows.check("source `a`", "max_lost", max).unwrap_err().to_string();
        assert_eq!(
            error(0.0),
            format!(
                "{message}\n  `1` of `toy` is without a rationale\n  `2` of `toy` is without an answer\n  `3` of `toy` is \
                 without a rationale\nthe share of lost rows is 0.571, above `max_lost` = 0\nhelp: complete these rows, or \
                 accept the loss with `max_lost = 0.572`"
            )
        );
        assert!(error(0.5).contains("the share of lost rows is 0.571, above `max_lost` = 0.5\n"));
    }
}
