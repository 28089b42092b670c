//! The answers of all evaluations for the page: the verdict on every answer, and the texts and images of as many items as
//! fit into a number of bytes.
//!
//! An item is shown with its answers by all evaluations, so that any two of them can be compared. If not all items fit,
//! those that are shown are evenly spaced.

pub(super) mod cells;
mod chunk;
mod index;
mod pictures;

use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;

use anyhow::Result;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use flate2::{Compression, GzBuilder};
use rayon::prelude::*;
use serde::Serialize;

use super::disagreements::RIGHT;
use super::input::{Images, ScoreSource};
use super::scores::{ItemScore, Scores};
use cells::AnswerCell;

/// The packed answers.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Answers {
    /// Everything except texts and images, as gzipped JSON in base64.
    pub(crate) index: String,
    /// The texts of some items each.
    pub(crate) texts: Vec<String>,
    /// Some images each.
    pub(crate) images: Vec<String>,
    pub(crate) counts: Counts,
}

/// What is on the page, and what there is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    /// Answers of which the page has at least the verdict.
    pub(crate) answers: usize,
    pub(crate) all_answers: usize,
    /// Items with a verdict.
    pub(crate) items: usize,
    pub(crate) all_items: usize,
    /// Items with texts.
    pub(crate) items_with_texts: usize,
    /// Images of the items with texts.
    pub(crate) images: usize,
    pub(crate) all_images: usize,
}

/// Most verdicts on a page: a browser holds them in memory.
const MAX_VERDICTS: usize = 4_000_000;

/// Items per chunk of texts.
const CHUNK: usize = 200;

/// Items whose size is measured to estimate that of all.
const PILOT: usize = 40;

/// Share of the bytes that texts may take if the images do not fit.
const TEXT_SHARE: f64 = 0.6;

/// Distinct files of scores: points that share an instance share its answers.
struct Source<'a> {
    /// Index into [`Scores::evaluations`] of the first evaluation with it.
    evaluation: usize,
    scores: &'a [ItemScore],
    /// By item: one more than the index into `scores`; 0 without an answer.
    position: Vec<u32>,
}

/// Packs the answers into at most about `budget` bytes. None without answers.
pub(super) fn pack(scores: &Scores, cells: &[AnswerCell], images: &Images, budget: usize) -> Result<Option<Answers>> {
    if budget == 0 {
        return Ok(None);
    }
    let (sources, source_of) = sources(scores);
    let mut items: Vec<u32> = (0..scores.items.len() as u32)
        .filter(|&item| sources.iter().any(|source| source.position[item as usize] > 0))
        .collect();
    // Grouped by data set, in order of appearance.
    items.sort_by_key(|&item| (scores.items[item as usize].dataset, item));
    if items.is_empty() {
        return Ok(None);
    }
    let mut counts = Counts { all_items: items.len(), ..Counts::default() };
    counts.all_answers = sources.iter().map(|source| source.scores.len()).sum();
    let items = evenly_spaced(&items, (MAX_VERDICTS / sources.len()).max(1));
    counts.items = items.len();
    let answered = |source: &Source| items.iter().filter(|&&item| source.position[item as usize] > 0).count();
    counts.answers = sources.iter().map(answered).sum();

    let verdicts = index::verdicts(&sources, &items);
    let index = |chunk_of: &[Option<u32>], image_chunks: &[u32]| {
        let source_of = &source_of;
        encode(&index::Index::new(scores, cells, &items, &verdicts, source_of, chunk_of, image_chunks))
    };
    let left = budget.saturating_sub(index(&vec![None; items.len()], &[]).len());
    let mut with_texts = estimate(scores, &sources, &items, images, left)?;
    loop {
        let chosen: Vec<u32> = evenly_spaced(&items, with_texts);
        let keys = pictures::keys(scores, &chosen);
        let numbers: BTreeMap<&str, usize> = keys.iter().enumerate().map(|(number, key)| (*key, number)).collect();
        let texts: Vec<String> = chosen
            .par_chunks(CHUNK)
            .map(|items| Ok(encode(&chunk::read(scores, &sources, items, &numbers)?)))
            .collect::<Result<_>>()?;
        let size: usize = texts.iter().map(String::len).sum();
        if size > left && with_texts > 0 {
            // Estimates are rough: at least one item less.
            let fits = with_texts as f64 * left as f64 / size as f64 * 0.95;
            with_texts = (fits as usize).min(with_texts - 1);
            continue;
        }
        let pictures = pictures::pack(&keys, images, left - size.min(left));
        (counts.items_with_texts, counts.images, counts.all_images) = (chosen.len(), pictures.count, keys.len());
        let place: BTreeMap<u32, u32> =
            chosen.iter().zip(0..).map(|(&item, place)| (item, place / CHUNK as u32)).collect();
        let chunk_of: Vec<Option<u32>> = items.iter().map(|item| place.get(item).copied()).collect();
        let index = index(&chunk_of, &pictures.chunk_of);
        return Ok(Some(Answers { index, texts, images: pictures.chunks, counts }));
    }
}

/// The distinct sources of answers, and that of each evaluation.
fn sources<'a>(scores: &'a Scores) -> (Vec<Source<'a>>, Vec<Option<usize>>) {
    let mut sources: Vec<Source> = Vec::new();
    let mut by_path: BTreeMap<&Path, usize> = BTreeMap::new();
    let mut source_of = Vec::new();
    for (evaluation, one) in scores.evaluations.iter().enumerate() {
        let Some(list) = &one.scores else {
            source_of.push(None);
            continue;
        };
        let path = match &one.evaluation.scores {
            Some(ScoreSource::File(path)) => Some(path.as_path()),
            _ => None,
        };
        let index = path.and_then(|path| by_path.get(path).copied()).unwrap_or_else(|| {
            let mut position = vec![0; scores.items.len()];
            for (score, number) in list.iter().zip(1..) {
                position[score.item as usize] = number;
            }
            sources.push(Source { evaluation, scores: list, position });
            sources.len() - 1
        });
        if let Some(path) = path {
            by_path.insert(path, index);
        }
        source_of.push(Some(index));
    }
    (sources, source_of)
}

/// The number of items whose texts and images fit into `left` bytes, estimated from a few.
fn estimate(scores: &Scores, sources: &[Source], items: &[u32], images: &Images, left: usize) -> Result<usize> {
    let pilot = evenly_spaced(items, PILOT);
    let text = encode(&chunk::read(scores, sources, &pilot, &BTreeMap::new())?).len();
    let keys = pictures::keys(scores, &pilot);
    let pictures: usize = pictures::pack(&keys, images, usize::MAX).chunks.iter().map(String::len).sum();
    let (text, picture) = (text as f64 / pilot.len() as f64, pictures as f64 / pilot.len() as f64);
    let left = left as f64;
    let fits = (left / (text + picture)).max(TEXT_SHARE * left / text);
    let fits = if picture > 0.0 { fits } else { left / text };
    Ok((fits as usize).min(items.len()))
}

/// At most `count` elements, evenly spaced.
fn evenly_spaced<T: Copy>(all: &[T], count: usize) -> Vec<T> {
    if count >= all.len() {
        return all.to_vec();
    }
    (0..count).map(|number| all[(2 * number + 1) * all.len() / (2 * count)]).collect()
}

/// Gzipped JSON in base64. The bytes depend only on the value.
fn encode(value: &impl Serialize) -> String {
    let json = serde_json::to_vec(value).unwrap_or_else(|error| panic!("BUG: answers are plain data: {error}"));
    let mut encoder = GzBuilder::new().write(Vec::new(), Compression::default());
    let bytes = encoder.write_all(&json).and_then(|()| encoder.finish());
    STANDARD.encode(bytes.unwrap_or_else(|error| panic!("BUG: memory can be written: {error}")))
}

/// The score of an item by a source.
fn score<'a>(source: &Source<'a>, item: u32) -> Option<&'a ItemScore> {
    let position = source.position[item as usize].checked_sub(1)?;
    source.scores.get(position as usize)
}

/// Whether an answer counts as right.
fn is_right(score: &ItemScore) -> bool {
    score.score >= RIGHT
}

#[cfg(test)]
mod tests {
    use super::evenly_spaced;

    #[test]
    fn chosen_elements_are_evenly_spaced() {
        let all: Vec<u32> = (0..10).collect();
        assert_eq!(evenly_spaced(&all, 2), [2, 7]);
        assert_eq!(evenly_spaced(&all, 9).len(), 9);
        assert_eq!(evenly_spaced(&all, 20), all);
        assert!(evenly_spaced(&all, 0).is_empty());
    }
}
