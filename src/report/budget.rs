//! Training budgets of cells, rows and contrasts: how many steps, tokens and FLOPs went into their models.

use serde::Serialize;

use super::input::MeasuredBudget;

/// The training budget of a cell, as means over its evaluations.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct CellBudget {
    /// Sums over all training stages of the model.
    pub steps: Option<Amount>,
    pub tokens: Option<Amount>,
    pub flops: Option<Amount>,
    pub examples: Option<Amount>,
    /// Of the last training stage.
    pub epochs: Option<Amount>,
    pub questions: Option<Amount>,
    /// The training stages, oldest first.
    pub stages: Vec<StageBudget>,
    /// Where models start whose earlier training is not known.
    pub trained_elsewhere: Vec<String>,
}

/// The mean over evaluations, with the smallest and the largest value.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Amount {
    pub mean: f64,
    pub low: f64,
    pub high: f64,
}

/// The mean budget of the instances of one stage.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct StageBudget {
    pub stage: String,
    #[serde(flatten)]
    pub budget: MeasuredBudget,
}

/// The training budgets of the rows of a table, without the training stages that all rows share.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct BudgetTable {
    pub shared: Vec<StageBudget>,
    /// One per row of the table, or one per cell if the cells of a row have different models. A single one if all cells
    /// have the same models.
    pub rows: Vec<BudgetRow>,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct BudgetRow {
    pub label: String,
    pub budget: CellBudget,
}

/// The budgets of the two sides of a contrast, without the training stages that both share.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct BudgetComparison {
    pub plus: MeasuredBudget,
    pub minus: MeasuredBudget,
    /// Steps and tokens differ by at most 5 %.
    pub equal: bool,
    /// The comparison as a sentence, which the reason of the verdict includes.
    #[serde(rename = "words")]
    pub sentence: String,
}

impl Amount {
    /// None without a value.
    pub(super) fn of(values: &[f64]) -> Option<Amount> {
        let (low, high) = (values.iter().copied().reduce(f64::min)?, values.iter().copied().reduce(f64::max)?);
        Some(Amount { mean: values.iter().sum::<f64>() / values.len() as f64, low, high })
    }
}

impl MeasuredBudget {
    /// Each number as a weighted sum. It is None if one of the numbers is.
    pub(super) fn weighted_sum(budgets: &[(Option<&MeasuredBudget>, f64)]) -> MeasuredBudget {
        let sum = |of: fn(&MeasuredBudget) -> Option<f64>| {
            budgets.iter().try_fold(0.0, |sum, (budget, weight)| Some(sum + weight * of((*budget)?)?))
        };
        MeasuredBudget {
            steps: sum(|one| one.steps),
            tokens: sum(|one| one.tokens),
            flops: sum(|one| one.flops),
            epochs: sum(|one| one.epochs),
            examples: sum(|one| one.examples),
            questions: sum(|one| one.questions),
        }
    }
}
