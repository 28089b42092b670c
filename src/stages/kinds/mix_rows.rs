//! What a source of a mix can be: items asked with a template, rows as they are, right samples. Draws nothing.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Result, bail};
use serde::{Deserialize, Serialize};

use crate::stages::common::{of_datasets, read_items};
use crate::stages::lost_rows::Losses;
use ablate_core::stage::{ArtifactKind, InputPath};
use ablate_data::jsonl;
use ablate_data::prompts::{PromptTemplate, Style, cot_response};
use ablate_data::records::{Item, JudgedItem, Row};
use ablate_data::tokenizer::Tokenizer;

/// What becomes of a source's records.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, schemars::JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Shape {
    /// Rows as they are; an item's question and first answer without any instruction.
    #[default]
    AsIs,
    /// An item's question with the direct instruction, and its first answer.
    Direct,
    /// An item's question with the CoT instruction, and rationale and answer.
    Cot,
    /// The right samples of judged rollouts, with the prompt that they were sampled from.
    Correct,
}

/// The rows that a source could give.
pub(super) struct Candidates {
    pub(super) rows: Vec<Row>,
    pub(super) keys: Vec<String>,
    /// Records that a key of the source filters out, and lost ones, by reason.
    pub(super) dropped: BTreeMap<String, usize>,
    pub(super) losses: Losses,
}

impl Shape {
    /// The form of responses to items; none where items are not what is read.
    pub(super) fn style(self) -> Option<Style> {
        self.template().map(|template| template.style)
    }

    pub(super) fn template(self) -> Option<PromptTemplate> {
        match self {
            Shape::AsIs => Some(PromptTemplate::bare()),
            Shape::Direct => Some(PromptTemplate::direct()),
            Shape::Cot => Some(PromptTemplate::cot()),
            Shape::Correct => None,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Shape::AsIs => "as-is",
            Shape::Direct => "direct",
            Shape::Cot => "cot",
            Shape::Correct => "correct",
        }
    }
}

impl Candidates {
    /// Of so many records.
    fn of(records: usize) -> Candidates {
        let losses = Losses::of(records);
        Candidates { rows: Vec::new(), keys: Vec::new(), dropped: BTreeMap::new(), losses }
    }

    fn push(&mut self, key: String, row: Row) {
        self.keys.push(key);
        self.rows.push(row);
    }

    fn drop_one(&mut self, reason: &str) {
        *self.dropped.entry(reason.to_string()).or_default() += 1;
    }

    /// Counts a record that lacks something.
    fn lose(&mut self, reason: &'static str, id: &str, dataset: &str) {
        self.drop_one(reason);
        self.losses.lose(reason, id, dataset);
    }
}

/// Reads a source's records of some data sets, each of which must be there, and shapes them. `template` is what items are
/// asked with.
pub(super) fn read(
    input: &InputPath,
    shape: Shape,
    template: Option<&PromptTemplate>,
    per_question: Option<usize>,
    datasets: Option<&BTreeSet<String>>,
) -> Result<Candidates> {
    match (input.kind, shape, template) {
        (Some(ArtifactKind::Rows), Shape::AsIs, _) => {
            let rows = of_datasets(jsonl::read(&input.path)?, datasets, "row", |row: &Row| &row.dataset)?;
            Ok(from_rows(rows))
        }
        (Some(ArtifactKind::Items), Shape::AsIs | Shape::Direct | Shape::Cot, Some(template)) => {
            let items = of_datasets(read_items(input)?, datasets, "row", |item| &item.dataset)?;
            Ok(from_items(items, shape, template))
        }
        (Some(ArtifactKind::Judged), Shape::Correct, _) => {
            let judged = jsonl::read(&input.path)?;
            let judged = of_datasets(judged, datasets, "row", |judged: &JudgedItem| &judged.item.dataset)?;
            Ok(from_judged(judged, per_question.unwrap_or(usize::MAX)))
        }
        (kind, shape, _) => {
            let (what, fitting) = match kind {
                Some(ArtifactKind::Rows) => ("rows", "`as-is`"),
                Some(ArtifactKind::Judged) => ("judged rollouts", "`correct`"),
                _ => ("items", "`as-is`, `direct` or `cot`"),
            };
            bail!("`from` gives {what}, which cannot be taken as `{}`: they can be taken as {fitting}", shape.name())
        }
    }
}

/// Text tokens of every row, its special tokens included and its image's left out.
pub(super) fn count_tokens(rows: &[Row], tokenizer: &Tokenizer) -> Result<Vec<u64>> {
    // `<|user|>`, `<|assistant|>` and `<|end|>`.
    let count = |row: &Row| Ok(tokenizer.encode(&row.prompt)?.len() + tokenizer.encode(&row.response)?.len() + 3);
    rows.iter().map(|row| count(row).map(|tokens| tokens as u64)).collect()
}

fn from_rows(rows: Vec<Row>) -> Candidates {
    let mut candidates = Candidates::of(rows.len());
    for row in rows {
        if row.response.trim().is_empty() {
            candidates.lose("without a response", &row.id, &row.dataset);
            continue;
        }
        candidates.push(format!("{}/{}/{}", row.source, row.dataset, row.id), row);
    }
    candidates
}

fn from_items(items: Vec<Item>, shape: Shape, template: &PromptTemplate) -> Candidates {
    let mut candidates = Candidates::of(items.len());
    for item in items {
        // Of several annotators the first may have said nothing.
        let Some(answer) = item.answers.iter().find(|answer| !answer.trim().is_empty()) else {
            candidates.lose("without an answer", &item.id, &item.dataset);
            continue;
        };
        let rationale = item.rationale.as_ref().filter(|rationale| !rationale.trim().is_empty());
        let response = match (shape, rationale) {
            (Shape::Cot, Some(rationale)) => cot_response(rationale, item.rationale_answer.as_ref().unwrap_or(answer)),
            (Shape::Cot, None) => {
                candidates.lose("without a rationale", &item.id, &item.dataset);
                continue;
            }
            _ => answer.clone(),
        };
        let prompt = template.render(&item);
        let key = format!("{}/{}", item.dataset, item.id);
        let Item { id, dataset, image, question, .. } = item;
        let question = Some(question);
        candidates.push(key, Row { id, dataset, source: String::new(), image, prompt, response, question });
    }
    candidates
}

fn from_judged(judged: Vec<JudgedItem>, per_question: usize) -> Candidates {
    let mut candidates = Candidates::of(judged.iter().map(|one| one.verdicts.len()).sum());
    for JudgedItem { item, prompt, verdicts } in judged {
        let mut texts = BTreeSet::new();
        for verdict in &verdicts {
            if verdict.is_right() && verdict.text.trim().is_empty() {
                candidates.lose("without a response", &item.id, &item.dataset);
                continue;
            }
            if !verdict.is_right() {
                candidates.drop_one("wrong");
            } else if texts.contains(&verdict.text) {
                candidates.drop_one("equal to another sample");
            } else if texts.len() == per_question {
                candidates.drop_one("beyond `per_question`");
            } else {
                texts.insert(&verdict.text);
                let id = format!("{}#{}", item.id, texts.len());
                let row = Row {
                    id: id.clone(),
                    dataset: item.dataset.clone(),
                    source: String::new(),
                    image: item.image.clone(),
                    prompt: prompt.clone(),
                    response: verdict.text.clone(),
                    question: Some(item.question.clone()),
                };
                candidates.push(format!("{}/{id}", item.dataset), row);
            }
        }
    }
    candidates
}
