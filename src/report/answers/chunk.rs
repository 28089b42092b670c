//! The texts of some items with their answers. Equal texts are written once.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};

use anyhow::Result;
use serde::Serialize;

use super::{Source, score};
use crate::scores::Scores;
use crate::text_table::thousands;
use crate::thinking;

/// Most characters of a text.
const MAX_TEXT: usize = 20_000;

/// Texts of some items, as the page's script reads them.
#[derive(Default, Serialize)]
pub(super) struct Chunk {
    /// The index of each text into `strings`.
    #[serde(skip)]
    texts: HashMap<String, usize>,
    strings: Vec<String>,
    items: Vec<Texts>,
}

/// One item. Texts are indices into [`Chunk::strings`].
#[derive(Default, Serialize)]
struct Texts {
    gold: Vec<usize>,
    images: Vec<usize>,
    /// [`WIDTH`] numbers per answer: source, prompt, thinking, response, answer (-1 without one), score in thousandths.
    answers: Vec<i64>,
}

/// Reads the texts of some items. `images` has the number of each image key that is known.
pub(super) fn read(
    scores: &Scores,
    sources: &[Source],
    items: &[u32],
    images: &BTreeMap<&str, usize>,
) -> Result<Chunk> {
    let mut chunk = Chunk::default();
    chunk.text("");
    for &item in items {
        let key = &scores.items[item as usize];
        let gold = key.gold.iter().map(|gold| chunk.text(gold)).collect();
        let images = key.images.keys().iter().filter_map(|key| images.get(key.as_str()).copied()).collect();
        chunk.items.push(Texts { gold, images, answers: Vec::new() });
    }
    for (number, source) in sources.iter().enumerate() {
        let found = items.iter().enumerate().filter_map(|(place, &item)| Some((place, *score(source, item)?)));
        let mut found: Vec<_> = found.collect();
        found.sort_by_key(|(_, score)| score.position);
        let positions: Vec<u64> = found.iter().map(|(_, score)| score.position).collect();
        let mut places = found.iter().map(|(place, _)| *place);
        scores.each_with_texts(source.evaluation, &positions, |score| {
            let Some(place) = places.next() else { return };
            let (thinking, response) = thinking::split(&score.response);
            let texts = [&score.prompt, thinking, response].map(|text| chunk.text(text) as i64);
            let answer = score.answer.as_ref().map_or(-1, |answer| chunk.text(answer) as i64);
            let answers = &mut chunk.items[place].answers;
            answers.push(number as i64);
            answers.extend(texts);
            answers.extend([answer, (1000.0 * score.score).round() as i64]);
        })?;
    }
    Ok(chunk)
}

impl Chunk {
    /// The index of a text.
    fn text(&mut self, text: &str) -> usize {
        let text = shortened(text);
        if let Some(known) = self.texts.get(text.as_ref()) {
            return *known;
        }
        self.strings.push(text.clone().into_owned());
        self.texts.insert(text.into_owned(), self.strings.len() - 1);
        self.strings.len() - 1
    }
}

/// The first [`MAX_TEXT`] characters, and the number of the others.
fn shortened(text: &str) -> Cow<'_, str> {
    match text.char_indices().nth(MAX_TEXT) {
        None => Cow::Borrowed(text),
        Some((end, _)) => {
            let others = text[end..].chars().count() as u64;
            Cow::Owned(format!("{}… [{} more characters]", &text[..end], thousands(others)))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_texts_are_written_once_and_long_ones_cut() {
        let mut chunk = Chunk::default();
        assert_eq!([chunk.text("a"), chunk.text("b"), chunk.text("a")], [0, 1, 0]);
        let long = "ä".repeat(MAX_TEXT + 1_200);
        let text = chunk.text(&long);
        assert!(chunk.strings[text].ends_with("ä… [1,200 more characters]"));
        assert_eq!(shortened(&long[..2 * MAX_TEXT]), long[..2 * MAX_TEXT]);
    }
}
