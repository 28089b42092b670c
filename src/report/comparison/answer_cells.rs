//! The cells of the browser of answers: both sides of every group, and of every seed of a group.

use super::axes::{Alignment, NAMES, SIDE};
use crate::answers::cells::{AnswerCell, label};
use crate::input::Evaluation;

/// The group of a cell with one seed.
fn with_seed(group: &str, seed: &str) -> String {
    format!("{group}, seed {seed}")
}

/// The second side comes first: its answers are shown when the page is opened.
pub(super) fn cells(alignment: &Alignment, evaluations: &[Evaluation], labels: [&str; 2]) -> Vec<AnswerCell> {
    let mut cells = Vec::new();
    for (group, selector) in alignment.labels().zip(&alignment.groups) {
        let of_side = |side: usize| {
            let all = evaluations.iter().enumerate();
            let found = all.filter(move |(_, one)| {
                one.point.get(SIDE).is_some_and(|name| name == NAMES[side]) && selector.matches(&one.point)
            });
            found.map(|(index, one)| (index, one.point.get("seed"))).collect::<Vec<_>>()
        };
        let sides = [1, 0].map(|side| (labels[side], of_side(side)));
        let mut seeds: Vec<&String> = Vec::new();
        for seed in sides.iter().flat_map(|(_, found)| found).filter_map(|(_, seed)| *seed) {
            if !seeds.contains(&seed) {
                seeds.push(seed);
            }
        }
        let mut add = |side: &str, column: &str, evaluations: Vec<usize>| {
            cells.push(AnswerCell { label: label(side, column), dataset: None, evaluations });
        };
        for (side, found) in &sides {
            add(side, &group, found.iter().map(|(index, _)| *index).collect());
        }
        for seed in seeds.iter().filter(|_| seeds.len() > 1) {
            for (side, found) in &sides {
                // An evaluation without a seed belongs to all seeds.
                let of_seed = found.iter().filter(|(_, own)| own.is_none_or(|own| own == *seed));
                add(side, &with_seed(&group, seed), of_seed.map(|(index, _)| *index).collect());
            }
        }
    }
    cells
}
