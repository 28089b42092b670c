//! The model of a table: cells with intervals, differences to the baseline, contrasts. Knows no way to draw it.

use std::collections::BTreeMap;

use serde::Serialize;

use super::input::Metric;
use super::statistics::{ALPHA, Comparison, bootstrap::Interval};

/// One table with its contrasts. Values are shares of 1, never percent.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Table {
    pub name: String,
    pub title: String,
    pub stage: String,
    pub metric: Metric,
    /// The axes that span the rows, in words; empty when rows are selectors.
    pub rows_are: String,
    pub columns_are: String,
    /// Labels of the columns; the last is `mean` when there is one.
    pub columns: Vec<String>,
    pub rows: Vec<Row>,
    /// Label of what the cells are compared with.
    pub baseline: Option<String>,
    /// How many differences the Holm correction counts.
    pub family: usize,
    pub datasets: Vec<Dataset>,
    /// Whether to show the data sets one by one.
    pub breakdown: bool,
    /// Labels of the seeds; one empty label when nothing varies by seed.
    pub seeds: Vec<String>,
    pub resamples: usize,
    pub contrasts: Vec<Contrast>,
    /// Where the published numbers are from.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
    /// What a reader must know: missing instances, one seed, names that match nothing.
    pub notes: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Dataset {
    pub name: String,
    pub items: usize,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Row {
    pub label: String,
    pub selector: String,
    /// One per column.
    pub cells: Vec<Cell>,
}

/// What some instances measured together.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Cell {
    pub selector: String,
    pub instances: Vec<String>,
    /// Instances that have not run.
    pub missing: Vec<String>,
    /// None when nothing has been measured: never zero.
    pub estimate: Option<Estimate>,
    pub compliance: Option<Estimate>,
    /// Share of responses from which an answer could be read.
    pub readable: Option<Estimate>,
    /// By name, the data sets of which something was measured.
    pub datasets: BTreeMap<String, Estimate>,
    /// Against the baseline's cell; none for the baseline itself, and for a cell that it is part of.
    pub difference: Option<Difference>,
    /// What others published for it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub published: Option<f64>,
}

/// A mean with its 95 % interval.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Estimate {
    pub mean: f64,
    #[serde(flatten)]
    pub interval: Interval,
    pub items: usize,
    /// Seeds behind it. With one, the interval is of the items alone.
    pub seeds: usize,
}

/// A difference on shared items and seeds.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Difference {
    pub estimate: Estimate,
    #[serde(flatten)]
    pub comparison: Comparison,
    /// p after Holm's correction over the table's family.
    pub p_holm: f64,
}

impl Difference {
    /// Whether the corrected p and the interval both speak against zero. The test knows the items only, the
    /// interval knows the seeds too: a difference that one seed has and another has not fails the second.
    pub fn significant(&self) -> bool {
        self.p_holm < ALPHA && (self.estimate.interval.low > 0.0 || self.estimate.interval.high < 0.0)
    }
}

/// A claim and what the scores say of it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Contrast {
    pub name: String,
    pub about: String,
    pub plus: Vec<String>,
    pub minus: Vec<String>,
    /// The average of plus less the average of minus; none when it cannot be computed.
    pub difference: Option<Difference>,
    /// The estimate of each seed by itself.
    pub by_seed: Vec<SeedEstimate>,
    /// By name, the data sets of which something was measured.
    pub datasets: BTreeMap<String, Estimate>,
    pub verdict: Verdict,
    /// The reason of the verdict.
    pub words: String,
    pub missing: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct SeedEstimate {
    pub seed: String,
    pub mean: f64,
}

/// What the scores say of a claim that a contrast is above zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// Above zero by the interval and by the corrected test.
    Supported,
    /// Neither above nor below zero could be shown.
    NotSupported,
    /// Below zero by the interval and by the corrected test.
    Contradicted,
    /// Instances are missing.
    NotMeasured,
}

impl Verdict {
    pub fn words(self) -> &'static str {
        match self {
            Verdict::Supported => "supported",
            Verdict::NotSupported => "not supported",
            Verdict::Contradicted => "contradicted",
            Verdict::NotMeasured => "not measured",
        }
    }

    /// The verdict on a difference that is claimed to be above zero, with its reason.
    pub fn of(difference: &Difference, by_seed: &[SeedEstimate]) -> (Verdict, String) {
        let interval = difference.estimate.interval;
        let above = interval.low > 0.0;
        let verdict = match (difference.significant(), above) {
            (true, true) => Verdict::Supported,
            (true, false) => Verdict::Contradicted,
            (false, _) => Verdict::NotSupported,
        };
        let mut reasons: Vec<String> = Vec::new();
        if verdict == Verdict::NotSupported {
            let excludes = above || interval.high < 0.0;
            reasons.push(match (excludes, difference.p_holm < ALPHA) {
                (true, _) => "the interval excludes zero, the corrected test does not".to_string(),
                (false, true) => {
                    "the test finds a difference on these seeds, the interval over seeds includes zero".into()
                }
                (false, false) => "the interval includes zero".to_string(),
            });
            reasons.push(match difference.comparison.detectable {
                Some(size) => format!("these items show differences from {:.1} points on", 100.0 * size),
                None => "these items are too few, or too alike, to show any difference".to_string(),
            });
        }
        let agree = by_seed.iter().filter(|one| one.mean * difference.estimate.mean > 0.0).count();
        match by_seed.len() {
            0 | 1 => reasons.push("one seed: how much another seed would change it is unknown".to_string()),
            all if agree == all => reasons.push(format!("all {all} seeds agree in sign")),
            all => reasons.push(format!("{agree} of {all} seeds agree in sign")),
        }
        (verdict, reasons.join("; "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::statistics::Method;

    fn difference(mean: f64, low: f64, high: f64, p: f64) -> Difference {
        let comparison = Comparison {
            method: Method::McNemar,
            p,
            gained: 5,
            lost: 1,
            pairs: 10,
            effect: Some(0.3),
            detectable: Some(0.024),
        };
        let estimate = Estimate { mean, interval: Interval { low, high }, items: 10, seeds: 1 };
        Difference { estimate, comparison, p_holm: p }
    }

    fn verdict(difference: &Difference, seeds: &[f64]) -> String {
        let by_seed: Vec<_> = seeds.iter().map(|mean| SeedEstimate { seed: String::new(), mean: *mean }).collect();
        let (verdict, words) = Verdict::of(difference, &by_seed);
        format!("{}: {words}", verdict.words())
    }

    #[test]
    fn a_claim_needs_both_the_interval_and_the_test() {
        let cases = [
            (difference(0.03, 0.01, 0.05, 0.001), vec![0.02, 0.04, 0.03]),
            (difference(0.03, 0.01, 0.05, 0.08), vec![0.03]),
            (difference(0.03, -0.01, 0.07, 0.001), vec![0.10, 0.09, -0.10]),
            (difference(0.01, -0.01, 0.03, 0.4), vec![0.02, 0.0]),
            (difference(-0.03, -0.05, -0.01, 0.001), vec![-0.03, -0.03]),
        ];
        let told: Vec<String> = cases.iter().map(|(difference, seeds)| verdict(difference, seeds)).collect();
        expect_test::expect![[r#"
            supported: all 3 seeds agree in sign
            not supported: the interval excludes zero, the corrected test does not; these items show differences from 2.4 points on; one seed: how much another seed would change it is unknown
            not supported: the test finds a difference on these seeds, the interval over seeds includes zero; these items show differences from 2.4 points on; 2 of 3 seeds agree in sign
            not supported: the interval includes zero; these items show differences from 2.4 points on; 1 of 2 seeds agree in sign
            contradicted: all 2 seeds agree in sign"#]]
        .assert_eq(&told.join("\n"));
    }
}
