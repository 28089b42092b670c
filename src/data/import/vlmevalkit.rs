//! Rows of VLMEvalKit's TSV files: `index`, `image` in base64 or `image_path`, `question`, the options in `A`, `B`, ...,
//! `answer`. A short `image` is the `index` of the row that has the image.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use super::example::{Example, Turns};
use super::images::{MIN_BASE64, MemberNames, RowImage, RowImages};
use super::option_lists;
use super::python_literals;

/// A row whose image may be that of another row.
#[derive(Debug)]
pub(super) struct PendingExample {
    pub(super) location: String,
    pub(super) example: Result<Example, Vec<String>>,
    index: String,
    /// The `index` of the row that has the image.
    image_of: Option<String>,
}

/// Whether a column holds an option.
pub(super) fn is_option(column: &str) -> bool {
    matches!(column.as_bytes(), [b'A'..=b'Z'])
}

/// Reads a row.
pub(super) fn read(location: String, value: Result<Value, String>, images: &mut RowImages) -> PendingExample {
    let row = match value {
        Ok(Value::Object(row)) => row,
        Ok(_) => return failed(location, "a row must be an object with `index`, `question` and `answer`".to_string()),
        Err(what) => return failed(location, what),
    };
    let text = |key: &str| match row.get(key) {
        None | Some(Value::Null) => Ok(None),
        Some(value) => option_lists::text(value, key).map(Some),
    };
    let mut made = || -> Result<(Example, String, Option<String>), String> {
        let index = text("index")?.ok_or("`index` has no value")?;
        let question = text("question")?.ok_or("`question` has no value")?;
        let answer = text("answer")?.ok_or("`answer` has no value: the row is of a split without published answers")?;
        let options = option_lists::by_letter(
            row.iter().filter(|(column, _)| is_option(column)).map(|(column, value)| (column.as_str(), value)),
            "options",
        )?;
        let answers = match python_literals::parse(&answer) {
            Some(Value::Array(answers)) if options.texts.is_empty() => option_lists::texts(&answers, "answer")?,
            _ => vec![answer.clone()],
        };
        let question = match text("hint")? {
            Some(hint) => format!("Hint: {hint}\n{question}"),
            None => question,
        };
        let (image_of, found) = find_images(&row, images)?;
        let example = Example {
            id: Some(index.clone()),
            dataset: None,
            turns: Ok(Turns::single(question, answer)),
            images: found,
            member_names: MemberNames::Content,
            question: None,
            options,
            answer_type: None,
            answer: None,
            answers,
            rationale: None,
            facts: Vec::new(),
            wrong: Vec::new(),
        };
        Ok((example, index, image_of))
    };
    match made() {
        Ok((example, index, image_of)) => PendingExample { location, example: Ok(example), index, image_of },
        Err(what) => failed(location, what),
    }
}

fn failed(location: String, what: String) -> PendingExample {
    PendingExample { location, example: Err(vec![what]), index: String::new(), image_of: None }
}

/// The images of a row, or the index of the row that has them.
fn find_images(row: &Map<String, Value>, images: &mut RowImages) -> Result<(Option<String>, Vec<RowImage>), String> {
    let cell = |key: &str| row.get(key).filter(|value| !value.is_null());
    match (cell("image"), cell("image_path")) {
        (Some(Value::String(text)), _) if text.len() < MIN_BASE64 => Ok((Some(text.trim().to_string()), Vec::new())),
        (Some(Value::Number(number)), _) => Ok((Some(number.to_string()), Vec::new())),
        (Some(value), _) => Ok((None, embedded(value, images)?)),
        (None, Some(path)) => Ok((None, read_list(path, "image_path", images)?)),
        (None, None) => Ok((None, Vec::new())),
    }
}

/// Images in base64. Any other text in this column is a mistake.
fn embedded(value: &Value, images: &mut RowImages) -> Result<Vec<RowImage>, String> {
    let found = read_list(value, "image", images)?;
    if found.iter().any(|image| matches!(image, RowImage::Path(_))) {
        return Err("`image` is neither an image in base64 nor the `index` of a row with the image".to_string());
    }
    Ok(found)
}

/// A value, or the list that a text holds.
fn read_list(value: &Value, key: &str, images: &mut RowImages) -> Result<Vec<RowImage>, String> {
    match value.as_str().and_then(python_literals::parse) {
        Some(list @ Value::Array(_)) => images.read(&list, key),
        _ => images.read(value, key),
    }
}

/// Gives rows that name another row its images.
pub(super) fn resolve(pending: &mut [PendingExample]) {
    let images: BTreeMap<String, Vec<RowImage>> = pending
        .iter()
        .filter_map(|row| Some((row.index.clone(), row.example.as_ref().ok()?.images.clone())))
        .filter(|(_, images)| !images.is_empty())
        .collect();
    for row in pending {
        let (Some(of), Ok(example)) = (&row.image_of, &mut row.example) else { continue };
        match images.get(of) {
            Some(images) => example.images.clone_from(images),
            None => {
                row.example =
                    Err(vec![format!("`image` is `{of}`, but no row with this `index` has an image in base64")]);
            }
        }
    }
}
