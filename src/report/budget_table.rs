//! The table of training budgets as formatted numbers.

use super::budget::{Amount, BudgetTable, StageBudget};
use super::table::Table;
use super::text_table::{TextCell, TextColumn, TextRow, TextTable, compact, thousands};

/// The training budgets of the rows. None if no model was trained in the experiment.
pub(super) fn render(table: &Table) -> Option<TextTable> {
    let budgets = table.budget.as_ref()?;
    let rows = budgets.rows.iter().map(|row| {
        let budget = &row.budget;
        let cells = [
            cell(budget.steps, whole),
            cell(budget.tokens, compact),
            cell(budget.flops, scientific),
            cell(budget.epochs, decimal),
            cell(budget.questions, whole),
        ];
        TextRow { label: row.label.clone(), cells: cells.into() }
    });
    let column = |label: &str| TextColumn { label: label.to_string(), items: None };
    Some(TextTable {
        caption: "training budget".to_string(),
        corner: table.row_axes.clone(),
        columns: ["steps", "tokens", "FLOPs", "epochs", "questions"].map(column).into(),
        rows: rows.collect(),
        legend: legend(budgets),
    })
}

fn legend(budgets: &BudgetTable) -> Vec<String> {
    let mut legend = vec![
        "sums over the training stages of a model, mean over seeds [smallest, largest]; epochs and questions of the last \
         stage"
            .to_string(),
    ];
    if !budgets.shared.is_empty() {
        let stages: Vec<String> = budgets.shared.iter().map(shared_stage).collect();
        legend.push(format!("not counted, because all rows share it: {}", stages.join(", ")));
    }
    let mut elsewhere: Vec<&String> = budgets.rows.iter().flat_map(|row| &row.budget.trained_elsewhere).collect();
    elsewhere.sort_unstable();
    elsewhere.dedup();
    if !elsewhere.is_empty() {
        let roots: Vec<&str> = elsewhere.iter().map(|root| root.as_str()).collect();
        legend.push(format!("earlier training is not known: {}", roots.join(", ")));
    }
    legend
}

fn shared_stage(stage: &StageBudget) -> String {
    match (stage.budget.steps, stage.budget.tokens) {
        (Some(steps), Some(tokens)) => {
            format!("`{}` ({} steps, {} tokens)", stage.stage, whole(steps), compact(tokens))
        }
        _ => format!("`{}`", stage.stage),
    }
}

/// The mean, with the ends of the range if they look different.
fn cell(amount: Option<Amount>, format: fn(f64) -> String) -> TextCell {
    let Some(Amount { mean, low, high }) = amount else {
        return TextCell { mean: "–".to_string(), ..TextCell::default() };
    };
    let (low, high) = (format(low), format(high));
    let interval = if low == high { String::new() } else { format!("[{low}, {high}]") };
    TextCell { mean: format(mean), interval, ..TextCell::default() }
}

fn whole(value: f64) -> String {
    thousands(value.round() as u64)
}

/// At most two decimals.
fn decimal(value: f64) -> String {
    let text = format!("{value:.2}");
    text.trim_end_matches('0').trim_end_matches('.').to_string()
}

fn scientific(value: f64) -> String {
    if value == 0.0 { "0".to_string() } else { format!("{value:.1e}") }
}
