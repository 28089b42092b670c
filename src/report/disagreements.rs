//! Samples of responses: items on which one cell is right and another is wrong.

use anyhow::Result;
use serde::Serialize;

use super::input::Images;
use super::layout::{Layout, label};
use super::score_matrix::{CellSource, ScoreMatrix, SingleEvaluation};
use super::table::Table;
use ablate_data::records::{FinishReason, Score};
use ablate_experiment::{DATASET, ReportSpec, Selector};

/// The items on which one cell is right and another is wrong.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Disagreement {
    /// Label of the cell that is right.
    pub right: String,
    /// Label of the cell that is wrong.
    pub wrong: String,
    /// Number of these items, in one seed.
    pub count: usize,
    /// Number of items that both cells have scores for, in that seed.
    pub of: usize,
    pub seed: String,
    pub samples: Vec<Sample>,
}

/// One item with the responses of both cells, and of all other cells.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Sample {
    pub id: String,
    pub dataset: String,
    pub prompt: String,
    pub gold: Vec<String>,
    /// Encoded images. They are not part of the JSON.
    #[serde(skip)]
    pub images: Vec<Vec<u8>>,
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
    /// None if the form was not checked.
    pub compliant: Option<bool>,
    pub unreadable: bool,
    #[serde(rename = "cut")]
    pub truncated: bool,
}

/// A response with at least this score is right.
pub(super) const RIGHT: f64 = 0.5;

/// Samples per disagreement.
const SAMPLES: usize = 3;

/// Most pairs of cells that are compared.
const MAX_PAIRS: usize = 4;

/// Samples disagreements between the first two columns of the best row, and between the two cells of each contrast.
pub(super) fn sample(
    spec: &ReportSpec,
    table: &Table,
    layout: &Layout,
    matrix: &ScoreMatrix,
    images: &Images,
) -> Result<Vec<Disagreement>> {
    let mut pairs: Vec<(Selector, Selector)> = Vec::new();
    let mean = |row: usize| table.rows[row].cells.last().and_then(|cell| cell.estimate).map_or(-1.0, |one| one.mean);
    let best = (0..table.rows.len()).max_by(|&a, &b| mean(a).total_cmp(&mean(b)));
    if let (Some(best), [first, second, ..]) = (best, &layout.columns[..]) {
        let row = &layout.rows[best].selector;
        pairs.push((row.and(&first.selector), row.and(&second.selector)));
    }
    for contrast in &spec.contrasts {
        if let ([plus], [minus]) = (&contrast.plus[..], &contrast.minus[..]) {
            pairs.push((plus.clone(), minus.clone()));
        }
    }
    let mut all = Vec::new();
    let mut shown: Vec<[CellSource; 2]> = Vec::new();
    for (one, other) in pairs {
        let mut sources = [matrix.select(&one), matrix.select(&other)];
        sources.sort();
        let same = sources[0].evaluations == sources[1].evaluations;
        if same || shown.contains(&sources) || shown.len() == MAX_PAIRS {
            continue;
        }
        let mut found = Vec::new();
        for (right, wrong) in [(&one, &other), (&other, &one)] {
            found.extend(disagreement(right, wrong, spec, layout, matrix, images)?);
        }
        if !found.is_empty() {
            shown.push(sources);
        }
        all.extend(found);
    }
    Ok(all)
}

/// The items on which `right` is right and `wrong` is wrong, in the first seed that both cells have. None without
/// such an item.
fn disagreement(
    right: &Selector,
    wrong: &Selector,
    spec: &ReportSpec,
    layout: &Layout,
    matrix: &ScoreMatrix,
    images: &Images,
) -> Result<Option<Disagreement>> {
    let (right_source, wrong_source) = (matrix.select(right), matrix.select(wrong));
    let both = |seed: usize| {
        let right = matrix.single(&right_source.evaluations, seed)?;
        Some((seed, right, matrix.single(&wrong_source.evaluations, seed)?))
    };
    let Some((seed, rights, wrongs)) = (0..matrix.seeds.len()).find_map(both) else { return Ok(None) };
    let scored: Vec<usize> = (0..matrix.items.len())
        .filter(|&item| rights.scores[item].is_some() && wrongs.scores[item].is_some())
        .collect();
    let is_right = |one: &SingleEvaluation, item: usize| one.scores[item].is_some_and(|score| score.score >= RIGHT);
    let differ: Vec<usize> =
        scored.iter().copied().filter(|&item| is_right(&rights, item) && !is_right(&wrongs, item)).collect();
    if differ.is_empty() {
        return Ok(None);
    }
    let (right_label, wrong_label) = (label(right, spec), label(wrong, spec));
    let mut known = vec![right_source.evaluations, wrong_source.evaluations];
    let mut others: Vec<(String, SingleEvaluation)> = Vec::new();
    for (row, column) in layout.rows.iter().flat_map(|row| layout.columns.iter().map(move |column| (row, column))) {
        let mut selector = row.selector.and(&column.selector);
        // One evaluation scores all data sets, so that columns of data sets have the same response.
        selector.values.remove(DATASET);
        let source = matrix.select(&selector);
        if !known.contains(&source.evaluations) {
            others.extend(matrix.single(&source.evaluations, seed).map(|one| (label(&selector, spec), one)));
            known.push(source.evaluations);
        }
    }
    let count = differ.len().min(SAMPLES);
    let mut samples = Vec::new();
    for number in 0..count {
        // Evenly spaced over all items, which are sorted by data set.
        let item = differ[(2 * number + 1) * differ.len() / (2 * count)];
        let (Some(score), Some(other)) = (rights.with_texts(item)?, wrongs.with_texts(item)?) else { continue };
        let mut responses = Vec::new();
        for (label, one) in &others {
            responses.extend(one.with_texts(item)?.map(|score| response(label.clone(), &score)));
        }
        samples.push(Sample {
            prompt: shared_lines(&score.prompt, &other.prompt),
            images: score.images.keys().iter().filter_map(|key| images(key)).collect(),
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
        of: scored.len(),
        seed: matrix.seeds[seed].clone(),
        right: right_label,
        wrong: wrong_label,
    }))
}

/// The first lines that both prompts share: the question, without the instructions if these differ.
pub(super) fn shared_lines(one: &str, other: &str) -> String {
    let lines = one.lines().zip(other.lines()).take_while(|(one, other)| one == other);
    let shared = lines.map(|(line, _)| line).collect::<Vec<_>>().join("\n");
    if shared.is_empty() { one.to_string() } else { shared }
}

pub(super) fn response(label: String, score: &Score) -> Response {
    Response {
        label,
        text: score.response.clone(),
        answer: score.answer.clone(),
        score: score.score,
        compliant: score.compliant,
        unreadable: score.unreadable,
        truncated: score.finish == Some(FinishReason::Length),
    }
}
