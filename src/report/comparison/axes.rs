//! Which evaluations of the two sides belong together.

use std::collections::{BTreeMap, BTreeSet};

use super::Side;
use crate::input::Evaluation;
use ablate_core::stage::Manifest;
use ablate_experiment::Selector;

/// The axis of the side in relabeled evaluations. The space keeps it apart from the axes of experiments.
pub(super) const SIDE: &str = "compared side";
/// The values of [`SIDE`].
pub(super) const NAMES: [&str; 2] = ["first", "second"];
/// The name of the stage as an axis: evaluations of different stages are different groups.
const STAGE: &str = "stage";
const SEED: &str = "seed";

/// A point with the stage as one more axis, without the seed.
type Point = BTreeMap<String, String>;

pub(super) struct Alignment {
    /// The axes that pair evaluations.
    keys: Vec<String>,
    /// Those of them that have several values in the groups.
    varying: Vec<String>,
    /// One selector per group that both sides have, in order of appearance on the first side.
    pub(super) groups: Vec<Selector>,
    /// Axes whose values differ between the sides, with several values on one of them.
    pub(super) averaged: BTreeMap<String, [Vec<String>; 2]>,
    /// Names of the evaluations whose group only one side has.
    pub(super) unpaired: [Vec<String>; 2],
}

impl Alignment {
    pub(super) fn new(sides: &[Side; 2]) -> Alignment {
        let points = sides.each_ref().map(|side| side.evaluations.iter().map(point).collect::<Vec<Point>>());
        let axes: BTreeSet<&String> = points.iter().flatten().flat_map(Point::keys).collect();
        let (mut keys, mut averaged) = (Vec::new(), BTreeMap::new());
        for axis in axes {
            let values =
                points.each_ref().map(|points| points.iter().map(|point| point.get(axis)).collect::<BTreeSet<_>>());
            let [first, second] = &values;
            if first.is_disjoint(second) {
                if first.len() > 1 || second.len() > 1 {
                    let listed = values.each_ref().map(|values| values.iter().map(|value| listed(*value)).collect());
                    averaged.insert(axis.clone(), listed);
                }
            } else if first.len() > 1 || second.len() > 1 {
                keys.push(axis.clone());
            }
        }
        let group = |point: &Point| selector(point, &keys);
        let of_side = points.each_ref().map(|points| points.iter().map(group).collect::<Vec<Selector>>());
        let mut groups: Vec<Selector> = Vec::new();
        for group in of_side[0].iter().filter(|group| of_side[1].contains(group)) {
            if !groups.contains(group) {
                groups.push(group.clone());
            }
        }
        let varies = |axis: &&String| {
            let value = |group: &Selector| group.values.get(*axis).cloned();
            groups.iter().any(|group| value(group) != value(&groups[0]))
        };
        let varying = keys.iter().filter(varies).cloned().collect();
        let unpaired = [0, 1].map(|side| {
            let alone = of_side[side].iter().zip(&sides[side].evaluations).filter(|(group, _)| !groups.contains(group));
            alone.map(|(_, evaluation)| evaluation.instance.clone()).collect()
        });
        Alignment { keys, varying, groups, averaged, unpaired }
    }

    /// The paired evaluations of both sides with the axes [`SIDE`], those that pair them, and the seed. The label of the side is
    /// part of names that both sides have.
    pub(super) fn relabel(&self, sides: &[Side; 2], stage: &str) -> Vec<Evaluation> {
        let mut all = Vec::new();
        let names =
            sides.each_ref().map(|side| side.evaluations.iter().map(|one| &one.instance).collect::<BTreeSet<_>>());
        for (side, name) in sides.iter().zip(NAMES) {
            for evaluation in &side.evaluations {
                let own = point(evaluation);
                if !self.is_paired(&own) {
                    continue;
                }
                // Averaged axes stay, so that a seed is complete only with all their values.
                let kept =
                    own.into_iter().filter(|(axis, _)| self.keys.contains(axis) || self.averaged.contains_key(axis));
                let mut point: Point = kept.collect();
                point.insert(SIDE.to_string(), name.to_string());
                point.extend(evaluation.point.get(SEED).map(|seed| (SEED.to_string(), seed.clone())));
                let instance = if names.iter().all(|names| names.contains(&evaluation.instance)) {
                    format!("{}: {}", side.label, evaluation.instance)
                } else {
                    evaluation.instance.clone()
                };
                all.push(Evaluation { instance, stage: stage.to_string(), point, ..evaluation.clone() });
            }
        }
        all
    }

    fn is_paired(&self, point: &Point) -> bool {
        self.groups.contains(&selector(point, &self.keys))
    }

    /// The stages that made the paired evaluations of a side.
    pub(super) fn paired_stages<'a>(&self, side: &'a Side) -> Vec<&'a (String, Manifest)> {
        let paired =
            side.evaluations.iter().zip(&side.made_by).filter(|(evaluation, _)| self.is_paired(&point(evaluation)));
        let indices: BTreeSet<usize> = paired.flat_map(|(_, made_by)| made_by.iter().copied()).collect();
        indices.into_iter().map(|index| &side.stages[index]).collect()
    }

    /// The names of the groups: the values of the axes in which they differ.
    pub(super) fn labels(&self) -> impl Iterator<Item = String> {
        self.groups.iter().map(|group| {
            let value = |axis: &String| match group.values.get(axis) {
                Some(value) => format!("{axis}={value}"),
                None => format!("no {axis}"),
            };
            let values: Vec<String> = self.varying.iter().map(value).collect();
            if values.is_empty() { "all".to_string() } else { values.join(",") }
        })
    }

    /// The number of evaluations of the first side that have the same result as their counterpart.
    pub(super) fn identical(&self, sides: &[Side; 2]) -> usize {
        let key =
            |evaluation: &Evaluation| (selector(&point(evaluation), &self.keys), evaluation.point.get(SEED).cloned());
        let same = |first: &&Evaluation| {
            let counterpart = sides[1].evaluations.iter().filter(|second| key(second) == key(first));
            first.scores.is_some() && counterpart.into_iter().any(|second| second.scores == first.scores)
        };
        sides[0].evaluations.iter().filter(same).count()
    }

    /// The axes on which the sides share some but not all values.
    pub(super) fn why_unpaired(&self, sides: &[Side; 2]) -> String {
        let values = |side: &Side, axis: &str| {
            let values: BTreeSet<String> =
                side.evaluations.iter().map(|evaluation| listed(point(evaluation).get(axis))).collect();
            values.into_iter().take(6).collect::<Vec<_>>().join(", ")
        };
        let of_axis = |axis: &String| {
            format!(
                "`{axis}` is {} on the first side and {} on the second",
                values(&sides[0], axis),
                values(&sides[1], axis)
            )
        };
        self.keys.iter().map(of_axis).collect::<Vec<_>>().join("; ")
    }
}

fn point(evaluation: &Evaluation) -> Point {
    let mut point: Point =
        evaluation.point.iter().filter(|(axis, _)| *axis != SEED).map(|(a, v)| (a.clone(), v.clone())).collect();
    point.entry(STAGE.to_string()).or_insert_with(|| evaluation.stage.clone());
    point
}

/// The selector of a point's group. An axis that the point does not have is absent.
fn selector(point: &Point, keys: &[String]) -> Selector {
    let mut selector = Selector::default();
    for axis in keys {
        match point.get(axis) {
            Some(value) => drop(selector.values.insert(axis.clone(), value.clone())),
            None => drop(selector.absent.insert(axis.clone())),
        }
    }
    selector
}

fn listed(value: Option<&String>) -> String {
    value.cloned().unwrap_or_else(|| "(none)".to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::support::not_run;

    fn side(points: &[&str]) -> Side {
        let evaluations: Vec<Evaluation> = points.iter().map(|point| not_run(point)).collect();
        Side { made_by: vec![Vec::new(); evaluations.len()], evaluations, ..Side::default() }
    }

    fn alignment(first: &[&str], second: &[&str]) -> Alignment {
        Alignment::new(&[side(first), side(second)])
    }

    #[test]
    fn axes_with_common_values_pair_and_others_are_compared() {
        let found = alignment(
            &["model=a,prompt=cot,seed=0", "model=a,prompt=direct,seed=0"],
            &["model=b,prompt=direct,seed=0", "model=b,prompt=cot,seed=1"],
        );
        assert_eq!(found.labels().collect::<Vec<_>>(), ["prompt=cot", "prompt=direct"]);
        assert!(found.averaged.is_empty() && found.unpaired.iter().all(Vec::is_empty));
    }

    #[test]
    fn several_values_that_the_other_side_does_not_have_are_averaged() {
        let found = alignment(&["mix=1,prompt=cot", "mix=2,prompt=cot"], &["mix=3,prompt=cot"]);
        assert_eq!(found.labels().collect::<Vec<_>>(), ["all"]);
        assert_eq!(found.averaged["mix"], [vec!["1".to_string(), "2".to_string()], vec!["3".to_string()]]);
    }

    #[test]
    fn evaluations_without_a_counterpart_are_listed() {
        let found = alignment(&["image=blank,model=a", "image=given,model=a"], &["image=given,model=b"]);
        assert_eq!(found.labels().collect::<Vec<_>>(), ["all"], "the only group needs no name");
        assert_eq!(found.unpaired, [vec!["eval@image=blank,model=a".to_string()], Vec::new()]);
        let none = alignment(&["prompt=cot", "prompt=direct"], &["prompt=cot,seed=1", "style=x,prompt=none"]);
        assert_eq!(none.unpaired[0], ["eval@prompt=direct"]);
    }
}
