//! Compares two sets of evaluations: the difference of their scores with intervals and tests, and the items whose answers
//! changed.
//!
//! The axes decide what is compared with what. An axis that has one value on each side, and two different ones, is what is
//! compared. An axis whose values occur on both sides pairs the evaluations: each of its values is a group.

mod answer_cells;
mod axes;
mod flips;
mod parameters;

use std::collections::BTreeMap;

use anyhow::{Result, bail};
use serde::Serialize;

pub use flips::{Flip, FlipCounts, FlipDirection, GroupFlips};
pub use parameters::ParameterDifference;

use self::axes::{Alignment, SIDE};
use self::parameters::parameter_differences;
use super::compute::compute_table;
use super::contamination;
use super::input::{Evaluation, Images};
use super::layout::Layout;
use super::score_matrix::ScoreMatrix;
use super::scores::Scores;
use super::table::ContrastResult;
use super::{Report, answers};
use ablate_core::stage::Manifest;
use ablate_experiment::{Contrast, GroupBy, Metric, ReportSpec, Selector};

/// One side of a comparison.
#[derive(Clone, Debug, Default)]
pub struct Side {
    /// What the user wrote, for example `eval@model=dpo`.
    pub label: String,
    pub evaluations: Vec<Evaluation>,
    /// The stages that made the evaluations: name and manifest.
    pub stages: Vec<(String, Manifest)>,
    /// By evaluation: the stages that made it, as indices into `stages`.
    pub made_by: Vec<Vec<usize>>,
}

/// The difference of two sides. Differences are the second side minus the first.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Comparison {
    pub first: String,
    pub second: String,
    /// Values of the stages that made the evaluations, where the sides differ.
    pub parameters: Vec<ParameterDifference>,
    /// One table: a row per side, a column and a contrast per group.
    pub report: Report,
    pub flips: Vec<GroupFlips>,
    /// Pairs of evaluations of both sides that have the same result.
    pub identical: usize,
    /// Evaluations of one side without a counterpart on the other one.
    pub unpaired: [Vec<String>; 2],
}

/// The names of the stage and of the contrast over all groups.
const STAGE: &str = "comparison";
const ALL_GROUPS: &str = "all";

/// Compares two sides. `shown` is the number of changed answers per group and direction that get their texts. `answer_bytes` limits
/// the answers of the page, as in [`super::ReportInput`].
///
/// Errors: no evaluation of one side has a counterpart on the other one, or unreadable scores.
pub fn compare(
    sides: &[Side; 2],
    metric: Metric,
    shown: usize,
    images: &Images<'_>,
    answer_bytes: usize,
) -> Result<Comparison> {
    let alignment = Alignment::new(sides);
    let [first, second] = [&sides[0].label, &sides[1].label].map(Clone::clone);
    if alignment.groups.is_empty() {
        bail!(
            "no evaluation of `{first}` has a counterpart in `{second}`: {}\nhelp: name one value of the other axes, for example \
             `eval@model=dpo,prompt=cot`",
            alignment.why_unpaired(sides)
        );
    }
    let evaluations = alignment.relabel(sides, STAGE);
    let scores = Scores::read(&evaluations)?;
    let all: Vec<usize> = (0..evaluations.len()).collect();
    let matrix = ScoreMatrix::new(&scores, &all, STAGE)?;
    let spec = specification(&alignment, [&first, &second], metric);
    let layout = Layout::new(&spec, &matrix)?;
    let mut table = compute_table(&spec, &matrix, &layout);
    table.notes = contamination::note(&scores, &all, &spec).into_iter().collect();
    let flips = flips::find(&alignment, &spec, &matrix, shown)?;
    let cells = answer_cells::cells(&alignment, &evaluations, [&first, &second]);
    let report = Report {
        experiment: format!("{first} compared with {second}"),
        tables: vec![table],
        notes: notes(&alignment),
        answers: answers::pack(&scores, &cells, images, answer_bytes)?,
        ..Report::default()
    };
    Ok(Comparison {
        parameters: parameter_differences(&sides.each_ref().map(|side| alignment.paired_stages(side))),
        identical: alignment.identical(sides),
        unpaired: alignment.unpaired,
        first,
        second,
        report,
        flips,
    })
}

/// The order of the contrasts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GroupOrder {
    /// As the groups appear in the experiment.
    Appearance,
    /// The largest difference first.
    Difference,
    /// The smallest p-value first.
    PValue,
}

impl Comparison {
    /// Sorts the contrasts. Groups without a measured difference come last.
    pub fn sort(&mut self, order: GroupOrder) {
        let key = |contrast: &ContrastResult| match (&contrast.difference, order) {
            (Some(difference), GroupOrder::Difference) => -difference.estimate.mean,
            (Some(difference), GroupOrder::PValue) => difference.p_holm,
            (None, _) => f64::INFINITY,
            (Some(_), GroupOrder::Appearance) => 0.0,
        };
        if order != GroupOrder::Appearance {
            for table in &mut self.report.tables {
                table.contrasts.sort_by(|one, other| key(one).total_cmp(&key(other)));
            }
        }
    }
}

/// Axes over which evaluations of one side are averaged, because their values do not occur on the other side.
fn notes(alignment: &Alignment) -> Vec<String> {
    let note = |(axis, values): (&String, &[Vec<String>; 2])| {
        let [first, second] = values.each_ref().map(|values| values.join(", "));
        format!("averaged over `{axis}`: {first} on the first side, {second} on the second")
    };
    alignment.averaged.iter().map(note).collect()
}

/// The table: sides in rows, groups in columns, and a contrast per group and for all groups together.
fn specification(alignment: &Alignment, labels: [&str; 2], metric: Metric) -> ReportSpec {
    let side =
        |name: &str| Selector { values: BTreeMap::from([(SIDE.to_string(), name.to_string())]), ..Selector::default() };
    let sides = [side(axes::NAMES[0]), side(axes::NAMES[1])];
    let contrast = |name: String, group: &Selector| Contrast {
        name,
        plus: vec![sides[1].and(group)],
        minus: vec![sides[0].and(group)],
        ..Contrast::default()
    };
    let mut contrasts: Vec<Contrast> =
        alignment.labels().zip(&alignment.groups).map(|(label, group)| contrast(label, group)).collect();
    if contrasts.len() > 1 {
        contrasts.push(contrast(ALL_GROUPS.to_string(), &Selector::default()));
    }
    ReportSpec {
        name: STAGE.to_string(),
        title: format!("{} minus {}", labels[1], labels[0]),
        stage: STAGE.to_string(),
        rows: GroupBy::Selectors(sides.to_vec()),
        columns: GroupBy::Selectors(alignment.groups.clone()),
        baseline: Some(sides[0].clone()),
        metric,
        labels: sides.iter().zip(labels).map(|(side, label)| (side.clone(), label.to_string())).collect(),
        contrasts,
        published: None,
        select: None,
        spans: BTreeMap::new(),
    }
}
