//! Rows of files from outside, as others have released them: what their readers share. Knows no layout of a row.

use std::path::Path;

use anyhow::{Context, Result};
use serde::{Deserialize, Deserializer};
use serde_json::Value;

use super::decode::{Deep, decode};
use super::jsonl::{self, Mistakes};
use super::written;
use crate::base::files;

/// LLaVA's placeholder of the image in a question.
const IMAGE: &str = "<image>";

/// Every row with its place, or what is wrong with its text.
pub(super) fn values(path: &Path, mistakes: &mut Mistakes) -> Result<Vec<(String, Result<Value, String>)>> {
    let name = path.display();
    let lines = jsonl::lines(path)?;
    let array = lines.first().is_some_and(|(_, line)| line.trim_ascii_start().starts_with(b"["));
    if !array {
        let read = |line: &[u8]| written::parse(line).map_err(|mistake| mistake.what);
        return Ok(lines.iter().map(|(number, line)| (format!("{name}:{number}"), read(line))).collect());
    }
    match written::parse(&files::read_bytes(path)?) {
        Ok(Value::Array(elements)) => Ok(elements
            .into_iter()
            .enumerate()
            .map(|(index, element)| {
                let id = element.get("id").and_then(Value::as_str).map(|id| format!(" (id `{id}`)"));
                (format!("{name}: element {}{}", index + 1, id.unwrap_or_default()), Ok(element))
            })
            .collect()),
        Ok(_) => {
            mistakes.add(format!("{name}: the file begins like a list and is none"));
            Ok(Vec::new())
        }
        Err(mistake) => {
            mistakes.add(format!("{name}:{}: {}", mistake.line, mistake.what));
            Ok(Vec::new())
        }
    }
}

/// A question without the placeholder of its image.
pub(super) fn question(text: &str) -> Result<String, String> {
    let images = text.matches(IMAGE).count();
    if images > 1 {
        return Err(format!("the question names {images} images: one is the most"));
    }
    Ok(text.replace(IMAGE, "").trim().to_string())
}

/// What is wrong with the image that a row names. Without a folder no row may name one.
pub(super) fn check_image(image: &str, folder: Option<&Path>) -> Option<String> {
    let Some(folder) = folder else {
        return Some(format!("the row names the image `{image}`, and no folder of images is given"));
    };
    if image.split('/').any(|part| matches!(part, "" | "." | "..")) {
        return Some(format!("the image `{image}` is not a relative path below the folder of images"));
    }
    let missing = || format!("the image `{image}` is not in `{}`", folder.display());
    (!folder.join(image).is_file()).then(missing)
}

/// Reads a row's image file for packing, and makes sure that it can be decoded.
pub fn image_bytes(place: &str, image: &str, folder: &Path) -> Result<Vec<u8>> {
    let bytes = files::read_bytes(&folder.join(image)).with_context(|| place.to_string())?;
    decode(&bytes, Deep::Nearest).with_context(|| format!("{place}: the image `{image}`"))?;
    Ok(bytes)
}

/// serde's words for a row of the wrong form, with the place in the row.
pub(super) fn wrong_form(error: &serde_path_to_error::Error<serde_json::Error>) -> String {
    let path = error.path().to_string();
    let what = error.inner().to_string().replace("missing field", "there is no").replace("a sequence", "a list");
    if path == "." { what } else { format!("`{path}`: {what}") }
}

/// Ids and answers are often numbers in JSON.
#[derive(Deserialize)]
#[serde(untagged)]
#[serde(expecting = "expected a text or a number")]
enum TextOrNumber {
    Text(String),
    Number(serde_json::Number),
}

impl From<TextOrNumber> for String {
    fn from(value: TextOrNumber) -> String {
        match value {
            TextOrNumber::Text(text) => text,
            TextOrNumber::Number(number) => number.to_string(),
        }
    }
}

pub(super) fn text_or_number<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    TextOrNumber::deserialize(deserializer).map(String::from)
}

pub(super) fn maybe_text_or_number<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    Ok(Option::<TextOrNumber>::deserialize(deserializer)?.map(String::from))
}

pub(super) fn texts_or_numbers<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    Ok(Vec::<TextOrNumber>::deserialize(deserializer)?.into_iter().map(String::from).collect())
}
