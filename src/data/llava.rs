//! Reads data in LLaVA's layout: a JSON array or JSONL of `id`, `image` and `conversations`, with optional further
//! fields. Every row becomes an item whose image is still a path.
//!
//! ```json
//! {"id": "7", "image": "charts/7.png", "dataset": "chart",
//!  "conversations": [{"from": "human", "value": "<image>\nHow many bars?"}, {"from": "gpt", "value": "4"}],
//!  "answer_type": "number", "answers": ["4", "four"], "rationale": "Counting from the left: 1, 2, 3, 4.",
//!  "facts": ["1, 2, 3, 4"]}
//! ```
//!
//! All fields beyond LLaVA's are optional. The question is the human's turn without `<image>`; the answer is the
//! assistant's turn. `\<image>` stands for the literal text. An assistant's turn with `### Answer:` gives rationale and
//! answer. Other fields are ignored, except those that name media files.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use anyhow::Result;
use serde::{Deserialize, Serialize};

use super::external_rows::{self, maybe_text_or_number, text_or_number, texts_or_numbers};
use super::gold_answers;
use super::image_keys::ImageKeys;
use super::import_options::{ImportOptions, RowFile};
use super::jsonl::ErrorList;
use super::prompts::ANSWER_MARKER;
use super::records::{AnswerType, Item};

/// An example row that follows the errors of a file.
pub(super) const EXAMPLE: &str = r#"a row: {"id": "7", "image": "charts/7.png", "conversations": [{"from": "human", "value": "<image>\nHow many bars?"}, {"from": "gpt", "value": "4"}]}"#;

/// A row of the file.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LlavaRow {
    #[serde(deserialize_with = "text_or_number")]
    pub id: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<String>,
    pub conversations: Vec<Turn>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dataset: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub question: Option<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub options: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub answer_type: Option<AnswerType>,
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "maybe_text_or_number")]
    pub answer: Option<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "texts_or_numbers")]
    pub answers: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rationale: Option<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "texts_or_numbers")]
    pub facts: Vec<String>,
}

/// One turn of a conversation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Turn {
    pub from: String,
    pub value: String,
}

impl Turn {
    pub fn human(value: String) -> Turn {
        Turn { from: "human".to_string(), value }
    }

    pub fn gpt(value: String) -> Turn {
        Turn { from: "gpt".to_string(), value }
    }
}

/// An item whose image is still a path, and its location in the file.
#[derive(Clone, Debug, PartialEq)]
pub struct LocatedItem {
    /// `file:line`, or `file: element 3 (id `7`)`.
    pub location: String,
    /// Its images are paths relative to the image folder.
    pub item: Item,
}

/// Reads files that are JSON arrays or JSONL. `images` is the folder of the image paths; without it, no row may have an
/// image. Up to ten errors are reported together. If rows of a data set have equal ids, the second one is renamed to
/// `id#2`, and so on, skipping ids that another row has.
pub fn read(row_files: &[RowFile], images: Option<&Path>, options: &ImportOptions) -> Result<Vec<LocatedItem>> {
    let mut errors = ErrorList::default();
    let mut located = Vec::new();
    let mut rows = Vec::new();
    for file in row_files {
        rows.extend(
            external_rows::read_values(&file.path, &mut errors)?
                .into_iter()
                .map(|(location, value)| (file, location, value)),
        );
    }
    if !errors.is_empty() {
        errors.help(EXAMPLE);
    }
    for (file, location, value) in rows {
        let row = external_rows::parse_row(value, "`id` and `conversations`").map_err(|what| {
            errors.help(EXAMPLE);
            vec![what]
        });
        match row.and_then(|row| item(row, images, file, options)) {
            Ok(item) => located.push(LocatedItem { location, item }),
            Err(wrong) => wrong.into_iter().for_each(|what| errors.add(format!("{location}: {what}"))),
        }
    }
    errors.check()?;
    rename_repeated(&mut located);
    Ok(located)
}

/// Renames all but the first of the rows with equal id and data set.
fn rename_repeated(located: &mut [LocatedItem]) {
    let name = |item: &Item| (item.dataset.clone(), item.id.clone());
    let mut names: BTreeSet<(String, String)> = located.iter().map(|row| name(&row.item)).collect();
    let mut counts: BTreeMap<(String, String), usize> = BTreeMap::new();
    for LocatedItem { item, .. } in located {
        let given = item.id.clone();
        let count = counts.entry(name(item)).or_default();
        *count += 1;
        while *count > 1 {
            item.id = format!("{given}#{count}");
            if names.insert(name(item)) {
                break;
            }
            *count += 1;
        }
    }
}

/// Converts a row; returns all errors of the row.
fn item(
    mut row: LlavaRow,
    images: Option<&Path>,
    file: &RowFile,
    options: &ImportOptions,
) -> Result<Item, Vec<String>> {
    let mut wrong = Vec::new();
    let (question, response) = match human_and_gpt(&row.conversations) {
        Ok((human, response)) => (
            question(&row, human).and_then(|question| options.strip_instruction(question)),
            external_rows::parse_text(response, "gpt"),
        ),
        Err(what) => (Err(what), Ok(String::new())),
    };
    let mut read = |text: Result<String, String>| text.map_err(|what| wrong.push(what)).unwrap_or_default();
    let (question, response) = (read(question), read(response));
    wrong.extend(row.image.as_deref().and_then(|image| external_rows::check_image(image, images)));
    unescape_texts(&mut row).unwrap_or_else(|what| wrong.push(what));
    let (reasoning, final_answer) = match response.rsplit_once(ANSWER_MARKER) {
        // A turn that begins with the marker has an answer and no rationale.
        Some((rationale, answer)) => {
            (Some(rationale.trim().to_string()).filter(|rationale| !rationale.is_empty()), answer.trim().to_string())
        }
        None => (None, response.trim().to_string()),
    };
    if let Some(answer) = row.answer.as_ref().filter(|answer| !row.answers.is_empty() && !row.answers.contains(answer))
    {
        wrong.push(format!("`answer` is `{answer}`, which is not one of `answers`"));
    }
    let mut answers = row.answers;
    if answers.is_empty() {
        answers.extend(row.answer);
    }
    if answers.is_empty() && !final_answer.is_empty() {
        answers.push(final_answer.clone());
    }
    if wrong.is_empty() && answers.iter().all(|answer| answer.trim().is_empty()) {
        wrong.push("the row has no answer: `answer`, `answers` and the assistant's turn are empty".to_string());
    }
    if !wrong.is_empty() {
        return Err(wrong);
    }
    let rationale = row.rationale.filter(|rationale| !rationale.trim().is_empty()).or(reasoning.clone());
    // The assistant's turn may end with another answer: some data sets contain generated rationales.
    let differs = reasoning.is_some() && !final_answer.is_empty() && Some(&final_answer) != answers.first();
    let dataset = row.dataset.filter(|_| !file.overrides_rows).unwrap_or_else(|| file.dataset.clone());
    let answer_type = row.answer_type.unwrap_or_else(|| options.answer_type(&dataset, !row.options.is_empty()));
    let mut item = Item {
        id: row.id,
        dataset,
        images: row.image.map_or(ImageKeys::None, ImageKeys::Leading),
        question,
        options: row.options,
        answer_type,
        answers,
        rationale_answer: (differs && rationale == reasoning).then_some(final_answer),
        rationale,
        facts: row.facts,
    };
    gold_answers::normalize_answers(&mut item, options.option_answers)?;
    Ok(item)
}

/// The question of a row: `question`, or else the human's turn. Both are parsed, so that a placeholder in either is
/// found.
fn question(row: &LlavaRow, human: &str) -> Result<String, String> {
    let question = external_rows::parse_question(human, row.image.is_some())?;
    match &row.question {
        None if question.is_empty() => Err("the human's turn has no question".to_string()),
        None => Ok(question),
        Some(key) => match external_rows::parse_question(key, row.image.is_some())? {
            question if question.is_empty() => {
                Err("`question` is empty: remove the key or write a question".to_string())
            }
            question => Ok(question),
        },
    }
}

/// Unescapes the other texts of a row.
fn unescape_texts(row: &mut LlavaRow) -> Result<(), String> {
    let keys = [("rationale", &mut row.rationale), ("answer", &mut row.answer)];
    let single = keys.into_iter().filter_map(|(key, value)| Some((key, value.as_mut()?)));
    let options = row.options.iter_mut().map(|value| ("options", value));
    let answers = row.answers.iter_mut().map(|value| ("answers", value));
    let facts = row.facts.iter_mut().map(|value| ("facts", value));
    for (key, value) in single.chain(options).chain(answers).chain(facts) {
        *value = external_rows::parse_text(value, key)?;
    }
    Ok(())
}

/// The human's and the assistant's turn of a conversation; the assistant's turn may be missing.
fn human_and_gpt(turns: &[Turn]) -> Result<(&str, &str), String> {
    let [human, rest @ ..] = turns else {
        return Err("`conversations` is empty".to_string());
    };
    if human.from != "human" {
        return Err(format!("`conversations` begins with `{}`, expected `human`", human.from));
    }
    let response = match rest {
        [] => "",
        [gpt] if gpt.from == "gpt" => gpt.value.as_str(),
        [other] => return Err(format!("the second turn of `conversations` is from `{}`, expected `gpt`", other.from)),
        more => {
            let turns = more.len() + 1;
            return Err(format!(
                "`conversations` has {turns} turns: split it into rows with one question and one answer"
            ));
        }
    };
    Ok((&human.value, response))
}
