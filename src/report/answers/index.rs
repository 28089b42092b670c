//! The index of the answers: data sets, items, evaluations, cells, and the verdict on every answer.

use std::collections::BTreeMap;

use serde::Serialize;

use super::cells::AnswerCell;
use super::{Source, is_right, score};
use crate::scores::{ItemScore, Scores};

/// The bits of a verdict. `page/answers.js` has the same.
const ANSWERED: u8 = 1;
const RIGHT: u8 = 2;
const PARTLY: u8 = 4;
const UNREADABLE: u8 = 8;
const TRUNCATED: u8 = 16;
const NOT_COMPLIANT: u8 = 32;
/// The character of a verdict without bits.
const ZERO: u8 = b'0';

/// The index, as the page's script reads it.
#[derive(Serialize)]
pub(super) struct Index<'a> {
    datasets: &'a [String],
    items: Items<'a>,
    /// By source: one character per item.
    verdicts: &'a [String],
    evaluations: Vec<EvaluationEntry<'a>>,
    cells: Vec<CellEntry<'a>>,
    /// The chunk of each image; -1 if it is not on the page.
    images: Vec<i64>,
}

/// One element per item in each list.
#[derive(Serialize)]
struct Items<'a> {
    id: Vec<&'a str>,
    dataset: Vec<usize>,
    /// The chunk of its texts; -1 if they are not on the page.
    chunk: Vec<i64>,
}

#[derive(Serialize)]
struct EvaluationEntry<'a> {
    name: &'a str,
    point: &'a BTreeMap<String, String>,
    source: usize,
}

/// An [`AnswerCell`] with indices of the evaluations that have run.
#[derive(Serialize)]
struct CellEntry<'a> {
    label: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    dataset: Option<usize>,
    evaluations: Vec<usize>,
}

impl<'a> Index<'a> {
    /// `chunk_of` has one element per item, `image_chunks` one per image.
    pub(super) fn new(
        scores: &'a Scores,
        cells: &'a [AnswerCell],
        items: &[u32],
        verdicts: &'a [String],
        source_of: &[Option<usize>],
        chunk_of: &[Option<u32>],
        image_chunks: &[u32],
    ) -> Index<'a> {
        let keys = || items.iter().map(|&item| &scores.items[item as usize]);
        let number = |chunk: &Option<u32>| chunk.map_or(-1, i64::from);
        let run =
            scores.evaluations.iter().zip(source_of).filter_map(|(one, source)| Some((one.evaluation, (*source)?)));
        let evaluations: Vec<EvaluationEntry> = run
            .map(|(evaluation, source)| EvaluationEntry {
                name: &evaluation.instance,
                point: &evaluation.point,
                source,
            })
            .collect();
        let has_run = source_of.iter().enumerate().filter(|(_, source)| source.is_some());
        let place: BTreeMap<usize, usize> =
            has_run.zip(0..).map(|((evaluation, _), place)| (evaluation, place)).collect();
        let cell = |cell: &'a AnswerCell| {
            let evaluations: Vec<usize> = cell.evaluations.iter().filter_map(|one| place.get(one).copied()).collect();
            (!evaluations.is_empty()).then_some(CellEntry { label: &cell.label, dataset: cell.dataset, evaluations })
        };
        Index {
            datasets: &scores.datasets,
            items: Items {
                id: keys().map(|key| key.id.as_str()).collect(),
                dataset: keys().map(|key| key.dataset).collect(),
                chunk: chunk_of.iter().map(number).collect(),
            },
            verdicts,
            cells: cells.iter().filter_map(cell).collect(),
            evaluations,
            images: image_chunks.iter().map(|&chunk| if chunk == u32::MAX { -1 } else { i64::from(chunk) }).collect(),
        }
    }
}

/// The verdicts of each source, one character per item.
pub(super) fn verdicts(sources: &[Source], items: &[u32]) -> Vec<String> {
    let character = |score: Option<&ItemScore>| char::from(ZERO + score.map_or(0, verdict));
    sources.iter().map(|source| items.iter().map(|&item| character(score(source, item))).collect()).collect()
}

fn verdict(score: &ItemScore) -> u8 {
    let bits = [
        (is_right(score), RIGHT),
        (score.score > 0.0 && score.score < 1.0, PARTLY),
        (score.unreadable, UNREADABLE),
        (score.truncated, TRUNCATED),
        (score.compliant == Some(false), NOT_COMPLIANT),
    ];
    bits.into_iter().filter(|(holds, _)| *holds).fold(ANSWERED, |verdict, (_, bit)| verdict | bit)
}
