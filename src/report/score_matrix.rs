//! The scores of one stage by evaluation, seed and item. Tables, contrasts and responses are computed from it.
//!
//! An item is identified by data set, id, image and gold answer: items of two draws of a synthetic task can have the
//! same id, but they are never compared.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Result, ensure};

use super::input::Evaluation;
use super::scores::{EvaluationScores, ItemScore, Scores};
use super::statistics::{Items, Series};
use ablate_data::records::Score;
use ablate_experiment::{DATASET, Metric, Selector};

pub(super) struct ScoreMatrix<'a> {
    /// Labels of the seeds. One empty label if no evaluation has a seed.
    pub(super) seeds: Vec<String>,
    /// Names of the data sets, in order of appearance.
    pub(super) datasets: Vec<String>,
    pub(super) items: Items,
    scores: &'a Scores<'a>,
    evaluations: Vec<AlignedEvaluation<'a>>,
}

/// The evaluations whose scores a cell averages, by their indices. With a data set, only its items count.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct CellSource {
    pub(super) evaluations: Vec<usize>,
    pub(super) dataset: Option<usize>,
}

/// The scores of one evaluation, by item of the matrix.
struct AlignedEvaluation<'a> {
    source: &'a EvaluationScores<'a>,
    /// Index into [`Scores::evaluations`].
    index: usize,
    /// Index of its seed. None for an evaluation that all seeds share.
    seed: Option<usize>,
    /// By data set with at least one scored item: the score of each of its items.
    scores: BTreeMap<usize, Vec<Option<&'a ItemScore>>>,
}

/// The scores of a single evaluation, to show its responses.
pub(super) struct SingleEvaluation<'a> {
    all: &'a Scores<'a>,
    index: usize,
    /// By item of the matrix.
    pub(super) scores: Vec<Option<&'a ItemScore>>,
}

/// Marks a data set or item that has no index in the matrix.
const UNKNOWN: usize = usize::MAX;

impl<'a> ScoreMatrix<'a> {
    /// Aligns those of the `shown` evaluations, given by their indices, that belong to `stage`.
    ///
    /// Errors: a score outside [0, 1], or two scores of one item in one evaluation.
    pub(super) fn new(scores: &'a Scores<'a>, shown: &[usize], stage: &str) -> Result<ScoreMatrix<'a>> {
        let of_stage = || {
            let all = shown.iter().map(|&index| (index, &scores.evaluations[index]));
            all.filter(|(_, one)| one.evaluation.stage == stage)
        };
        let mut seeds: Vec<String> = Vec::new();
        let mut datasets: Vec<String> = Vec::new();
        let mut sizes: Vec<usize> = Vec::new();
        // From the indices of `scores` to those of the matrix, in order of appearance.
        let mut dataset_of = vec![UNKNOWN; scores.datasets.len()];
        let mut position_of = vec![UNKNOWN; scores.items.len()];
        for (_, EvaluationScores { evaluation, scores: read }) in of_stage() {
            if let Some(seed) = evaluation.point.get("seed").filter(|seed| !seeds.contains(seed)) {
                seeds.push(seed.clone());
            }
            for score in read.iter().flat_map(|scores| scores.iter()) {
                let item = scores.item(score);
                check_range(score.score, &item.id, evaluation)?;
                let dataset = &mut dataset_of[item.dataset];
                if *dataset == UNKNOWN {
                    *dataset = datasets.len();
                    datasets.push(scores.datasets[item.dataset].clone());
                    sizes.push(0);
                }
                let position = &mut position_of[score.item as usize];
                if *position == UNKNOWN {
                    *position = sizes[*dataset];
                    sizes[*dataset] += 1;
                }
            }
        }
        if seeds.is_empty() {
            seeds.push(String::new());
        }
        let mut evaluations = Vec::new();
        for (index, source) in of_stage() {
            let EvaluationScores { evaluation, scores: read } = source;
            let mut aligned: BTreeMap<usize, Vec<Option<&ItemScore>>> = BTreeMap::new();
            for score in read.iter().flat_map(|scores| scores.iter()) {
                let item = scores.item(score);
                let dataset = dataset_of[item.dataset];
                let row = aligned.entry(dataset).or_insert_with(|| vec![None; sizes[dataset]]);
                let before = row[position_of[score.item as usize]].replace(score);
                ensure!(before.is_none(), "`{}`: the item `{}` is scored twice", evaluation.instance, item.id);
            }
            let seed = evaluation.point.get("seed").and_then(|seed| seeds.iter().position(|known| known == seed));
            evaluations.push(AlignedEvaluation { source, index, seed, scores: aligned });
        }
        let items = Items::clustered(&sizes, image_clusters(scores, &dataset_of, &position_of, &sizes));
        Ok(ScoreMatrix { seeds, datasets, items, scores, evaluations })
    }

    /// The number of images, if items share some. An item without an image counts as one.
    pub(super) fn clusters(&self) -> Option<usize> {
        let clusters = self.items.clusters();
        (clusters < self.items.len()).then_some(clusters)
    }

    /// The combinations of values of `axes` that occur, in order of appearance. A point without one of the axes gives a
    /// combination in which that axis is absent.
    pub(super) fn combinations(&self, axes: &[String]) -> Vec<Selector> {
        let mut all: Vec<Selector> = Vec::new();
        let mut known: BTreeSet<Selector> = BTreeSet::new();
        for AlignedEvaluation { source, .. } in &self.evaluations {
            let mut selector = Selector::default();
            for axis in axes.iter().filter(|axis| *axis != DATASET) {
                match source.evaluation.point.get(axis) {
                    Some(value) => drop(selector.values.insert(axis.clone(), value.clone())),
                    None => drop(selector.absent.insert(axis.clone())),
                }
            }
            if known.insert(selector.clone()) {
                all.push(selector);
            }
        }
        if !axes.iter().any(|axis| axis == DATASET) {
            return all;
        }
        let with_dataset = |selector: &Selector, dataset: &String| {
            let mut selector = selector.clone();
            selector.values.insert(DATASET.to_string(), dataset.clone());
            selector
        };
        all.iter().flat_map(|selector| self.datasets.iter().map(|dataset| with_dataset(selector, dataset))).collect()
    }

    /// The evaluations and the data set that a selector matches.
    pub(super) fn select(&self, selector: &Selector) -> CellSource {
        let matching = |index: &usize| selector.matches(&self.evaluations[*index].source.evaluation.point);
        let mut evaluations: Vec<usize> = (0..self.evaluations.len()).filter(matching).collect();
        let position = |name: &str| self.datasets.iter().position(|known| known == name);
        let dataset = selector.dataset().and_then(position);
        if selector.dataset().is_some() && dataset.is_none() {
            evaluations.clear();
        }
        CellSource { evaluations, dataset }
    }

    /// The points of the evaluations of a cell.
    pub(super) fn points(&self, source: &CellSource) -> impl Iterator<Item = &BTreeMap<String, String>> {
        source.evaluations.iter().map(|&index| &self.evaluations[index].evaluation().point)
    }

    /// The axes of a cell's evaluations, each with its label if all evaluations have the same, and the data set of the cell.
    pub(super) fn axes(&self, source: &CellSource) -> BTreeMap<String, Option<String>> {
        let names: BTreeSet<&String> = self.points(source).flat_map(BTreeMap::keys).collect();
        let label = |axis: &String| {
            let mut labels = self.points(source).map(|point| point.get(axis));
            let first = labels.next().flatten();
            first.filter(|_| labels.all(|label| label == first)).cloned()
        };
        let dataset = source.dataset.map(|dataset| (DATASET.to_string(), Some(self.datasets[dataset].clone())));
        names.into_iter().map(|axis| (axis.clone(), label(axis))).chain(dataset).collect()
    }

    /// Names of the instances.
    pub(super) fn names(&self, evaluations: &[usize]) -> Vec<String> {
        evaluations.iter().map(|&index| self.evaluations[index].evaluation().instance.clone()).collect()
    }

    /// Names of the instances that have not run.
    pub(super) fn missing(&self, evaluations: &[usize]) -> Vec<String> {
        let missing = evaluations.iter().copied().filter(|&index| self.evaluations[index].source.scores.is_none());
        self.names(&missing.collect::<Vec<_>>())
    }

    /// The mean over the evaluations, per seed and item, on all data sets.
    ///
    /// A seed counts only if all its evaluations have run, and an item only if every evaluation of its data set has
    /// scored it with a value of the metric. Otherwise a missing evaluation would shift the mean.
    pub(super) fn series(&self, evaluations: &[usize], metric: Metric) -> Series {
        let evaluations: Vec<&AlignedEvaluation> = evaluations.iter().map(|&index| &self.evaluations[index]).collect();
        // A seed is complete if it has one evaluation per point, where points differ in other axes than the seed.
        let points: BTreeSet<_> = evaluations.iter().map(|one| without_seed(one.evaluation())).collect();
        let by_seed: Vec<Vec<&AlignedEvaluation>> = (0..self.seeds.len())
            .map(|seed| {
                let of_seed: Vec<&AlignedEvaluation> =
                    evaluations.iter().copied().filter(|one| one.seed.is_none_or(|own| own == seed)).collect();
                let run = of_seed.iter().filter(|one| one.source.scores.is_some());
                let complete = run.map(|one| without_seed(one.evaluation())).collect::<BTreeSet<_>>() == points;
                if complete { of_seed } else { Vec::new() }
            })
            .collect();
        let shared = !evaluations.is_empty() && evaluations.iter().all(|one| one.seed.is_none());
        let scored: BTreeSet<usize> = evaluations.iter().flat_map(|one| one.scores.keys().copied()).collect();
        let mut series = Series::empty(self.seeds.len(), shared);
        for (dataset, range) in self.items.datasets().enumerate().filter(|(dataset, _)| scored.contains(dataset)) {
            let row = |of_seed: &Vec<&AlignedEvaluation>| {
                let rows: Vec<&Vec<Option<&ItemScore>>> =
                    of_seed.iter().filter_map(|one| one.scores.get(&dataset)).collect();
                let mean = |item: usize| {
                    let (mut sum, mut count) = (0.0, 0);
                    for scores in &rows {
                        sum += scores[item]?.value(metric)?;
                        count += 1;
                    }
                    (count > 0).then(|| sum / f64::from(count))
                };
                (0..range.len()).map(mean).collect()
            };
            series.add(dataset, range.start, by_seed.iter().map(row));
        }
        series
    }

    /// The only evaluation that has scores for this seed. None if there are several or none.
    pub(super) fn single(&self, evaluations: &[usize], seed: usize) -> Option<SingleEvaluation<'a>> {
        let has_scores = |one: &&AlignedEvaluation| one.seed.is_none_or(|own| own == seed) && !one.scores.is_empty();
        let mut found = evaluations.iter().map(|&index| &self.evaluations[index]).filter(has_scores);
        let first = found.next()?;
        if found.next().is_some() {
            return None;
        }
        let row = |(dataset, range): (usize, std::ops::Range<usize>)| match first.scores.get(&dataset) {
            Some(row) => row.clone(),
            None => vec![None; range.len()],
        };
        let scores = self.items.datasets().enumerate().flat_map(row).collect();
        Some(SingleEvaluation { all: self.scores, index: first.index, scores })
    }
}

impl AlignedEvaluation<'_> {
    fn evaluation(&self) -> &Evaluation {
        self.source.evaluation
    }
}

impl SingleEvaluation<'_> {
    /// Reads the score of an item with its texts. None if the evaluation has not scored the item.
    pub(super) fn with_texts(&self, item: usize) -> Result<Option<Score>> {
        self.scores[item].map(|score| self.all.with_texts(self.index, score)).transpose()
    }
}

/// The cluster of each item of the matrix: items with a common image have the same, also indirectly.
fn image_clusters(scores: &Scores, dataset_of: &[usize], position_of: &[usize], sizes: &[usize]) -> Vec<usize> {
    let starts: Vec<usize> = sizes
        .iter()
        .scan(0, |start, size| {
            *start += size;
            Some(*start - size)
        })
        .collect();
    let mut clusters: Vec<usize> = (0..sizes.iter().sum()).collect();
    let mut first: BTreeMap<&str, usize> = BTreeMap::new();
    for (item, key) in scores.items.iter().enumerate().filter(|(item, _)| position_of[*item] != UNKNOWN) {
        let place = starts[dataset_of[key.dataset]] + position_of[item];
        for image in key.images.keys() {
            let (root, other) = (root(&clusters, *first.entry(image).or_insert(place)), root(&clusters, place));
            clusters[other] = root;
        }
    }
    (0..clusters.len()).map(|place| root(&clusters, place)).collect()
}

/// The item that names the cluster of an item: the one that is in its own cluster.
fn root(clusters: &[usize], mut place: usize) -> usize {
    while clusters[place] != place {
        place = clusters[place];
    }
    place
}

fn without_seed(evaluation: &Evaluation) -> Vec<(&String, &String)> {
    evaluation.point.iter().filter(|(axis, _)| *axis != "seed").collect()
}

fn check_range(value: f64, id: &str, evaluation: &Evaluation) -> Result<()> {
    let instance = &evaluation.instance;
    ensure!((0.0..=1.0).contains(&value), "`{instance}`: the score of the item `{id}` is {value}, not in [0, 1]");
    Ok(())
}
