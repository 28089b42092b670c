//! The scores of all evaluations without their texts: statistics need the numbers of a million answers, and a page
//! shows the texts of a dozen. Texts stay in their files and are read for what is shown.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result};

use super::input::{Evaluation, ScoreRows};
use ablate_data::jsonl;
use ablate_data::records::{Overlap, Score};

/// What all evaluations measured.
pub(super) struct Measurements<'a> {
    /// In the order of the input.
    pub(super) evaluations: Vec<Measured<'a>>,
    /// Names of the data sets.
    pub(super) datasets: Vec<String>,
    pub(super) items: Vec<Arc<Item>>,
}

/// An item, by all that tells it from others.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Item {
    /// Index into [`Measurements::datasets`].
    pub(super) dataset: usize,
    pub(super) id: String,
    pub(super) image: Option<String>,
    pub(super) gold: Vec<String>,
}

/// One evaluation with its scores.
pub(super) struct Measured<'a> {
    pub(super) evaluation: &'a Evaluation,
    /// None when it has not run.
    pub(super) scores: Option<Arc<[Scored]>>,
}

/// One score in numbers.
#[derive(Clone, Copy, Debug)]
pub(super) struct Scored {
    pub(super) score: f64,
    /// Index into [`Measurements::items`].
    pub(super) item: u32,
    /// The first line of what was asked, as a number: equal lines have equal numbers.
    pub(super) question: u32,
    pub(super) compliant: bool,
    pub(super) unreadable: bool,
    pub(super) seen: Option<Overlap>,
    /// Where its texts are: an index into a list, an offset into a file.
    at: u64,
}

/// What is known while scores are read.
#[derive(Default)]
struct Index {
    datasets: Vec<String>,
    items: Vec<Arc<Item>>,
    by_dataset: BTreeMap<String, usize>,
    by_item: BTreeMap<Arc<Item>, u32>,
    by_question: BTreeMap<String, u32>,
}

impl<'a> Measurements<'a> {
    /// Reads all scores, each file once.
    pub(super) fn read(evaluations: &'a [Evaluation]) -> Result<Measurements<'a>> {
        let mut index = Index::default();
        let mut files: BTreeMap<&Path, Arc<[Scored]>> = BTreeMap::new();
        let mut measured = Vec::new();
        for evaluation in evaluations {
            let scores = match &evaluation.scores {
                None => None,
                Some(ScoreRows::Listed(scores)) => {
                    Some(scores.iter().zip(0..).map(|(score, at)| index.add(at, score.clone())).collect())
                }
                Some(ScoreRows::File(path)) => Some(if let Some(known) = files.get(path.as_path()) {
                    known.clone()
                } else {
                    let mut scores = Vec::new();
                    jsonl::for_each(path, |at, score| scores.push(index.add(at, score)))
                        .with_context(|| format!("`{}`: its scores cannot be read", evaluation.instance))?;
                    files.entry(path).or_insert(scores.into()).clone()
                }),
            };
            measured.push(Measured { evaluation, scores });
        }
        Ok(Measurements { evaluations: measured, datasets: index.datasets, items: index.items })
    }

    pub(super) fn item(&self, scored: &Scored) -> &Item {
        &self.items[scored.item as usize]
    }

    /// A score of an evaluation, by its index, with its texts.
    pub(super) fn texts(&self, evaluation: usize, scored: &Scored) -> Result<Score> {
        let Evaluation { instance, scores, .. } = self.evaluations[evaluation].evaluation;
        let read = match scores {
            Some(ScoreRows::Listed(scores)) => scores.get(scored.at as usize).cloned().context("the score is gone"),
            Some(ScoreRows::File(path)) => jsonl::read_at(path, scored.at),
            None => Err(anyhow::anyhow!("it has not run")),
        };
        read.with_context(|| format!("`{instance}`: its scores cannot be read"))
    }
}

impl Index {
    fn add(&mut self, at: u64, score: Score) -> Scored {
        let Score { id, dataset, image, prompt, gold, compliant, unreadable, score, seen, .. } = score;
        let dataset = self.by_dataset.get(&dataset).copied().unwrap_or_else(|| {
            self.datasets.push(dataset.clone());
            self.by_dataset.insert(dataset, self.datasets.len() - 1);
            self.datasets.len() - 1
        });
        let item = Item { dataset, id, image, gold };
        let item = self.by_item.get(&item).copied().unwrap_or_else(|| {
            let (item, next) = (Arc::new(item), self.items.len() as u32);
            self.items.push(item.clone());
            self.by_item.insert(item, next);
            next
        });
        let question = prompt.lines().next().unwrap_or_default();
        let question = self.by_question.get(question).copied().unwrap_or_else(|| {
            let next = self.by_question.len() as u32;
            self.by_question.insert(question.to_string(), next);
            next
        });
        Scored { score, item, question, compliant, unreadable, seen, at }
    }
}
