//! Data in LLaVA's layout: a JSON array or JSONL of `id`, `image` and `conversations`, with fields of ours beside.
//! Every row becomes an item. Knows no pack: images are still paths here.
//!
//! ```json
//! {"id": "7", "image": "charts/7.png", "dataset": "chart",
//!  "conversations": [{"from": "human", "value": "<image>\nHow many bars?"}, {"from": "gpt", "value": "4"}],
//!  "answer_type": "number", "answers": ["4", "four"], "rationale": "Counting from the left: 1, 2, 3, 4."}
//! ```
//!
//! All fields beyond LLaVA's are optional: the question is the human's turn without `<image>`, the answer is the
//! assistant's turn. `\<image>` is the tag as a text. An assistant's turn that holds `### Answer:` gives rationale and
//! answer. Other fields are ignored, but for those that name a picture.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use anyhow::Result;
use serde::{Deserialize, Serialize};

use super::external_rows::{self, maybe_text_or_number, text_or_number, texts_or_numbers};
use super::gold_answers;
use super::import_options::{ImportOptions, RowFile};
use super::jsonl::ErrorList;
use super::prompts::ANSWER_MARKER;
use super::records::{AnswerType, Item};

/// What follows the errors of a file.
pub(super) const EXAMPLE: &str = r#"a row: {"id": "7", "image": "charts/7.png", "conversations": [{"from": "human", "value": "<image>\nHow many bars?"}, {"from": "gpt", "value": "4"}]}"#;

/// A row as it stands in the file.
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

/// An item whose image is still a path, and where in the file it stands.
#[derive(Clone, Debug, PartialEq)]
pub struct LocatedItem {
    /// `file:line`, or `file: element 3 (id `7`)`.
    pub place: String,
    /// `image` is the path relative to the folder of images.
    pub item: Item,
}

/// Reads files that are JSON arrays or JSONL. `images` is the folder that image paths are relative to; without one no
/// row may name an image. ErrorList are reported together, up to ten. Of rows with the same id and data set the second
/// is called `id#2`, and so on, by the first number that no other row has.
pub fn read(row_files: &[RowFile], images: Option<&Path>, options: &ImportOptions) -> Result<Vec<LocatedItem>> {
    let mut errors = ErrorList::default();
    let mut located = Vec::new();
    let mut rows = Vec::new();
    for file in row_files {
        rows.extend(
            external_rows::read_values(&file.path, &mut errors)?.into_iter().map(|(place, value)| (file, place, value)),
        );
    }
    if !errors.is_empty() {
        errors.help(EXAMPLE);
    }
    for (file, place, value) in rows {
        let row = external_rows::parse_row(value, "`id` and `conversations`").map_err(|what| {
            errors.help(EXAMPLE);
            vec![what]
        });
        match row.and_then(|row| item(row, images, file, options)) {
            Ok(item) => located.push(LocatedItem { place, item }),
            Err(wrong) => wrong.into_iter().for_each(|what| errors.add(format!("{place}: {what}"))),
        }
    }
    errors.check()?;
    rename_repeated(&mut located);
    Ok(located)
}

/// Gives every row but the first of those with the same id and data set a name of its own.
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

/// A row's item, or everything that is wrong with the row.
fn item(
    mut row: LlavaRow,
    images: Option<&Path>,
    file: &RowFile,
    options: &ImportOptions,
) -> Result<Item, Vec<String>> {
    let mut wrong = Vec::new();
    let (question, told) = match exchange(&row.conversations) {
        Ok((human, told)) => (
            question(&row, human).and_then(|asked| options.strip_instruction(asked)),
            external_rows::parse_text(told, "gpt"),
        ),
        Err(what) => (Err(what), Ok(String::new())),
    };
    let mut read = |text: Result<String, String>| text.map_err(|what| wrong.push(what)).unwrap_or_default();
    let (question, told) = (read(question), read(told));
    wrong.extend(row.image.as_deref().and_then(|image| external_rows::check_image(image, images)));
    clean(&mut row).unwrap_or_else(|what| wrong.push(what));
    let (reasoned, concluded) = match told.rsplit_once(ANSWER_MARKER) {
        // A turn that begins with the marker gives an answer without reasons.
        Some((rationale, answer)) => {
            (Some(rationale.trim().to_string()).filter(|rationale| !rationale.is_empty()), answer.trim().to_string())
        }
        None => (None, told.trim().to_string()),
    };
    if let Some(answer) = row.answer.as_ref().filter(|answer| !row.answers.is_empty() && !row.answers.contains(answer))
    {
        wrong.push(format!("`answer` is `{answer}`, which is none of `answers`"));
    }
    let mut answers = row.answers;
    if answers.is_empty() {
        answers.extend(row.answer);
    }
    if answers.is_empty() && !concluded.is_empty() {
        answers.push(concluded.clone());
    }
    if wrong.is_empty() && answers.iter().all(|answer| answer.trim().is_empty()) {
        wrong.push("the row has no answer: neither `answer`, `answers` nor the assistant's turn holds one".to_string());
    }
    if !wrong.is_empty() {
        return Err(wrong);
    }
    let rationale = row.rationale.filter(|rationale| !rationale.trim().is_empty()).or(reasoned.clone());
    // The assistant's turn and the answer may differ: a data set can come with another's reasoning.
    let differs = reasoned.is_some() && !concluded.is_empty() && Some(&concluded) != answers.first();
    let dataset = row.dataset.filter(|_| !file.overrides_rows).unwrap_or_else(|| file.dataset.clone());
    let answer_type = row.answer_type.unwrap_or_else(|| options.answer_type(&dataset, !row.options.is_empty()));
    let mut item = Item {
        id: row.id,
        dataset,
        image: row.image,
        question,
        options: row.options,
        answer_type,
        answers,
        rationale_answer: (differs && rationale == reasoned).then_some(concluded),
        rationale,
    };
    gold_answers::settle(&mut item, options.option_answers)?;
    Ok(item)
}

/// The question of a row, from its key or else the human's turn. Both are read, so that no placeholder is lost.
fn question(row: &LlavaRow, human: &str) -> Result<String, String> {
    let asked = external_rows::parse_question(human, row.image.is_some())?;
    match &row.question {
        None if asked.is_empty() => Err("the human's turn asks nothing".to_string()),
        None => Ok(asked),
        Some(key) => match external_rows::parse_question(key, row.image.is_some())? {
            asked if asked.is_empty() => Err("`question` is empty: leave the key out, or ask something".to_string()),
            asked => Ok(asked),
        },
    }
}

/// Reads the other texts of a row as texts.
fn clean(row: &mut LlavaRow) -> Result<(), String> {
    let keys = [("rationale", &mut row.rationale), ("answer", &mut row.answer)];
    let single = keys.into_iter().filter_map(|(key, value)| Some((key, value.as_mut()?)));
    let options = row.options.iter_mut().map(|value| ("options", value));
    let answers = row.answers.iter_mut().map(|value| ("answers", value));
    for (key, value) in single.chain(options).chain(answers) {
        *value = external_rows::parse_text(value, key)?;
    }
    Ok(())
}

/// The human's and the assistant's turn of a conversation; the assistant's may be missing.
fn exchange(turns: &[Turn]) -> Result<(&str, &str), String> {
    let [human, rest @ ..] = turns else {
        return Err("`conversations` is empty".to_string());
    };
    if human.from != "human" {
        return Err(format!("`conversations` begins with `{}`, and not with `human`", human.from));
    }
    let told = match rest {
        [] => "",
        [gpt] if gpt.from == "gpt" => gpt.value.as_str(),
        [other] => return Err(format!("the second turn of `conversations` is from `{}`, and not `gpt`", other.from)),
        more => {
            let turns = more.len() + 1;
            return Err(format!(
                "`conversations` has {turns} turns: split it into rows of one question and one answer"
            ));
        }
    };
    Ok((&human.value, told))
}
