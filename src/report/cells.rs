//! From item scores to series: which items and seeds a table shares, and what a set of instances measured on them.
//!
//! An item is known by data set, id, image and gold answer, so that items that only share a name (another draw
//! of a synthetic task) are never compared as if they were one.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Result, ensure};

use super::input::{DATASET, Evaluation, Metric, Selector};
use super::scores::{Measured, Measurements, Scored};
use super::statistics::{Items, Series};
use ablate_data::records::Score;

/// The evaluations of one stage, laid over their items and seeds.
pub(super) struct Cells<'a> {
    /// Labels of the seeds; one empty label when nothing varies by seed.
    pub(super) seeds: Vec<String>,
    /// Names of the data sets, in order of appearance.
    pub(super) datasets: Vec<String>,
    pub(super) items: Items,
    read: &'a Measurements<'a>,
    evaluations: Vec<Laid<'a>>,
}

/// Instances, by their indices, and the data set they are looked at on; all data sets when none is chosen.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Choice {
    pub(super) instances: Vec<usize>,
    pub(super) dataset: Option<usize>,
}

/// One evaluation over the items of the table.
struct Laid<'a> {
    measured: &'a Measured<'a>,
    /// Its index among all that were read.
    index: usize,
    /// Index of its seed; none for an instance that all seeds share.
    seed: Option<usize>,
    /// By data set of which any item was asked: the score of each of its items.
    scores: BTreeMap<usize, Vec<Option<&'a Scored>>>,
}

/// The answers of one instance, for showing responses.
pub(super) struct Answers<'a> {
    read: &'a Measurements<'a>,
    index: usize,
    /// By item of the table.
    pub(super) scores: Vec<Option<&'a Scored>>,
}

/// Items that the table does not know.
const UNKNOWN: usize = usize::MAX;

impl<'a> Cells<'a> {
    /// Lays out the instances of `stage` among the evaluations that are `shown`, by their indices. A score that is no
    /// number from 0 to 1, or comes twice, is an error.
    pub(super) fn new(read: &'a Measurements<'a>, shown: &[usize], stage: &str) -> Result<Cells<'a>> {
        let of_stage = || {
            let all = shown.iter().map(|&index| (index, &read.evaluations[index]));
            all.filter(|(_, measured)| measured.evaluation.stage == stage)
        };
        let mut seeds: Vec<String> = Vec::new();
        let mut datasets: Vec<String> = Vec::new();
        let mut sizes: Vec<usize> = Vec::new();
        // Indices among all that was read to those of this table, in order of appearance.
        let mut dataset_of = vec![UNKNOWN; read.datasets.len()];
        let mut place_of = vec![UNKNOWN; read.items.len()];
        for (_, Measured { evaluation, scores }) in of_stage() {
            if let Some(seed) = evaluation.point.get("seed").filter(|seed| !seeds.contains(seed)) {
                seeds.push(seed.clone());
            }
            for scored in scores.iter().flat_map(|scores| scores.iter()) {
                let item = read.item(scored);
                check(scored.score, &item.id, evaluation)?;
                let dataset = &mut dataset_of[item.dataset];
                if *dataset == UNKNOWN {
                    *dataset = datasets.len();
                    datasets.push(read.datasets[item.dataset].clone());
                    sizes.push(0);
                }
                let place = &mut place_of[scored.item as usize];
                if *place == UNKNOWN {
                    *place = sizes[*dataset];
                    sizes[*dataset] += 1;
                }
            }
        }
        if seeds.is_empty() {
            seeds.push(String::new());
        }
        let mut evaluations = Vec::new();
        for (index, measured) in of_stage() {
            let Measured { evaluation, scores } = measured;
            let mut laid: BTreeMap<usize, Vec<Option<&Scored>>> = BTreeMap::new();
            for scored in scores.iter().flat_map(|scores| scores.iter()) {
                let item = read.item(scored);
                let dataset = dataset_of[item.dataset];
                let row = laid.entry(dataset).or_insert_with(|| vec![None; sizes[dataset]]);
                let before = row[place_of[scored.item as usize]].replace(scored);
                ensure!(before.is_none(), "`{}`: the item `{}` is scored twice", evaluation.instance, item.id);
            }
            let seed = evaluation.point.get("seed").and_then(|seed| seeds.iter().position(|known| known == seed));
            evaluations.push(Laid { measured, index, seed, scores: laid });
        }
        Ok(Cells { seeds, datasets, items: Items::new(&sizes), read, evaluations })
    }

    /// The values of `axes` that occur together, in order of appearance; an axis a point lacks is absent there.
    pub(super) fn combinations(&self, axes: &[&str]) -> Vec<Selector> {
        let mut all: Vec<Selector> = Vec::new();
        let mut known: BTreeSet<Selector> = BTreeSet::new();
        let by_dataset = axes.contains(&DATASET);
        let axes: Vec<&str> = axes.iter().copied().filter(|axis| *axis != DATASET).collect();
        for Laid { measured, .. } in &self.evaluations {
            let mut selector = Selector::default();
            for &axis in &axes {
                match measured.evaluation.point.get(axis) {
                    Some(value) => drop(selector.pins.insert(axis.to_string(), value.clone())),
                    None => drop(selector.absent.insert(axis.to_string())),
                }
            }
            if known.insert(selector.clone()) {
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
        let matching = |index: &usize| selector.matches(&self.evaluations[*index].measured.evaluation.point);
        let mut instances: Vec<usize> = (0..self.evaluations.len()).filter(matching).collect();
        let position = |name: &str| self.datasets.iter().position(|known| known == name);
        let dataset = selector.dataset().and_then(position);
        if selector.dataset().is_some() && dataset.is_none() {
            instances.clear();
        }
        Choice { instances, dataset }
    }

    /// Names of instances, those that have not run included.
    pub(super) fn names(&self, instances: &[usize]) -> Vec<String> {
        instances.iter().map(|&index| self.evaluations[index].evaluation().instance.clone()).collect()
    }

    /// Names of those that have not run.
    pub(super) fn missing(&self, instances: &[usize]) -> Vec<String> {
        let missing = instances.iter().copied().filter(|&index| self.evaluations[index].measured.scores.is_none());
        self.names(&missing.collect::<Vec<_>>())
    }

    /// What these instances measured together on all data sets: per seed and item the mean over the instances.
    ///
    /// A seed counts only when all its instances have run, and an item only when every instance that asks its
    /// data set has it: otherwise a missing instance would shift the mean.
    pub(super) fn series(&self, instances: &[usize], metric: Metric) -> Series {
        let instances: Vec<&Laid> = instances.iter().map(|&index| &self.evaluations[index]).collect();
        // By seed the instances that make it up: one per point when the seed is left out.
        let points: BTreeSet<_> = instances.iter().map(|one| without_seed(one.evaluation())).collect();
        let by_seed: Vec<Vec<&Laid>> = (0..self.seeds.len())
            .map(|seed| {
                let mine: Vec<&Laid> =
                    instances.iter().copied().filter(|one| one.seed.is_none_or(|its| its == seed)).collect();
                let run = mine.iter().filter(|one| one.measured.scores.is_some());
                let complete = run.map(|one| without_seed(one.evaluation())).collect::<BTreeSet<_>>() == points;
                if complete { mine } else { Vec::new() }
            })
            .collect();
        let shared = !instances.is_empty() && instances.iter().all(|one| one.seed.is_none());
        let asked: BTreeSet<usize> = instances.iter().flat_map(|one| one.scores.keys().copied()).collect();
        let mut series = Series::empty(self.seeds.len(), shared);
        for (dataset, range) in self.items.datasets().enumerate().filter(|(dataset, _)| asked.contains(dataset)) {
            let row = |mine: &Vec<&Laid>| {
                let asked: Vec<&Vec<Option<&Scored>>> =
                    mine.iter().filter_map(|one| one.scores.get(&dataset)).collect();
                let of = |item: usize| {
                    let (mut sum, mut count) = (0.0, 0);
                    for scores in &asked {
                        sum += metric.of(scores[item]?);
                        count += 1;
                    }
                    (count > 0).then(|| sum / f64::from(count))
                };
                (0..range.len()).map(of).collect()
            };
            series.add(dataset, range.start, by_seed.iter().map(row));
        }
        series
    }

    /// The answers of one instance and seed. None unless exactly one instance fits.
    pub(super) fn answers(&self, instances: &[usize], seed: usize) -> Option<Answers<'a>> {
        let fits = |one: &&Laid| one.seed.is_none_or(|its| its == seed) && !one.scores.is_empty();
        let mut found = instances.iter().map(|&index| &self.evaluations[index]).filter(fits);
        let first = found.next()?;
        if found.next().is_some() {
            return None;
        }
        let row = |(dataset, range): (usize, std::ops::Range<usize>)| match first.scores.get(&dataset) {
            Some(row) => row.clone(),
            None => vec![None; range.len()],
        };
        let scores = self.items.datasets().enumerate().flat_map(row).collect();
        Some(Answers { read: self.read, index: first.index, scores })
    }
}

impl Laid<'_> {
    fn evaluation(&self) -> &Evaluation {
        self.measured.evaluation
    }
}

impl Answers<'_> {
    /// The answer to an item with its texts; none where it was not asked.
    pub(super) fn texts(&self, item: usize) -> Result<Option<Score>> {
        self.scores[item].map(|scored| self.read.texts(self.index, scored)).transpose()
    }
}

fn without_seed(evaluation: &Evaluation) -> Vec<(&String, &String)> {
    evaluation.point.iter().filter(|(axis, _)| *axis != "seed").collect()
}

fn check(value: f64, id: &str, evaluation: &Evaluation) -> Result<()> {
    let instance = &evaluation.instance;
    ensure!((0.0..=1.0).contains(&value), "`{instance}`: the item `{id}` has the score {value}, not one from 0 to 1");
    Ok(())
}
