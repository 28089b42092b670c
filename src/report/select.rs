//! `select` of a report: chooses the value of an axis with the best mean score on some evaluations, and shows it on the
//! others. An item is never used for both, because the maximum of noisy means overestimates the score.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Result, bail};

use super::input::Images;
use super::scores::{EvaluationScores, ItemScore, Scores};
use super::text_table::percent;
use ablate_core::base::Hash;
use ablate_experiment::{ReportSpec, Select};

/// The evaluations that a table shows, by their indices, and a note about the selected value.
///
/// Errors: an item of the deciding evaluations is also in the shown ones, or no deciding evaluation has the axis.
pub(super) fn select_evaluations(
    scores: &Scores<'_>,
    spec: &ReportSpec,
    images: &Images<'_>,
) -> Result<(Vec<usize>, Option<String>)> {
    let all: Vec<usize> = (0..scores.evaluations.len()).collect();
    let Some(Select { axis, on }) = &spec.select else { return Ok((all, None)) };
    let of_stage = all.into_iter().filter(|&index| scores.evaluations[index].evaluation.stage == spec.stage);
    let (deciding, shown): (Vec<usize>, Vec<usize>) =
        of_stage.partition(|&index| on.matches(&scores.evaluations[index].evaluation.point));
    let mut contents = ItemContents { scores, images, hashes: BTreeMap::new() };
    let used: BTreeSet<(Vec<Hash>, u32, &[String])> =
        item_scores(scores, &deciding).map(|score| contents.key(score)).collect();
    let both = item_scores(scores, &shown).filter(|score| used.contains(&contents.key(score)));
    let both = both.map(|score| scores.item(score));
    let both: BTreeSet<(&str, &str)> = both.map(|item| (scores.datasets[item.dataset].as_str(), &*item.id)).collect();
    if let Some((dataset, id)) = both.first() {
        bail!(
            "`{axis}` would be selected on {} items that the table reports, for example `{id}` of `{dataset}`: select on \
             other items",
            both.len()
        );
    }
    let mut means: BTreeMap<&str, (f64, usize)> = BTreeMap::new();
    for EvaluationScores { evaluation, scores } in deciding.iter().map(|&index| &scores.evaluations[index]) {
        let Some(label) = evaluation.point.get(axis) else { continue };
        let Some(scores) = scores else {
            let note = format!("`{axis}` is not selected yet: `{}` has not run", evaluation.instance);
            return Ok((shown, Some(note)));
        };
        let (sum, count) = means.entry(label).or_default();
        for value in scores.iter().filter_map(|score| score.value(spec.metric)) {
            *sum += value;
            *count += 1;
        }
    }
    let means = means.into_iter().filter(|(_, (_, count))| *count > 0);
    let means: Vec<(&str, f64)> = means.map(|(label, (sum, count))| (label, sum / count as f64)).collect();
    // Of equal means the first in alphabetical order.
    let better = |one: f64, other: f64| if spec.metric.is_error() { one < other } else { one > other };
    let best = means.iter().fold(None, |best: Option<(&str, f64)>, one| match best {
        Some(best) if !better(one.1, best.1) => Some(best),
        _ => Some(*one),
    });
    let Some((best, _)) = best else { bail!("cannot select `{axis}`: no scores with `{on}` have this axis") };
    let list: Vec<String> = means.iter().map(|(label, mean)| format!("{label} {}", percent(*mean))).collect();
    let note = format!("{axis}={best} was selected on {on}: {}", list.join(", "));
    let selected =
        |index: &usize| scores.evaluations[*index].evaluation.point.get(axis).is_none_or(|label| label == best);
    Ok((shown.into_iter().filter(selected).collect(), Some(note)))
}

fn item_scores<'m>(scores: &'m Scores<'_>, evaluations: &[usize]) -> impl Iterator<Item = &'m ItemScore> {
    evaluations.iter().flat_map(|&index| scores.evaluations[index].scores.iter().flat_map(|scores| scores.iter()))
}

/// Compares items by content: two files may have the same item under different ids, or different items under one id.
struct ItemContents<'m, 'i> {
    scores: &'m Scores<'m>,
    images: &'m Images<'i>,
    /// By image key.
    hashes: BTreeMap<&'m str, Hash>,
}

impl<'m> ItemContents<'m, '_> {
    /// Images, first line of the prompt and gold answers. Two evaluations of an item can have different instructions,
    /// which are in the last line of the prompt.
    fn key(&mut self, score: &ItemScore) -> (Vec<Hash>, u32, &'m [String]) {
        let item = &self.scores.items[score.item as usize];
        let hashes = item.images.keys().iter().map(|image| {
            let hash = || Hash::of_bytes(&(self.images)(image).unwrap_or_else(|| image.as_bytes().to_vec()));
            *self.hashes.entry(image).or_insert_with(hash)
        });
        (hashes.collect(), score.question, &item.gold)
    }
}
