//! Computes the training budgets of a table, and compares those of the sides of a contrast.

use std::collections::BTreeSet;

use super::budget::{Amount, BudgetComparison, BudgetRow, BudgetTable, CellBudget, StageBudget};
use super::input::{Evaluation, MeasuredBudget, TrainingRun};
use super::table::{Table, Verdict};
use super::text_table::{compact, thousands};
use ablate_experiment::{Arm, Contrast, ReportSpec, TrainedPoint};

/// Budgets that differ by at most this share of the larger one count as equal. With equal steps the number of tokens
/// varies by a few percent, because rows have different lengths.
const TOLERANCE: f64 = 0.05;

/// The evaluations of a table with the training of their models.
pub(super) struct Budgets<'a> {
    runs: &'a [TrainingRun],
    evaluations: Vec<&'a Evaluation>,
}

impl<'a> Budgets<'a> {
    /// `runs` are those that [`Evaluation::training`] refers to.
    pub(super) fn new(runs: &'a [TrainingRun], evaluations: Vec<&'a Evaluation>) -> Budgets<'a> {
        Budgets { runs, evaluations }
    }

    /// Adds the budgets to the cells, to the reasons of the contrasts and to the notes.
    pub(super) fn add_to(&self, table: &mut Table, spec: &ReportSpec) {
        for cell in table.rows.iter_mut().flat_map(|row| &mut row.cells) {
            let evaluations = self.named(&cell.instances);
            cell.budget = (!evaluations.is_empty()).then(|| self.budget(&evaluations, &BTreeSet::new()));
        }
        for (result, contrast) in table.contrasts.iter_mut().zip(&spec.contrasts) {
            if result.verdict == Verdict::NotMeasured {
                continue;
            }
            result.budget = self.comparison(contrast);
            if let Some(BudgetComparison { sentence, .. }) = &result.budget {
                result.reason = format!("{}; {sentence}", result.reason);
            }
        }
        table.budget = self.table(table);
        table.notes.extend(table.budget.as_ref().and_then(note));
    }

    fn named(&self, names: &[String]) -> Vec<&'a Evaluation> {
        let known: BTreeSet<&String> = names.iter().collect();
        self.evaluations.iter().copied().filter(|one| known.contains(&one.instance)).collect()
    }

    /// The budget of a cell, without the training runs in `shared`.
    fn budget(&self, evaluations: &[&Evaluation], shared: &BTreeSet<usize>) -> CellBudget {
        let own = |one: &Evaluation| one.training.iter().copied().filter(|run| !shared.contains(run)).collect();
        let runs: Vec<Vec<usize>> = evaluations.iter().map(|one| own(one)).collect();
        // Nothing is known about a model that was only trained elsewhere.
        let unknown = evaluations.iter().any(|one| one.training.is_empty() && one.trained_elsewhere.is_some());
        let sum = |of: fn(&MeasuredBudget) -> Option<f64>| {
            let one = |runs: &Vec<usize>| {
                runs.iter().try_fold(0.0, |sum, run| Some(sum + of(self.runs[*run].budget.as_ref()?)?))
            };
            if unknown { None } else { Amount::of(&runs.iter().map(one).collect::<Option<Vec<f64>>>()?) }
        };
        let last = |of: fn(&MeasuredBudget) -> Option<f64>| {
            let one = |run: &usize| of(self.runs[*run].budget.as_ref()?);
            Amount::of(&runs.iter().filter_map(|runs| runs.last()).map(one).collect::<Option<Vec<f64>>>()?)
        };
        let elsewhere: BTreeSet<&String> =
            evaluations.iter().filter_map(|one| one.trained_elsewhere.as_ref()).collect();
        CellBudget {
            steps: sum(|one| one.steps),
            tokens: sum(|one| one.tokens),
            flops: sum(|one| one.flops),
            examples: sum(|one| one.examples),
            epochs: last(|one| one.epochs),
            questions: last(|one| one.questions),
            stages: self.by_stage(runs.iter().flatten().copied()),
            trained_elsewhere: elsewhere.into_iter().cloned().collect(),
        }
    }

    /// The mean budget of each stage, in order of appearance.
    fn by_stage(&self, runs: impl Iterator<Item = usize>) -> Vec<StageBudget> {
        let mut stages: Vec<(&str, BTreeSet<usize>)> = Vec::new();
        for run in runs {
            let stage = self.runs[run].stage.as_str();
            match stages.iter_mut().find(|(known, _)| *known == stage) {
                Some((_, runs)) => drop(runs.insert(run)),
                None => stages.push((stage, [run].into())),
            }
        }
        let mean = |(stage, runs): (&str, BTreeSet<usize>)| {
            let share = 1.0 / runs.len() as f64;
            let runs: Vec<_> = runs.iter().map(|run| (self.runs[*run].budget.as_ref(), share)).collect();
            StageBudget { stage: stage.to_string(), budget: MeasuredBudget::weighted_sum(&runs) }
        };
        stages.into_iter().map(mean).collect()
    }

    /// Compares the sides of a contrast. None if they have the same models, or if a number is not known.
    fn comparison(&self, contrast: &Contrast) -> Option<BudgetComparison> {
        let point = |one: &&'a Evaluation| -> TrainedPoint<'a, usize> { (&one.point, &one.training) };
        let evaluations: Vec<TrainedPoint<usize>> = self.evaluations.iter().map(point).collect();
        let [plus, minus] = Arm::of_contrast(&evaluations, &contrast.plus, &contrast.minus);
        let (plus, minus) = (plus.without_shared(&[&minus]), minus.without_shared(&[&plus]));
        let [elsewhere, others] = [&contrast.plus, &contrast.minus].map(|side| {
            let on_side = |one: &&&Evaluation| side.iter().any(|selector| selector.matches(&one.point));
            let all = self.evaluations.iter().filter(on_side).filter_map(|one| one.trained_elsewhere.as_ref());
            all.collect::<BTreeSet<&String>>()
        });
        let unknown = elsewhere.symmetric_difference(&others).next();
        if plus.is_empty() && minus.is_empty() && unknown.is_none() {
            return None;
        }
        let sum = |arm: &Arm<usize>| {
            let runs: Vec<_> = arm.iter().map(|(run, share)| (self.runs[run].budget.as_ref(), share)).collect();
            // Epochs and questions of different stages cannot be added.
            MeasuredBudget { epochs: None, questions: None, ..MeasuredBudget::weighted_sum(&runs) }
        };
        let (plus, minus) = (sum(&plus), sum(&minus));
        let (equal, sentence) = match unknown {
            Some(root) => (false, format!("budgets cannot be compared: {root}")),
            None => compare(&plus, &minus)?,
        };
        Some(BudgetComparison { plus, minus, equal, sentence })
    }

    /// None if no model was trained in the experiment.
    fn table(&self, table: &Table) -> Option<BudgetTable> {
        let mut columns = table.columns.len();
        if columns > 1 {
            // The last column is the mean of the others.
            columns -= 1;
        }
        let cells: Vec<Vec<Vec<&Evaluation>>> = table
            .rows
            .iter()
            .map(|row| row.cells[..columns].iter().map(|cell| self.named(&cell.instances)).collect())
            .collect();
        let arm = |evaluations: &Vec<&Evaluation>| {
            Arm::new(&evaluations.iter().map(|one| one.training.as_slice()).collect::<Vec<_>>())
        };
        let by_cell = cells.iter().any(|row| {
            let arms: Vec<Arm<usize>> = row.iter().filter(|cell| !cell.is_empty()).map(arm).collect();
            arms.windows(2).any(|pair| pair[0] != pair[1])
        });
        let mut groups: Vec<(String, Vec<&Evaluation>)> = Vec::new();
        for (row, cells) in table.rows.iter().zip(cells) {
            if by_cell {
                let labels = table.columns.iter().map(|column| format!("{} · {column}", row.label));
                groups.extend(labels.zip(cells));
            } else {
                groups.push((row.label.clone(), cells.concat()));
            }
        }
        groups.retain(|(_, evaluations)| !evaluations.is_empty());
        let arms: Vec<Arm<usize>> = groups.iter().map(|(_, evaluations)| arm(evaluations)).collect();
        let first = arms.first()?;
        if arms.iter().all(Arm::is_empty) {
            return None;
        }
        let own: BTreeSet<usize> =
            first.without_shared(&arms.iter().collect::<Vec<_>>()).iter().map(|(run, _)| run).collect();
        let mut shared: BTreeSet<usize> = first.iter().map(|(run, _)| run).filter(|run| !own.contains(run)).collect();
        if arms.iter().all(|arm| arm.without_shared(&[first]).is_empty()) {
            let all = groups.iter().flat_map(|(_, evaluations)| evaluations.iter().copied()).collect();
            groups = vec![("all rows".to_string(), all)];
            shared.clear();
        }
        let row = |(label, evaluations): &(String, Vec<&Evaluation>)| BudgetRow {
            label: label.clone(),
            budget: self.budget(evaluations, &shared),
        };
        Some(BudgetTable { shared: self.by_stage(shared.iter().copied()), rows: groups.iter().map(row).collect() })
    }
}

/// Whether two numbers differ by more than the tolerance.
fn differ(one: f64, other: f64) -> bool {
    (one - other).abs() > TOLERANCE * one.max(other)
}

/// Whether two budgets are equal, and a sentence about them. None if steps or tokens are not known.
fn compare(plus: &MeasuredBudget, minus: &MeasuredBudget) -> Option<(bool, String)> {
    let (steps, tokens) = ([plus.steps?, minus.steps?], [plus.tokens?, minus.tokens?]);
    let [one, other] = steps.map(|steps| thousands(steps.round() as u64));
    let [its_tokens, other_tokens] = tokens.map(compact);
    if steps[1] == 0.0 {
        return Some((false, format!("budgets differ: {one} steps ({its_tokens} tokens) against no further training")));
    }
    if steps[0] == 0.0 {
        return Some((
            false,
            format!("budgets differ: no further training against {other} steps ({other_tokens} tokens)"),
        ));
    }
    let both = format!("{one} steps ({its_tokens} tokens) against {other} ({other_tokens})");
    if differ(steps[0], steps[1]) || differ(tokens[0], tokens[1]) {
        return Some((false, format!("budgets differ: {both}")));
    }
    if one != other {
        return Some((true, format!("budgets equal within 5 %: {both}")));
    }
    let percent = (100.0 * (tokens[0] - tokens[1]).abs() / tokens[0].max(tokens[1])).ceil();
    let within = if percent > 0.0 { format!(", tokens within {percent} %") } else { String::new() };
    Some((true, format!("equal budgets: {one} steps{within}")))
}

/// The smallest and the largest budget of a table, if they differ. Rows that train no further are left out.
fn note(table: &BudgetTable) -> Option<String> {
    let known = |row: &'_ BudgetRow| Some((row.budget.steps?.mean, row.budget.tokens?.mean));
    let mut rows: Vec<(f64, f64, &str)> = Vec::new();
    for row in &table.rows {
        rows.extend(known(row).filter(|(steps, _)| *steps > 0.0).map(|(steps, tokens)| (steps, tokens, &*row.label)));
    }
    let ends = |of: fn(&(f64, f64, &str)) -> f64| {
        let low = rows.iter().min_by(|one, other| of(one).total_cmp(&of(other)))?;
        let high = rows.iter().max_by(|one, other| of(one).total_cmp(&of(other)))?;
        differ(of(low), of(high)).then_some((low, high))
    };
    let (low, high) = ends(|one| one.0).or_else(|| ends(|one| one.1))?;
    let text = |(steps, tokens, label): &(f64, f64, &str)| {
        let steps = thousands(steps.round() as u64);
        format!("{steps} steps ({} tokens) for `{label}`", compact(*tokens))
    };
    Some(format!("training budgets differ: from {} to {}", text(low), text(high)))
}
