//! Rows in Alpaca's layout: `instruction`, `input` and `output`, and LLaMA-Factory's `system`, `history` and `images`.

use serde::Deserialize;
use serde_json::Value;

use super::example::{Example, Turns};
use super::images::{MemberNames, RowImages};
use super::option_lists::OptionList;
use super::rows::{self, maybe_text_or_number};

#[derive(Deserialize)]
struct AlpacaRow {
    #[serde(default, deserialize_with = "maybe_text_or_number")]
    id: Option<String>,
    dataset: Option<String>,
    system: Option<String>,
    #[serde(default)]
    history: Vec<(String, String)>,
    instruction: String,
    input: Option<String>,
    output: String,
    #[serde(default)]
    image: Value,
    #[serde(default)]
    images: Value,
}

/// Reads a row. The prompt is the instruction and, on the next line, the input.
pub(super) fn read(value: Result<Value, String>, images: &mut RowImages) -> Result<Example, Vec<String>> {
    let row: AlpacaRow =
        rows::parse_row(value, "`instruction` and `output`", &["image", "images"]).map_err(|what| vec![what])?;
    let prompt = match row.input.filter(|input| !input.trim().is_empty()) {
        Some(input) => format!("{}\n{input}", row.instruction),
        None => row.instruction,
    };
    let mut wrong = Vec::new();
    let mut found = Vec::new();
    if rows::is_set(&row.image) && rows::is_set(&row.images) {
        wrong.push("`image` and `images` are both given: remove one of them".to_string());
    }
    for (key, value) in [("image", &row.image), ("images", &row.images)] {
        match images.read(value, key) {
            Ok(images) => found.extend(images),
            Err(what) => wrong.push(what),
        }
    }
    let mut turns: Vec<_> = row.history.into_iter().map(|(prompt, response)| (prompt, Some(response))).collect();
    turns.push((prompt, Some(row.output)));
    let system = row.system.filter(|text| !text.trim().is_empty());
    Ok(Example {
        id: row.id,
        dataset: row.dataset,
        turns: Ok(Turns { system, turns }),
        images: found,
        member_names: MemberNames::Content,
        question: None,
        options: OptionList::default(),
        answer_type: None,
        answer: None,
        answers: Vec::new(),
        rationale: None,
        facts: Vec::new(),
        wrong,
    })
}
