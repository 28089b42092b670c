//! From item scores to series: which items and seeds a table shares, and what a set of instances measured on them.
//!
//! An item is known by data set, id, image and gold answer, so that items that only share a name (another draw
//! of a synthetic task) are never compared as if they were one.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Result, ensure};

use super::input::{DATASET, Evaluation, Metric, Selector};
use super::statistics::{Items, Series};
use crate::data::records::Score;

/// The evaluations of one stage, laid over their items and seeds.
pub(super) struct Cells<'a> {
    /// Labels of the seeds; one empty label when nothing varies by seed.
    pub(super) seeds: Vec<String>,
    /// Names of the data sets, in order of appearance.
    pub(super) datasets: Vec<String>,
    pub(super) items: Items,
    evaluations: Vec<Measured<'a>>,
}

/// What some instances measured together.
pub(super) struct Pool {
    /// Names of the instances, those that have not run included.
    pub(super) instances: Vec<String>,
    /// Names of those that have not run.
    pub(super) missing: Vec<String>,
    pub(super) metric: Series,
    pub(super) compliance: Series,
    pub(super) readable: Series,
}

/// Instances, by their indices, and the data set they are looked at on; all data sets when none is chosen.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Choice {
    pub(super) instances: Vec<usize>,
    pub(super) dataset: Option<usize>,
}

struct Measured<'a> {
    evaluation: &'a Evaluation,
    /// Index of its seed; none for an instance that all seeds share.
    seed: Option<usize>,
    /// By item; empty when it has not run.
    scores: Vec<Option<&'a Score>>,
    /// By data set: whether any of its items was asked.
    covers: Vec<bool>,
}

type Key<'a> = (&'a str, Option<&'a str>, &'a [String]);

impl<'a> Cells<'a> {
    /// Lays out the instances of `stage`. A score that is no number from 0 to 1, or comes twice, is an error.
    pub(super) fn new(evaluations: &'a [Evaluation], stage: &str) -> Result<Cells<'a>> {
        let evaluations: Vec<&Evaluation> = evaluations.iter().filter(|one| one.stage == stage).collect();
        let mut seeds: Vec<String> = Vec::new();
        let mut datasets: Vec<String> = Vec::new();
        let mut keys: Vec<BTreeMap<Key, usize>> = Vec::new();
        for evaluation in &evaluations {
            if let Some(seed) = evaluation.point.get("seed").filter(|seed| !seeds.contains(seed)) {
                seeds.push(seed.clone());
            }
            for score in evaluation.scores.iter().flatten() {
                check(score, evaluation)?;
                let dataset = datasets.iter().position(|name| *name == score.dataset).unwrap_or_else(|| {
                    datasets.push(score.dataset.clone());
                    keys.push(BTreeMap::new());
                    datasets.len() - 1
                });
                let next = keys[dataset].len();
                keys[dataset].entry(key(score)).or_insert(next);
            }
        }
        if seeds.is_empty() {
            seeds.push(String::new());
        }
        let items = Items::new(&keys.iter().map(BTreeMap::len).collect::<Vec<_>>());
        let starts: Vec<usize> = items.datasets().map(|range| range.start).collect();
        let mut measured = Vec::new();
        for evaluation in evaluations {
            let mut one = Measured {
                evaluation,
                seed: evaluation.point.get("seed").and_then(|seed| seeds.iter().position(|known| known == seed)),
                scores: Vec::new(),
                covers: vec![false; datasets.len()],
            };
            if let Some(scores) = &evaluation.scores {
                one.scores = vec![None; items.len()];
                for score in scores {
                    let Some(dataset) = datasets.iter().position(|name| *name == score.dataset) else { continue };
                    let item = starts[dataset] + keys[dataset][&key(score)];
                    let (instance, id) = (&evaluation.instance, &score.id);
                    ensure!(one.scores[item].is_none(), "`{instance}`: the item `{id}` is scored twice");
                    one.scores[item] = Some(score);
                    one.covers[dataset] = true;
                }
            }
            measured.push(one);
        }
        Ok(Cells { seeds, datasets, items, evaluations: measured })
    }

    /// The values of `axes` that occur together, in order of appearance; an axis a point lacks is absent there.
    pub(super) fn combinations(&self, axes: &[&str]) -> Vec<Selector> {
        let mut all: Vec<Selector> = Vec::new();
        let by_dataset = axes.contains(&DATASET);
        let axes: Vec<&str> = axes.iter().copied().filter(|axis| *axis != DATASET).collect();
        for Measured { evaluation, .. } in &self.evaluations {
            let mut selector = Selector::default();
            for &axis in &axes {
                match evaluation.point.get(axis) {
                    Some(value) => drop(selector.pins.insert(axis.to_string(), value.clone())),
                    None => drop(selector.absent.insert(axis.to_string())),
                }
            }
            if !all.contains(&selector) {
                all.push(selector);
            }
        }
        if !by_dataset {
            return all;
        }
        let pin = |selector: &Selector, dataset: &String| {
            let mut selector = selector.clone();
            selector.pins.insert(DATASET.to_string(), dataset.clone());
            selector
        };
        all.iter().flat_map(|selector| self.datasets.iter().map(|dataset| pin(selector, dataset))).collect()
    }

    /// What a selector names.
    pub(super) fn select(&self, selector: &Selector) -> Choice {
        let matching = |index: &usize| selector.matches(&self.evaluations[*index].evaluation.point);
        let mut instances: Vec<usize> = (0..self.evaluations.len()).filter(matching).collect();
        let position = |name: &str| self.datasets.iter().position(|known| known == name);
        let dataset = selector.dataset().and_then(position);
        if selector.dataset().is_some() && dataset.is_none() {
            instances.clear();
        }
        Choice { instances, dataset }
    }

    /// What these instances measured: per seed and item the mean over the instances.
    ///
    /// A seed counts only when all its instances have run, and an item only when every instance that asks its
    /// data set has it: otherwise a missing instance would shift the mean.
    pub(super) fn pool(&self, Choice { instances, dataset }: &Choice, metric: Metric) -> Pool {
        let instances: Vec<&Measured> = instances.iter().map(|&index| &self.evaluations[index]).collect();
        let names = |keep: &dyn Fn(&Measured) -> bool| -> Vec<String> {
            instances.iter().filter(|one| keep(one)).map(|one| one.evaluation.instance.clone()).collect()
        };
        // By seed the instances that make it up: one per point when the seed is left out.
        let points: BTreeSet<_> = instances.iter().map(|one| without_seed(one.evaluation)).collect();
        let by_seed: Vec<Vec<&Measured>> = (0..self.seeds.len())
            .map(|seed| {
                let mine: Vec<&Measured> =
                    instances.iter().copied().filter(|one| one.seed.is_none_or(|its| its == seed)).collect();
                let run = mine.iter().filter(|one| one.evaluation.scores.is_some());
                let complete = run.map(|one| without_seed(one.evaluation)).collect::<BTreeSet<_>>() == points;
                if complete { mine } else { Vec::new() }
            })
            .collect();
        let dataset_of: Vec<usize> =
            self.items.datasets().enumerate().flat_map(|(dataset, range)| range.map(move |_| dataset)).collect();
        let shared = !instances.is_empty() && instances.iter().all(|one| one.seed.is_none());
        let series = |metric: Metric| {
            Series::new(self.seeds.len(), &self.items, shared, |seed, item| {
                if dataset.is_some_and(|only| only != dataset_of[item]) {
                    return None;
                }
                let asked = by_seed[seed].iter().filter(|one| one.covers[dataset_of[item]]);
                let values: Option<Vec<f64>> =
                    asked.map(|one| one.scores[item].map(|score| metric.of(score))).collect();
                super::statistics::series::mean(values?)
            })
        };
        Pool {
            instances: names(&|_| true),
            missing: names(&|one| one.evaluation.scores.is_none()),
            metric: series(metric),
            compliance: series(Metric::Compliance),
            readable: series(Metric::Readable),
        }
    }

    /// The scores of one instance and seed by item, for showing responses. None unless exactly one instance fits.
    pub(super) fn scores(&self, instances: &[usize], seed: usize) -> Option<&[Option<&'a Score>]> {
        let fits = |one: &&Measured| one.seed.is_none_or(|its| its == seed) && !one.scores.is_empty();
        let mut found = instances.iter().map(|&index| &self.evaluations[index]).filter(fits);
        let first = found.next()?;
        found.next().is_none().then_some(&first.scores)
    }
}

fn key(score: &Score) -> Key<'_> {
    (&score.id, score.image.as_deref(), &score.gold)
}

fn without_seed(evaluation: &Evaluation) -> Vec<(&String, &String)> {
    evaluation.point.iter().filter(|(axis, _)| *axis != "seed").collect()
}

fn check(score: &Score, evaluation: &Evaluation) -> Result<()> {
    let (instance, id, value) = (&evaluation.instance, &score.id, score.score);
    ensure!((0.0..=1.0).contains(&value), "`{instance}`: the item `{id}` has the score {value}, not one from 0 to 1");
    Ok(())
}
