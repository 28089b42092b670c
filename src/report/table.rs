//! A computed table: cells with confidence intervals, differences to the baseline, contrasts.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Serialize, Serializer};

use super::budget::{BudgetComparison, BudgetTable, CellBudget};
use super::statistics::{ALPHA, ConfidenceInterval, ENOUGH_SEEDS, Needs, PairedTest};
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
    /// Clusters of items, which share an image. None if every item is a cluster of its own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub clusters: Option<usize>,
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
    /// The axes of the instances, each with its label if all instances have the same. The data set counts as an axis if the
    /// cell has only one.
    #[serde(skip)]
    pub axes: BTreeMap<String, Option<String>>,
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
    /// With fewer than [`ENOUGH_SEEDS`](super::statistics::ENOUGH_SEEDS), the interval is about these training runs.
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
    /// The smallest true difference that these seeds and items detect with 80 % power, at the level of 5 % divided by
    /// the number of tests.
    pub detectable: f64,
}

impl Difference {
    /// Whether the corrected p-value is below 0.05 and the confidence interval excludes zero.
    pub fn significant(&self) -> bool {
        self.p_holm < ALPHA && self.estimate.interval.excludes_zero()
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
    /// The smallest difference that matters.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub margin: Option<f64>,
    /// The difference of each seed.
    pub by_seed: Vec<SeedEstimate>,
    /// The differences on the data sets that have scores, by name.
    pub datasets: BTreeMap<String, Estimate>,
    /// The data set without which less than half of the difference is left. None if the interval includes zero.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub carried_by: Option<CarriedBy>,
    /// What it takes to show the margin, or the measured difference.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub needs: Option<Needs>,
    pub verdict: Verdict,
    /// The verdict with its scope, as it is printed.
    #[serde(rename = "shown_as")]
    pub words: Words,
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

/// The data set that carries a difference.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct CarriedBy {
    pub dataset: String,
    /// The difference on this data set.
    pub mean: f64,
    /// The difference over the other data sets.
    pub rest: Estimate,
}

/// The verdict on the hypothesis that a contrast is positive.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// Significantly positive: see [`Difference::significant`].
    Shown,
    /// Significantly negative.
    OppositeShown,
    /// Not shown, and the upper end of the confidence interval is below the margin.
    BelowMargin,
    /// None of these.
    NotShown,
    /// There is no estimate.
    NotMeasured,
}

/// A verdict with its scope: a verdict from fewer than three seeds is about these training runs.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Words {
    pub verdict: Verdict,
    /// The margin, for [`Verdict::BelowMargin`].
    pub margin: Option<f64>,
    pub seeds: usize,
}

impl fmt::Display for Words {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.verdict, self.margin) {
            (Verdict::Shown, _) => f.write_str("shown")?,
            (Verdict::OppositeShown, _) => f.write_str("the opposite is shown")?,
            (Verdict::BelowMargin, Some(margin)) => write!(f, "shown to be below {:.1}", 100.0 * margin)?,
            (Verdict::NotShown | Verdict::BelowMargin, _) => return f.write_str("not shown"),
            (Verdict::NotMeasured, _) => return f.write_str("not measured"),
        }
        match self.seeds {
            0 | 1 => f.write_str(" for this training run only"),
            seeds if seeds < ENOUGH_SEEDS => write!(f, " for these {seeds} training runs only"),
            _ => Ok(()),
        }
    }
}

impl Serialize for Words {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}
