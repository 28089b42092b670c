//! The scores of all evaluations without their texts. Statistics need the numbers of millions of scores, but a page
//! shows the texts of a few: texts stay in their files until an item is shown.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result};

use super::input::{Evaluation, ScoreSource};
use ablate_data::image_keys::ImageKeys;
use ablate_data::jsonl;
use ablate_data::records::{Failure, FinishReason, Overlap, Score};
use ablate_experiment::Metric;

/// The scores of all evaluations.
pub(super) struct Scores<'a> {
    /// In the order of the input.
    pub(super) evaluations: Vec<EvaluationScores<'a>>,
    /// Names of the data sets.
    pub(super) datasets: Vec<String>,
    pub(super) items: Vec<ItemKey>,
}

/// The identity of an item. Scores of a program may have only the data set and the id.
pub(super) struct ItemKey {
    /// Index into [`Scores::datasets`].
    pub(super) dataset: usize,
    pub(super) id: String,
    pub(super) images: ImageKeys,
    pub(super) gold: Vec<String>,
}

/// One evaluation with its scores.
pub(super) struct EvaluationScores<'a> {
    pub(super) evaluation: &'a Evaluation,
    /// None if it has not run.
    pub(super) scores: Option<Arc<[ItemScore]>>,
}

/// A [`Score`] without its texts.
#[derive(Clone, Copy, Debug)]
pub(super) struct ItemScore {
    pub(super) score: f64,
    /// Index into [`Scores::items`].
    pub(super) item: u32,
    /// Number of the prompt's first line. Equal lines have equal numbers.
    pub(super) question: u32,
    /// None if the form of the response was not checked.
    pub(super) compliant: Option<bool>,
    pub(super) unreadable: bool,
    pub(super) truncated: bool,
    /// Whether the response was compared with facts of the item.
    has_facts: bool,
    failure: Option<Failure>,
    pub(super) overlap: Option<Overlap>,
    /// Position of the texts: an index into a list, or a byte offset in a file.
    pub(super) position: u64,
}

/// Gives numbers to data sets, items and questions while scores are read.
#[derive(Default)]
struct Interner {
    datasets: Vec<String>,
    items: Vec<ItemKey>,
    by_dataset: BTreeMap<String, usize>,
    /// Items by data set and id. Two files may have different items of one id.
    by_id: BTreeMap<(usize, String), Vec<u32>>,
    by_question: BTreeMap<String, u32>,
}

impl<'a> Scores<'a> {
    /// Reads all scores, each file once.
    pub(super) fn read(evaluations: &'a [Evaluation]) -> Result<Scores<'a>> {
        let mut interner = Interner::default();
        let mut files: BTreeMap<&Path, Arc<[ItemScore]>> = BTreeMap::new();
        let mut read = Vec::new();
        for evaluation in evaluations {
            let scores = match &evaluation.scores {
                None => None,
                Some(ScoreSource::Memory(scores)) => {
                    Some(scores.iter().zip(0..).map(|(score, index)| interner.add(index, score.clone())).collect())
                }
                Some(ScoreSource::File(path)) => Some(if let Some(known) = files.get(path.as_path()) {
                    known.clone()
                } else {
                    let mut scores = Vec::new();
                    jsonl::for_each(path, |offset, score| scores.push(interner.add(offset, score)))
                        .with_context(|| format!("cannot read the scores of `{}`", evaluation.instance))?;
                    files.entry(path).or_insert(scores.into()).clone()
                }),
            };
            read.push(EvaluationScores { evaluation, scores });
        }
        Ok(Scores { evaluations: read, datasets: interner.datasets, items: interner.items })
    }

    pub(super) fn item(&self, score: &ItemScore) -> &ItemKey {
        &self.items[score.item as usize]
    }

    /// Reads a score with its texts. `evaluation` is an index into [`Scores::evaluations`].
    pub(super) fn with_texts(&self, evaluation: usize, score: &ItemScore) -> Result<Score> {
        let Evaluation { instance, scores, .. } = self.evaluations[evaluation].evaluation;
        let read = match scores {
            Some(ScoreSource::Memory(scores)) => scores.get(score.position as usize).cloned().context("no such score"),
            Some(ScoreSource::File(path)) => jsonl::read_at(path, score.position),
            None => Err(anyhow::anyhow!("it has not run")),
        };
        read.with_context(|| format!("cannot read the scores of `{instance}`"))
    }

    /// Calls `take` with the scores at some positions, in their order, with their texts.
    pub(super) fn each_with_texts(&self, evaluation: usize, positions: &[u64], take: impl FnMut(Score)) -> Result<()> {
        let Evaluation { instance, scores, .. } = self.evaluations[evaluation].evaluation;
        let read = match scores {
            Some(ScoreSource::Memory(scores)) => {
                positions.iter().filter_map(|position| scores.get(*position as usize).cloned()).for_each(take);
                Ok(())
            }
            Some(ScoreSource::File(path)) => jsonl::for_each_at(path, positions, take),
            None => Err(anyhow::anyhow!("it has not run")),
        };
        read.with_context(|| format!("cannot read the scores of `{instance}`"))
    }
}

impl ItemScore {
    /// None if the metric is not defined for the response: it is then absent from the series.
    pub(super) fn value(&self, metric: Metric) -> Option<f64> {
        let share = |holds: bool| f64::from(u8::from(holds));
        let failed = |class: Failure| self.has_facts.then(|| share(self.failure == Some(class)));
        match metric {
            Metric::Accuracy => Some(self.score),
            Metric::Compliance => self.compliant.map(share),
            Metric::Readable => self.compliant.map(|_| share(!self.unreadable)),
            Metric::AccuracyGivenCompliance => (self.compliant == Some(true)).then_some(self.score),
            Metric::ReadingErrors => failed(Failure::Reading),
            Metric::ArithmeticErrors => failed(Failure::Arithmetic),
            Metric::FormErrors => failed(Failure::Form),
        }
    }
}

impl Interner {
    /// The number of an item. A score without gold answers belongs to the only item of its data set and id.
    fn item(&mut self, key: ItemKey) -> u32 {
        let same_id = self.by_id.entry((key.dataset, key.id.clone())).or_default();
        let equal = |known: &ItemKey| known.gold == key.gold && known.images == key.images;
        if let Some(known) = same_id.iter().find(|known| equal(&self.items[**known as usize])) {
            return *known;
        }
        if let [only] = same_id.as_slice() {
            let known = &mut self.items[*only as usize];
            if known.gold.is_empty() {
                *known = key;
                return *only;
            }
            if key.gold.is_empty() {
                return *only;
            }
        }
        let next = self.items.len() as u32;
        same_id.push(next);
        self.items.push(key);
        next
    }

    fn add(&mut self, position: u64, score: Score) -> ItemScore {
        let Score {
            id,
            dataset,
            images,
            prompt,
            gold,
            compliant,
            unreadable,
            score,
            facts,
            failure,
            finish,
            seen: overlap,
            ..
        } = score;
        let truncated = finish == Some(FinishReason::Length);
        let dataset = self.by_dataset.get(&dataset).copied().unwrap_or_else(|| {
            self.datasets.push(dataset.clone());
            self.by_dataset.insert(dataset, self.datasets.len() - 1);
            self.datasets.len() - 1
        });
        let item = self.item(ItemKey { dataset, id, images, gold });
        // Without a prompt, the id stands for the question.
        let question = prompt.lines().next().unwrap_or(&self.items[item as usize].id);
        let question = self.by_question.get(question).copied().unwrap_or_else(|| {
            let next = self.by_question.len() as u32;
            self.by_question.insert(question.to_string(), next);
            next
        });
        let has_facts = !facts.is_empty();
        ItemScore { score, item, question, compliant, unreadable, truncated, has_facts, failure, overlap, position }
    }
}
