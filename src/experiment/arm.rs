//! The arms of a comparison, as the training stages of their models.

use std::collections::{BTreeMap, BTreeSet};

use super::selector::Selector;

/// An evaluation by its point, with the training stages of its model.
pub type TrainedPoint<'a, T> = (&'a BTreeMap<String, String>, &'a [T]);

/// The training stages of one arm, with the share of the arm's evaluations that each of them trained.
#[derive(Clone, Debug, PartialEq)]
pub struct Arm<T: Ord>(BTreeMap<T, f64>);

impl<T: Ord + Copy> Arm<T> {
    /// The arm of these evaluations, given the training stages of each.
    pub fn new(evaluations: &[&[T]]) -> Arm<T> {
        let weight = 1.0 / evaluations.len() as f64;
        let mut shares = BTreeMap::new();
        for stage in evaluations.iter().flat_map(|training| training.iter()) {
            *shares.entry(*stage).or_insert(0.0) += weight;
        }
        Arm(shares)
    }

    /// The mean of arms with equal weight.
    fn mean(arms: &[Arm<T>]) -> Arm<T> {
        let mut shares = BTreeMap::new();
        for (stage, share) in arms.iter().flat_map(Arm::iter) {
            *shares.entry(stage).or_insert(0.0) += share / arms.len() as f64;
        }
        Arm(shares)
    }

    /// The two sides of a contrast, on the seeds that both have.
    pub fn of_contrast(evaluations: &[TrainedPoint<T>], plus: &[Selector], minus: &[Selector]) -> [Arm<T>; 2] {
        let sides = [plus, minus].map(|side| {
            let group = |selector: &Selector| {
                let all = evaluations.iter().copied().filter(|(point, _)| selector.matches(point));
                all.collect::<Vec<TrainedPoint<T>>>()
            };
            side.iter().map(group).collect::<Vec<_>>()
        });
        let [one, other] = [&sides[0], &sides[1]].map(|groups| {
            let points = groups.iter().flatten().map(|(point, _)| *point);
            points.filter_map(|point| point.get("seed")).collect::<BTreeSet<&String>>()
        });
        let both_have = |point: &BTreeMap<String, String>| match point.get("seed") {
            Some(seed) if !one.is_empty() && !other.is_empty() => one.contains(seed) && other.contains(seed),
            _ => true,
        };
        sides.map(|groups| {
            let compared = |group: Vec<TrainedPoint<'_, T>>| {
                let compared = group.into_iter().filter(|(point, _)| both_have(point));
                Arm::new(&compared.map(|(_, training)| training).collect::<Vec<&[T]>>())
            };
            Arm::mean(&groups.into_iter().map(compared).collect::<Vec<Arm<T>>>())
        })
    }

    /// The stages that the other arms do not have in the same share.
    #[must_use]
    pub fn without_shared(&self, others: &[&Arm<T>]) -> Arm<T> {
        let equal = |stage: &T, share: f64, other: &Arm<T>| {
            other.0.get(stage).is_some_and(|theirs| (theirs - share).abs() < ROUNDING)
        };
        let shared = |(stage, share): &(&T, &f64)| others.iter().all(|other| equal(stage, **share, other));
        Arm(self.0.iter().filter(|one| !shared(one)).map(|(stage, share)| (*stage, *share)).collect())
    }

    /// The stages with their shares.
    pub fn iter(&self) -> impl Iterator<Item = (T, f64)> {
        self.0.iter().map(|(stage, share)| (*stage, *share))
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// Shares that differ by less are equal: they are sums of few fractions.
const ROUNDING: f64 = 1e-9;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_contrast_compares_the_stages_that_its_sides_do_not_share() {
        let point = |text: &str| Selector::parse(text).unwrap().values;
        let points = ["model=sft,seed=0", "model=sft,seed=1", "model=dpo,seed=0"].map(point);
        let training: [&[&str]; 3] = [&["base", "sft 0"], &["base", "sft 1"], &["base", "sft 0", "dpo 0"]];
        let evaluations: Vec<TrainedPoint<&str>> = points.iter().zip(training).collect();
        let side = |text: &str| vec![Selector::parse(text).unwrap()];
        let [dpo, sft] = Arm::of_contrast(&evaluations, &side("model=dpo"), &side("model=sft"));
        // Only seed 0 is compared.
        assert_eq!(sft.iter().collect::<Vec<_>>(), [("base", 1.0), ("sft 0", 1.0)]);
        assert_eq!(dpo.without_shared(&[&sft]).iter().collect::<Vec<_>>(), [("dpo 0", 1.0)]);
        assert!(sft.without_shared(&[&dpo]).is_empty());
    }

    #[test]
    fn a_stage_in_different_shares_is_not_shared() {
        let (both, one) = (Arm::new(&[&["a"][..], &["b"]]), Arm::new(&[&["a"]]));
        assert_eq!(both.without_shared(&[&one]).iter().collect::<Vec<_>>(), [("a", 0.5), ("b", 0.5)]);
    }
}
