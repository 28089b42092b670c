//! Rows that hold conversations: `conversations` (LLaVA, ShareGPT), `messages` (OpenAI, TRL, LLaMA-Factory, ms-swift), and
//! `prompt` with `completion` (TRL), with optional further fields.
//!
//! ```json
//! {"id": "7", "image": "charts/7.png", "dataset": "chart",
//!  "conversations": [{"from": "human", "value": "<image>\nHow many bars?"}, {"from": "gpt", "value": "4"}],
//!  "answer_type": "number", "answers": ["4", "four"], "rationale": "Counting from the left: 1, 2, 3, 4.",
//!  "facts": ["1, 2, 3, 4"]}
//! ```
//!
//! Other fields are ignored, except those that name media files.

use serde::Deserialize;
use serde_json::Value;

use super::example::{Example, Turns};
use super::images::{MemberNames, RowImages};
use super::messages::{Message, Messages, Parts};
use super::option_lists::OptionList;
use super::rows::{self, maybe_text_or_number, texts_or_numbers};
use crate::records::AnswerType;

/// The fields of a row.
#[derive(Deserialize)]
struct ConversationRow {
    #[serde(default, deserialize_with = "maybe_text_or_number")]
    id: Option<String>,
    #[serde(default)]
    image: Value,
    #[serde(default)]
    images: Value,
    conversations: Option<Vec<Message>>,
    messages: Option<Vec<Message>>,
    prompt: Option<Messages>,
    completion: Option<Messages>,
    system: Option<String>,
    dataset: Option<String>,
    question: Option<String>,
    #[serde(default)]
    options: Value,
    answer_type: Option<AnswerType>,
    #[serde(default, deserialize_with = "maybe_text_or_number")]
    answer: Option<String>,
    #[serde(default, deserialize_with = "texts_or_numbers")]
    answers: Vec<String>,
    rationale: Option<String>,
    #[serde(default, deserialize_with = "texts_or_numbers")]
    facts: Vec<String>,
}

/// Reads a row. `keys` names its required keys in errors.
pub(super) fn read(value: Result<Value, String>, keys: &str, images: &mut RowImages) -> Result<Example, Vec<String>> {
    let row: ConversationRow = rows::parse_row(value, keys, &["image", "images"]).map_err(|what| vec![what])?;
    let mut wrong = Vec::new();
    let mut note = |what: String| wrong.push(what);
    let given = [("image", &row.image), ("images", &row.images)];
    let mut member_names = MemberNames::Content;
    let mut row_images = Vec::new();
    match given.iter().filter(|(_, value)| rows::is_set(value)).collect::<Vec<_>>().as_slice() {
        [] => {}
        [(key, value)] => {
            if *key == "image" && row.conversations.is_some() {
                member_names = MemberNames::Paths;
            }
            match images.read(value, key) {
                Ok(found) => row_images = found,
                Err(what) => note(what),
            }
        }
        _ => note("`image` and `images` are both given: remove one of them".to_string()),
    }
    let options = OptionList::read(&row.options, "options").map_err(&mut note).unwrap_or_default();
    let mut parts = Parts::new(images);
    let turns = match (row.conversations, row.messages, row.prompt, row.completion) {
        (Some(messages), None, ..) => parts.turns(messages, "conversations"),
        (None, Some(messages), ..) => parts.turns(messages, "messages"),
        (Some(_), Some(_), ..) => Err("`conversations` and `messages` are both given: remove one of them".to_string()),
        (None, None, Some(prompt), Some(completion)) => parts.prompt_and_completion(prompt, completion),
        (None, None, prompt, completion) => {
            let missing = match (prompt, completion) {
                (Some(_), None) => "completion",
                (None, Some(_)) => "prompt",
                _ if keys.contains("`messages`") => "messages",
                _ => "conversations",
            };
            return Err(vec![format!("missing field `{missing}`")]);
        }
    };
    let (inline, expected) = (parts.inline, parts.expected);
    if !inline.is_empty() {
        if !row_images.is_empty() {
            note(
                "the messages have their own images, and the row has `image` or `images`: remove one of them"
                    .to_string(),
            );
        }
        row_images = inline;
    } else if expected > 0 && expected != row_images.len() {
        note(format!(
            "the messages have {expected} parts of type `image`, and the row has {} images",
            row_images.len()
        ));
    }
    let turns = turns.and_then(|turns| match (turns.system.is_some(), row.system) {
        (true, Some(_)) => Err("`system` and a message of the system are both given: remove one of them".to_string()),
        (false, Some(system)) => Ok(Turns { system: Some(system).filter(|text| !text.trim().is_empty()), ..turns }),
        (_, None) => Ok(turns),
    });
    if !wrong.is_empty() && turns.is_ok() {
        return Err(wrong);
    }
    Ok(Example {
        id: row.id,
        dataset: row.dataset,
        turns,
        images: row_images,
        member_names,
        question: row.question,
        options,
        answer_type: row.answer_type,
        answer: row.answer,
        answers: row.answers,
        rationale: row.rationale,
        facts: row.facts,
        wrong,
    })
}
