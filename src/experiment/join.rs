//! The natural join of points: two points match when they agree on every axis that both have.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::instance::InstanceId;

/// The most points of all stages together. More are refused, because they are almost always a mistake in the file.
pub(crate) const MAX_POINTS: usize = 250_000;

/// The identity of an axis. Its name depends on the stage: a list that fans out is `model` at its own stage, and may be
/// `eval.model` at others.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum AxisId {
    /// An axis of the experiment, or `seed`.
    Shared(Arc<str>),
    /// A list under a key of a stage, one instance per element.
    FanOut { stage: Arc<str>, key: &'static str },
}

/// Axis to label.
pub(crate) type Point = BTreeMap<AxisId, Arc<str>>;

/// Labels to the indices of the points that have them.
type Index = BTreeMap<Vec<Arc<str>>, Vec<usize>>;

/// The points of an upstream stage that a reference selects, indexed for the join.
#[derive(Debug, Default)]
pub(crate) struct Candidates {
    points: Vec<(Point, InstanceId)>,
    /// Indices of the points, grouped by the axes that they have.
    groups: BTreeMap<Vec<AxisId>, Vec<usize>>,
    /// Per group and per set of axes that the other side has too: an index over the labels on these axes.
    indexes: BTreeMap<(Vec<AxisId>, Vec<AxisId>), Index>,
}

/// A point of the reading stage, with the upstream instances that are joined so far.
#[derive(Clone, Debug, Default)]
pub(crate) struct Joined {
    pub(crate) point: Point,
    pub(crate) upstream: Vec<InstanceId>,
}

impl Candidates {
    pub(crate) fn new(points: Vec<(Point, InstanceId)>) -> Candidates {
        let mut groups: BTreeMap<Vec<AxisId>, Vec<usize>> = BTreeMap::new();
        for (index, (point, _)) in points.iter().enumerate() {
            groups.entry(point.keys().cloned().collect()).or_default().push(index);
        }
        Candidates { points, groups, indexes: BTreeMap::new() }
    }

    /// Joins every element of `partial` with every matching point. `None` when the result exceeds [`MAX_POINTS`].
    pub(crate) fn join(&mut self, partial: Vec<Joined>) -> Option<Vec<Joined>> {
        let mut result = Vec::with_capacity(partial.len());
        for joined in partial {
            for index in self.matches(&joined.point) {
                let (point, instance) = &self.points[index];
                let mut next = joined.clone();
                next.point.extend(point.iter().map(|(axis, label)| (axis.clone(), label.clone())));
                next.upstream.push(*instance);
                result.push(next);
                if result.len() > MAX_POINTS {
                    return None;
                }
            }
        }
        Some(result)
    }

    /// Indices of the points that match `point`, in ascending order.
    fn matches(&mut self, point: &Point) -> Vec<usize> {
        let mut found = Vec::new();
        for (axes, members) in &self.groups {
            let shared: Vec<AxisId> = axes.iter().filter(|axis| point.contains_key(axis)).cloned().collect();
            if shared.is_empty() {
                found.extend(members);
                continue;
            }
            let labels = |point: &Point| -> Vec<Arc<str>> {
                shared.iter().filter_map(|axis| point.get(axis).cloned()).collect()
            };
            let wanted = labels(point);
            let index = self.indexes.entry((axes.clone(), shared.clone())).or_insert_with(|| {
                let mut index = Index::new();
                for member in members {
                    index.entry(labels(&self.points[*member].0)).or_default().push(*member);
                }
                index
            });
            found.extend(index.get(&wanted).into_iter().flatten());
        }
        found.sort_unstable();
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn point(pairs: &[(&str, &str)]) -> Point {
        pairs.iter().map(|(axis, label)| (AxisId::Shared((*axis).into()), (*label).into())).collect()
    }

    #[test]
    fn join_matches_shared_axes_and_multiplies_others() {
        let mut candidates = Candidates::new(vec![
            (point(&[("mix", "cot"), ("seed", "0")]), InstanceId(0)),
            (point(&[("mix", "cot"), ("seed", "1")]), InstanceId(1)),
            (point(&[("mix", "both"), ("seed", "0")]), InstanceId(2)),
            (point(&[]), InstanceId(3)),
        ]);
        let start = vec![Joined { point: point(&[("mix", "cot"), ("prompt", "direct")]), upstream: Vec::new() }];
        let joined = candidates.join(start).unwrap();
        let upstream: Vec<usize> = joined.iter().map(|joined| joined.upstream[0].0).collect();
        assert_eq!(upstream, [0, 1, 3]);
        assert_eq!(joined[1].point, point(&[("mix", "cot"), ("prompt", "direct"), ("seed", "1")]));
    }
}
