//! A computed table: cells with confidence intervals, differences to the baseline, contrasts.

use std::collections::BTreeMap;
use std::fmt;

use serde::Serialize;

use super::budget::{BudgetComparison, BudgetTable, CellBudget};
use super::statistics::{ALPHA, ConfidenceInterval, PairedTest};
use ablate_experiment::Metric;

/// One table with its contrasts. Values are shares from 0 to 1, not percent.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Table {
    pub name: String,
    pub title: String,
    pub stage: String,
    pub metric: Metric,
    /// The names of the axes whose values are the rows. Empty if rows are selectors.
    #[serde(rename = "rows_are")]
    pub row_axes: String,
    #[serde(rename = "columns_are")]
    pub column_axes: String,
    /// Labels of the columns. If there are several, the last is `mean`.
    pub columns: Vec<String>,
    pub rows: Vec<Row>,
    /// Label of the baseline.
    pub baseline: Option<String>,
    /// Number of differences in the Holm-Bonferroni correction.
    #[serde(rename = "family")]
    pub family_size: usize,
    pub datasets: Vec<Dataset>,
    /// Whether to show a table by data set.
    pub breakdown: bool,
    /// Labels of the seeds. One empty label if no evaluation has a seed.
    pub seeds: Vec<String>,
    pub resamples: usize,
    pub contrasts: Vec<ContrastResult>,
    /// None if no model was trained in the experiment.
    pub budget: Option<BudgetTable>,
    /// The publication of the published numbers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
    /// Limits of the numbers: instances that have not run, few seeds, contaminated items.
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

/// The mean over some instances.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Cell {
    pub selector: String,
    pub instances: Vec<String>,
    /// Instances that have not run.
    pub missing: Vec<String>,
    /// None without scores.
    pub estimate: Option<Estimate>,
    pub compliance: Option<Estimate>,
    pub readable: Option<Estimate>,
    /// None without a compliant response.
    pub accuracy_given_compliance: Option<Estimate>,
    /// The estimates of the data sets that have scores, by name.
    pub datasets: BTreeMap<String, Estimate>,
    /// The difference to the baseline. None for a cell that shares evaluations with the baseline.
    pub difference: Option<Difference>,
    /// None without instances.
    pub budget: Option<CellBudget>,
    /// The published share.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub published: Option<f64>,
}

/// A mean with its 95 % confidence interval.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Estimate {
    pub mean: f64,
    #[serde(flatten)]
    pub interval: ConfidenceInterval,
    pub items: usize,
    /// With one seed, the interval covers the variation between items only.
    pub seeds: usize,
}

/// A paired difference, on shared items and seeds.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Difference {
    pub estimate: Estimate,
    #[serde(flatten)]
    pub test: PairedTest,
    /// The p-value after Holm-Bonferroni correction over all differences, or all contrasts, of the table.
    pub p_holm: f64,
}

impl Difference {
    /// Whether the corrected p-value is below 0.05 and the confidence interval excludes zero. The test covers the
    /// variation between items, and the interval also the variation between seeds: it includes zero if the seeds
    /// disagree.
    pub fn significant(&self) -> bool {
        self.p_holm < ALPHA && (self.estimate.interval.low > 0.0 || self.estimate.interval.high < 0.0)
    }
}

/// A contrast with its estimate. The hypothesis is that the mean of `plus` is higher than the mean of `minus`.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ContrastResult {
    pub name: String,
    pub about: String,
    pub plus: Vec<String>,
    pub minus: Vec<String>,
    /// The mean of `plus` minus the mean of `minus`. None if it cannot be computed.
    pub difference: Option<Difference>,
    /// The difference of each seed.
    pub by_seed: Vec<SeedEstimate>,
    /// The differences on the data sets that have scores, by name.
    pub datasets: BTreeMap<String, Estimate>,
    pub verdict: Verdict,
    /// None if both sides have the same models.
    pub budget: Option<BudgetComparison>,
    /// The reason for the verdict.
    #[serde(rename = "words")]
    pub reason: String,
    /// Instances that have not run.
    pub missing: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct SeedEstimate {
    pub seed: String,
    pub mean: f64,
}

/// The verdict on the hypothesis that a contrast is positive.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// Significantly positive: see [`Difference::significant`].
    Supported,
    /// Not significant.
    NotSupported,
    /// Significantly negative.
    Contradicted,
    /// There is no estimate.
    NotMeasured,
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Verdict::Supported => "supported",
            Verdict::NotSupported => "not supported",
            Verdict::Contradicted => "contradicted",
            Verdict::NotMeasured => "not measured",
        })
    }
}

impl Verdict {
    /// The verdict on a difference, with its reason.
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
                (true, _) => "the confidence interval excludes zero, but p is not below 0.05".to_string(),
                (false, true) => "p is below 0.05, but the confidence interval includes zero".to_string(),
                (false, false) => "the confidence interval includes zero".to_string(),
            });
            reasons.push(match difference.test.minimum_detectable {
                Some(size) => format!("minimum detectable difference (80 % power): {:.1} points", 100.0 * size),
                None => "no minimum detectable difference: too few items, or too few that differ".to_string(),
            });
        }
        let agree = by_seed.iter().filter(|one| one.mean * difference.estimate.mean > 0.0).count();
        match by_seed.len() {
            0 | 1 => reasons.push("one seed: the variation between seeds is unknown".to_string()),
            all if agree == all => reasons.push(format!("all {all} seeds agree in sign")),
            all => reasons.push(format!("{agree} of {all} seeds agree in sign")),
        }
        (verdict, reasons.join("; "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::statistics::TestMethod;

    fn difference(mean: f64, low: f64, high: f64, p: f64) -> Difference {
        let test = PairedTest {
            method: TestMethod::McNemar,
            p_value: p,
            gained: 5,
            lost: 1,
            pairs: 10,
            cohens_d: Some(0.3),
            minimum_detectable: Some(0.024),
        };
        let estimate = Estimate { mean, interval: ConfidenceInterval { low, high }, items: 10, seeds: 1 };
        Difference { estimate, test, p_holm: p }
    }

    fn verdict(difference: &Difference, seeds: &[f64]) -> String {
        let by_seed: Vec<_> = seeds.iter().map(|mean| SeedEstimate { seed: String::new(), mean: *mean }).collect();
        let (verdict, reason) = Verdict::of(difference, &by_seed);
        format!("{verdict}: {reason}")
    }

    #[test]
    fn verdict_needs_interval_and_test() {
        let cases = [
            (difference(0.03, 0.01, 0.05, 0.001), vec![0.02, 0.04, 0.03]),
            (difference(0.03, 0.01, 0.05, 0.08), vec![0.03]),
            (difference(0.03, -0.01, 0.07, 0.001), vec![0.10, 0.09, -0.10]),
            (difference(0.01, -0.01, 0.03, 0.4), vec![0.02, 0.0]),
            (difference(-0.03, -0.05, -0.01, 0.001), vec![-0.03, -0.03]),
        ];
        let verdicts: Vec<String> = cases.iter().map(|(difference, seeds)| verdict(difference, seeds)).collect();
        expect_test::expect![[r#"
            supported: all 3 seeds agree in sign
            not supported: the confidence interval excludes zero, but p is not below 0.05; minimum detectable difference (80 % power): 2.4 points; one seed: the variation between seeds is unknown
            not supported: p is below 0.05, but the confidence interval includes zero; minimum detectable difference (80 % power): 2.4 points; 2 of 3 seeds agree in sign
            not supported: the confidence interval includes zero; minimum detectable difference (80 % power): 2.4 points; 1 of 2 seeds agree in sign
            contradicted: all 2 seeds agree in sign"#]]
        .assert_eq(&verdicts.join("\n"));
    }
}
