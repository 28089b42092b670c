//! Which responses a report shows: items on which two cells disagree, both ways. Computes no statistics.

use anyhow::Result;
use serde::Serialize;

use super::cells::{Answers, Cells, Choice};
use super::compute::{Layout, label};
use super::input::{DATASET, Selector, TableRequest};
use super::table::Table;
use ablate_data::records::{FinishReason, Score};

/// Items that one cell answers right and another wrong.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Disagreement {
    /// Label of the cell that is right, and of the one that is wrong.
    pub right: String,
    pub wrong: String,
    /// Items of this kind, and items that both cells answered, in the seed that is shown.
    pub count: usize,
    pub of: usize,
    pub seed: String,
    pub samples: Vec<Sample>,
}

/// One item with the responses of the two cells, and the answers of all others.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Sample {
    pub id: String,
    pub dataset: String,
    pub prompt: String,
    pub gold: Vec<String>,
    /// Encoded image; left out of the JSON.
    #[serde(skip)]
    pub image: Option<Vec<u8>>,
    pub right: Response,
    pub wrong: Response,
    pub others: Vec<Response>,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Response {
    pub label: String,
    pub text: String,
    pub answer: Option<String>,
    pub score: f64,
    pub compliant: bool,
    pub unreadable: bool,
    pub cut: bool,
}

/// A score from here on counts as right.
const RIGHT: f64 = 0.5;

/// Samples per direction of a disagreement.
const SAMPLES: usize = 3;

/// Pairs of cells that are shown at most.
const PAIRS: usize = 4;

/// Picks disagreements: of the prompts (or other columns) in the best row, and of every contrast of two cells.
pub(super) fn pick(
    request: &TableRequest,
    table: &Table,
    layout: &Layout,
    cells: &Cells,
    images: &dyn Fn(&str) -> Option<Vec<u8>>,
) -> Result<Vec<Disagreement>> {
    let mut pairs: Vec<(Selector, Selector)> = Vec::new();
    let strength =
        |row: usize| table.rows[row].cells.last().and_then(|cell| cell.estimate).map_or(-1.0, |one| one.mean);
    let best = (0..table.rows.len()).max_by(|&a, &b| strength(a).total_cmp(&strength(b)));
    if let (Some(best), [first, second, ..]) = (best, &layout.columns[..]) {
        let row = &layout.rows[best].selector;
        pairs.push((row.and(&first.selector), row.and(&second.selector)));
    }
    for contrast in &request.contrasts {
        if let ([plus], [minus]) = (&contrast.plus[..], &contrast.minus[..]) {
            let sides = (Selector::parse(plus), Selector::parse(minus));
            if let (Ok(plus), Ok(minus)) = sides {
                pairs.push((plus, minus));
            }
        }
    }
    let mut all = Vec::new();
    let mut shown: Vec<[Choice; 2]> = Vec::new();
    for (one, other) in pairs {
        let mut chosen = [cells.select(&one), cells.select(&other)];
        chosen.sort();
        let same = chosen[0].instances == chosen[1].instances;
        if same || shown.contains(&chosen) || shown.len() == PAIRS {
            continue;
        }
        let mut found = Vec::new();
        for (right, wrong) in [(&one, &other), (&other, &one)] {
            found.extend(disagreement(right, wrong, request, layout, cells, images)?);
        }
        if !found.is_empty() {
            shown.push(chosen);
        }
        all.extend(found);
    }
    Ok(all)
}

/// The items of the first seed that both cells have, on which `right` is right and `wrong` is wrong.
fn disagreement(
    right: &Selector,
    wrong: &Selector,
    request: &TableRequest,
    layout: &Layout,
    cells: &Cells,
    images: &dyn Fn(&str) -> Option<Vec<u8>>,
) -> Result<Option<Disagreement>> {
    let (right_is, wrong_is) = (cells.select(right), cells.select(wrong));
    let both = |seed: usize| {
        Some((seed, cells.answers(&right_is.instances, seed)?, cells.answers(&wrong_is.instances, seed)?))
    };
    let Some((seed, rights, wrongs)) = (0..cells.seeds.len()).find_map(both) else { return Ok(None) };
    let asked: Vec<usize> =
        (0..cells.items.len()).filter(|&item| rights.scores[item].is_some() && wrongs.scores[item].is_some()).collect();
    let is_right = |answers: &Answers, item: usize| answers.scores[item].is_some_and(|scored| scored.score >= RIGHT);
    let differ: Vec<usize> =
        asked.iter().copied().filter(|&item| is_right(&rights, item) && !is_right(&wrongs, item)).collect();
    if differ.is_empty() {
        return Ok(None);
    }
    let (right_label, wrong_label) = (label(right, request), label(wrong, request));
    let pairs = layout.rows.iter().flat_map(|row| layout.columns.iter().map(move |column| (row, column)));
    let cells_of_table: Vec<(Choice, String)> = pairs
        .map(|(row, column)| {
            let mut selector = row.selector.and(&column.selector);
            // An instance scores every data set: which column it stands in says nothing about its response.
            selector.pins.remove(DATASET);
            (cells.select(&selector), label(&selector, request))
        })
        .collect();
    let count = differ.len().min(SAMPLES);
    let mut others: Vec<(&str, Answers)> = Vec::new();
    let mut told = vec![&right_is.instances, &wrong_is.instances];
    for (choice, name) in &cells_of_table {
        if !told.contains(&&choice.instances) {
            told.push(&choice.instances);
            others.extend(cells.answers(&choice.instances, seed).map(|answers| (name.as_str(), answers)));
        }
    }
    let mut samples = Vec::new();
    for number in 0..count {
        // Evenly over the list, which is in the order of the data sets.
        let item = differ[(2 * number + 1) * differ.len() / (2 * count)];
        let (Some(score), Some(other)) = (rights.texts(item)?, wrongs.texts(item)?) else { continue };
        let mut responses = Vec::new();
        for (name, answers) in &others {
            responses.extend(answers.texts(item)?.map(|score| response((*name).to_string(), &score)));
        }
        samples.push(Sample {
            prompt: shared_lines(&score.prompt, &other.prompt),
            image: score.image.as_deref().and_then(images),
            right: response(right_label.clone(), &score),
            wrong: response(wrong_label.clone(), &other),
            others: responses,
            id: score.id,
            dataset: score.dataset,
            gold: score.gold,
        });
    }
    Ok(Some(Disagreement {
        samples,
        count: differ.len(),
        of: asked.len(),
        seed: cells.seeds[seed].clone(),
        right: right_label,
        wrong: wrong_label,
    }))
}

/// The lines with which both prompts begin: the question, without the instruction when that differs.
fn shared_lines(one: &str, other: &str) -> String {
    let lines = one.lines().zip(other.lines()).take_while(|(one, other)| one == other);
    let shared = lines.map(|(line, _)| line).collect::<Vec<_>>().join("\n");
    if shared.is_empty() { one.to_string() } else { shared }
}

fn response(label: String, score: &Score) -> Response {
    Response {
        label,
        text: score.response.clone(),
        answer: score.answer.clone(),
        score: score.score,
        compliant: score.compliant,
        unreadable: score.unreadable,
        cut: score.finish == FinishReason::Length,
    }
}
