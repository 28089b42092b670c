//! Notes about comparisons whose arms can be trained for different numbers of steps and tokens.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::Result;

use super::arm::{Arm, TrainedPoint};
use super::diagnostics::list;
use super::instance::{Expansion, InstanceId, Upstream};
use super::report_spec::{Contrast, ReportSpec};
use super::selector::Selector;
use ablate_core::base::Diagnostic;
use ablate_core::stage::{ArtifactKind, Training, TrainingLength};

/// At most one note per report. It names the first contrast whose arms train for `epochs`, unless they do so on the same
/// data.
pub fn budget_notes(reports: &[ReportSpec], expansion: &Expansion) -> Result<Vec<Diagnostic>> {
    let mut notes = Vec::new();
    for report in reports {
        notes.extend(note(report, expansion)?);
    }
    Ok(notes)
}

fn note(report: &ReportSpec, expansion: &Expansion) -> Result<Option<Diagnostic>> {
    if report.contrasts.is_empty() && report.baseline.is_none() {
        return Ok(None);
    }
    let points: Vec<_> = expansion.points_of(&report.stage).collect();
    let lineages = points.iter().map(|(_, id)| Ok(expansion.lineage(*id)?.training)).collect::<Result<Vec<_>>>()?;
    let evaluations: Vec<TrainedPoint<InstanceId>> =
        points.iter().zip(&lineages).map(|((point, _), training)| (*point, training.as_slice())).collect();
    let mut stages: BTreeSet<&str> = BTreeSet::new();
    let mut contrasts: Vec<(usize, &Contrast)> = Vec::new();
    for (index, contrast) in report.contrasts.iter().enumerate() {
        let arms = Arm::of_contrast(&evaluations, &contrast.plus, &contrast.minus);
        let found = stages_with_epochs(expansion, &arms)?;
        if !found.is_empty() {
            contrasts.push((index, contrast));
        }
        stages.extend(found);
    }
    let mut with_baseline = false;
    for arms in report.baseline.iter().flat_map(|baseline| baseline_arms(&evaluations, baseline)) {
        let found = stages_with_epochs(expansion, &arms)?;
        with_baseline |= !found.is_empty();
        stages.extend(found);
    }
    let arms = match (contrasts.as_slice(), with_baseline) {
        ([], false) => return Ok(None),
        ([], true) => "the baseline and other rows".to_string(),
        ([(_, only)], false) => format!("the arms of the contrast `{}`", only.name),
        ([(_, only)], true) => format!("the arms of the contrast `{}`, and baseline and rows,", only.name),
        ([(_, first), ..], false) => format!("the arms of {} contrasts, first `{}`,", contrasts.len(), first.name),
        ([(_, first), ..], true) => {
            format!("the arms of {} contrasts, first `{}`, and baseline and rows", contrasts.len(), first.name)
        }
    };
    let message = format!("report `{}`: {arms} train for `epochs`, so their training budgets can differ", report.name);
    let tables = stages.iter().map(|stage| format!("stage.{stage}"));
    let help = format!("`steps = N` or `tokens = N` instead of `epochs` in {} makes them equal", list(tables));
    let key = contrasts.first().map_or("baseline".to_string(), |(index, _)| format!("contrasts.{index}"));
    let note = Diagnostic::note(message).help(help);
    Ok(Some(match report.spans.get(&key) {
        Some(span) => note.at(span.clone(), ""),
        None => note,
    }))
}

/// Each evaluation with that of the baseline which has the same values of the other axes.
fn baseline_arms(evaluations: &[TrainedPoint<InstanceId>], baseline: &Selector) -> Vec<[Arm<InstanceId>; 2]> {
    let rest = |point: &BTreeMap<String, String>| -> Vec<(String, String)> {
        let others = point.iter().filter(|(axis, _)| !baseline.values.contains_key(*axis));
        others.map(|(axis, value)| (axis.clone(), value.clone())).collect()
    };
    let (base, rows): (Vec<TrainedPoint<InstanceId>>, Vec<TrainedPoint<InstanceId>>) =
        evaluations.iter().partition(|(point, _)| baseline.matches(point));
    let base: BTreeMap<_, &[InstanceId]> = base.into_iter().map(|(point, training)| (rest(point), training)).collect();
    let arms = |(point, training): TrainedPoint<InstanceId>| {
        Some([training, base.get(&rest(point)).copied()?].map(|training| Arm::new(&[training])))
    };
    rows.into_iter().filter_map(arms).collect()
}

/// What a number of epochs depends on: the length, the batch and the data.
type Setting = (Training, Vec<(InstanceId, String)>);

/// The stages with `epochs` that make the budgets of two arms differ. Empty if the arms share all training stages, if one
/// arm only continues the other, or if both train with the same settings on the same data.
fn stages_with_epochs<'a>(expansion: &'a Expansion, [plus, minus]: &[Arm<InstanceId>; 2]) -> Result<BTreeSet<&'a str>> {
    let (own, other) = (plus.without_shared(&[minus]), minus.without_shared(&[plus]));
    let mut stages = BTreeSet::new();
    if own.is_empty() || other.is_empty() {
        return Ok(stages);
    }
    let mut excess: BTreeMap<Setting, f64> = BTreeMap::new();
    for (id, share) in own.iter().chain(other.iter().map(|(id, share)| (id, -share))) {
        let instance = expansion.get(id);
        let Some(training) = instance.parsed()?.training() else { continue };
        if matches!(training.length, TrainingLength::Epochs(_)) {
            stages.insert(instance.stage.as_str());
        }
        let data = instance.inputs.iter().filter_map(|input| match &input.upstream {
            Upstream::Output { instance, output, kind } if *kind != ArtifactKind::Checkpoint => {
                Some((*instance, output.to_string()))
            }
            _ => None,
        });
        *excess.entry((training, data.collect())).or_default() += share;
    }
    if excess.values().all(|share| share.abs() < 1e-9) {
        stages.clear();
    }
    Ok(stages)
}
