//! The items on which one side is right and the other one is wrong.

use anyhow::Result;
use serde::Serialize;

use super::axes::{Alignment, NAMES, SIDE};
use crate::disagreements::{RIGHT, Response, response, shared_lines};
use crate::score_matrix::{ScoreMatrix, SingleEvaluation};
use ablate_experiment::{ReportSpec, Selector};

/// The direction of a change from the first side to the second.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum FlipDirection {
    /// Wrong on the first side, right on the second.
    Gained,
    /// Right on the first side, wrong on the second.
    Lost,
}

/// The changed answers of one group.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct GroupFlips {
    pub group: String,
    /// Over all seeds.
    #[serde(flatten)]
    pub counts: FlipCounts,
    /// An evenly spaced sample of each direction.
    pub shown: Vec<Flip>,
}

/// Pairs of an item and a seed that both sides have scored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct FlipCounts {
    pub gained: usize,
    pub lost: usize,
    pub both_right: usize,
    pub both_wrong: usize,
}

/// One item whose answer changed.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Flip {
    pub direction: FlipDirection,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub seed: String,
    pub dataset: String,
    pub id: String,
    /// Keys of the images: `<pack>/<member>`.
    pub images: Vec<String>,
    /// The lines that the prompts of both sides share.
    pub prompt: String,
    pub gold: Vec<String>,
    pub first: Response,
    pub second: Response,
}

/// Counts the flips of every group and reads the texts of at most `shown` per group and direction. A group in which a side
/// averages several evaluations is left out.
pub(super) fn find(
    alignment: &Alignment,
    spec: &ReportSpec,
    matrix: &ScoreMatrix,
    shown: usize,
) -> Result<Vec<GroupFlips>> {
    let mut all = Vec::new();
    for (label, group) in alignment.labels().zip(&alignment.groups) {
        let [firsts, seconds] = NAMES.map(|name| matrix.select(&side(name).and(group)));
        let mut counts = FlipCounts::default();
        let mut found: Vec<(FlipDirection, usize, usize)> = Vec::new();
        let mut pairs: Vec<(SingleEvaluation, SingleEvaluation)> = Vec::new();
        let mut seeds: Vec<&str> = Vec::new();
        for (seed, name) in matrix.seeds.iter().enumerate() {
            let one = |source: &[usize]| matrix.single(source, seed);
            let (Some(first), Some(second)) = (one(&firsts.evaluations), one(&seconds.evaluations)) else { continue };
            for item in 0..matrix.items.len() {
                let (Some(before), Some(after)) = (first.scores[item], second.scores[item]) else { continue };
                match (before.score >= RIGHT, after.score >= RIGHT) {
                    (true, true) => counts.both_right += 1,
                    (false, false) => counts.both_wrong += 1,
                    (false, true) => found.push((FlipDirection::Gained, pairs.len(), item)),
                    (true, false) => found.push((FlipDirection::Lost, pairs.len(), item)),
                }
            }
            pairs.push((first, second));
            seeds.push(name);
        }
        if pairs.is_empty() {
            continue;
        }
        let mut texts = Vec::new();
        for direction in [FlipDirection::Gained, FlipDirection::Lost] {
            let of_direction: Vec<_> = found.iter().filter(|(known, ..)| *known == direction).collect();
            match direction {
                FlipDirection::Gained => counts.gained = of_direction.len(),
                FlipDirection::Lost => counts.lost = of_direction.len(),
            }
            let count = of_direction.len().min(shown);
            for number in 0..count {
                let (_, pair, item) = of_direction[(2 * number + 1) * of_direction.len() / (2 * count)];
                let (first, second) = &pairs[*pair];
                let (Some(before), Some(after)) = (first.with_texts(*item)?, second.with_texts(*item)?) else {
                    continue;
                };
                let side_label = |side: usize| spec.labels[side].1.clone();
                texts.push(Flip {
                    direction,
                    seed: seeds[*pair].to_string(),
                    prompt: shared_lines(&before.prompt, &after.prompt),
                    images: before.images.keys().iter().map(ToString::to_string).collect(),
                    first: response(side_label(0), &before),
                    second: response(side_label(1), &after),
                    dataset: before.dataset,
                    id: before.id,
                    gold: before.gold,
                });
            }
        }
        all.push(GroupFlips { group: label, counts, shown: texts });
    }
    Ok(all)
}

fn side(name: &str) -> Selector {
    Selector { values: [(SIDE.to_string(), name.to_string())].into(), ..Selector::default() }
}
