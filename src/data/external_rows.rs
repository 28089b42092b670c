//! Rows of files from outside, as others have released them: what their readers share. Knows no layout of a row.

use std::path::Path;

use anyhow::{Context, Result};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer};
use serde_json::{Map, Value};

use super::images::decode::{self, Deep};
use super::images::exif;
use super::jsonl::{self, ErrorList};
use super::lossless_json;
use ablate_core::base::files;

/// LLaVA's placeholder of the image in a question.
const IMAGE: &str = "<image>";
/// The same as a text.
const ESCAPED: &str = "\\<image>";

/// Every row with its place, or what is wrong with its text.
pub(super) fn read_values(path: &Path, errors: &mut ErrorList) -> Result<Vec<(String, Result<Value, String>)>> {
    let name = path.display();
    let lines = jsonl::lines(path)?;
    let array = lines.first().is_some_and(|(_, line)| line.trim_ascii_start().starts_with(b"["));
    if array {
        return elements(path, errors);
    }
    let read = |line: &[u8]| lossless_json::parse(line).map_err(|mistake| mistake.what);
    let rows: Vec<_> = lines.iter().map(|(number, line)| (format!("{name}:{number}"), read(line))).collect();
    if matches!(rows.first(), Some((_, Err(_)))) && jsonl::is_pretty_printed(&lines) {
        errors.add(format!("{}: {}", rows[0].0, jsonl::MULTILINE_ROW));
        return Ok(Vec::new());
    }
    Ok(rows)
}

/// The elements of a JSON array, each with its place.
fn elements(path: &Path, errors: &mut ErrorList) -> Result<Vec<(String, Result<Value, String>)>> {
    let name = path.display();
    let bytes = files::read_bytes(path)?;
    let text = jsonl::strip_bom(&bytes).with_context(|| format!("`{name}`"))?;
    match lossless_json::parse(text) {
        Ok(Value::Array(elements)) => Ok(elements
            .into_iter()
            .enumerate()
            .map(|(index, element)| {
                let id = element.get("id").and_then(Value::as_str).map(|id| format!(" (id `{id}`)"));
                (format!("{name}: element {}{}", index + 1, id.unwrap_or_default()), Ok(element))
            })
            .collect()),
        Ok(_) => {
            errors.add(format!("{name}: the file begins like a list and is none"));
            Ok(Vec::new())
        }
        Err(mistake) => {
            errors.add(format!("{name}:{}: {}", mistake.line, mistake.what));
            Ok(Vec::new())
        }
    }
}

/// A row of the form `T`; `keys` are those that it must have.
pub(super) fn parse_row<T: DeserializeOwned>(value: Result<Value, String>, keys: &str) -> Result<T, String> {
    let row = Value::Object(object(value?, keys)?);
    serde_path_to_error::deserialize(row).map_err(|error| describe_error(&error))
}

/// A row without the keys that are null, which are as good as not there. Anything but an object is an error, and so is
/// an image under a key that is not read: without it the row would ask about a picture that nobody sees.
fn object(value: Value, keys: &str) -> Result<Map<String, Value>, String> {
    let Value::Object(mut row) = value else { return Err(format!("a row must be an object with {keys}")) };
    row.retain(|_, value| !value.is_null());
    let has_image = row.contains_key("image");
    match row.iter().find(|(key, value)| is_set(value) && is_unread(key, has_image)) {
        Some((key, _)) => Err(format!("`{key}` is not read: a row has one picture at most, whose path is in `image`")),
        None => Ok(row),
    }
}

/// Words for what a row may show or play.
const MEDIA: [&str; 13] = [
    "audio", "audios", "image", "images", "img", "imgs", "media", "photo", "photos", "picture", "pictures", "video",
    "videos",
];

/// Whether a key other than `image` names what a row shows, so that the row says less without it. `images`, `image_2`
/// and `video` always do, `image_path` and `video_id` where there is no `image`.
fn is_unread(key: &str, has_image: bool) -> bool {
    let words = words(key);
    let named = words.iter().filter(|word| MEDIA.contains(&word.as_str())).count();
    key != "image" && named > 0 && (!has_image || named == words.len())
}

/// The words of a key in lower case; numbers are none.
fn words(key: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    let mut before = ' ';
    for letter in key.chars() {
        if !letter.is_alphabetic() || before.is_lowercase() && letter.is_uppercase() {
            words.push(String::new());
        }
        if letter.is_alphabetic() {
            words.last_mut().expect("there is one").extend(letter.to_lowercase());
        }
        before = letter;
    }
    words.retain(|word| !word.is_empty());
    words
}

/// Whether a value says anything.
fn is_set(value: &Value) -> bool {
    match value {
        Value::Null => false,
        Value::Bool(value) => *value,
        Value::Number(number) => number.as_f64() != Some(0.0),
        Value::String(text) => !text.is_empty(),
        Value::Array(values) => !values.is_empty(),
        Value::Object(fields) => !fields.is_empty(),
    }
}

/// A question, from whichever key: without the placeholder of its image, which a row with a placeholder must have.
pub fn parse_question(text: &str, has_image: bool) -> Result<String, String> {
    let (text, images) = strip_placeholders(text);
    match images {
        0 => {}
        1 if has_image => {}
        1 => {
            return Err(format!(
                "the question has `{IMAGE}`, and no `image` is given; where the tag itself is meant write \
                 `{ESCAPED}` (in JSON `\\{ESCAPED}`)"
            ));
        }
        _ => return Err(format!("the question names {images} images: one is the most")),
    }
    Ok(text.trim().to_string())
}

/// Any other text of a row, which has no place for an image.
pub(super) fn parse_text(text: &str, key: &str) -> Result<String, String> {
    match strip_placeholders(text) {
        (text, 0) => Ok(text),
        _ => Err(format!(
            "`{key}` has `{IMAGE}`, whose place is the question; where the tag itself is meant write `{ESCAPED}` (in \
             JSON `\\{ESCAPED}`)"
        )),
    }
}

/// A text without its placeholders, and how many there were; `\<image>` becomes `<image>`.
fn strip_placeholders(text: &str) -> (String, usize) {
    let (mut plain, mut count) = (String::with_capacity(text.len()), 0);
    for (index, part) in text.split(IMAGE).enumerate() {
        if index > 0 {
            match plain.strip_suffix('\\') {
                Some(before) => plain = format!("{before}{IMAGE}"),
                None => count += 1,
            }
        }
        plain.push_str(part);
    }
    (plain, count)
}

/// What is wrong with the image that a row names. Without a folder no row may name one.
pub(super) fn check_image(image: &str, folder: Option<&Path>) -> Option<String> {
    let Some(folder) = folder else {
        return Some(format!(
            "the row names the image `{image}`, and no folder of images is given: set `images = \"…\"` in the stage"
        ));
    };
    if image.split('/').any(|part| matches!(part, "" | "." | "..")) {
        return Some(format!("the image `{image}` is not a relative path below the folder of `images`"));
    }
    let missing = || format!("the image `{image}` is not in the folder of `images`, `{}`", folder.display());
    (!folder.join(image).is_file()).then(missing)
}

/// Reads a row's image file for packing, and makes sure that it can be decoded. Without `exif_orientation` the EXIF data
/// are left out, so that nobody who decodes the packed file turns it.
pub fn read_image(image: &str, folder: &Path, exif_orientation: bool) -> Result<Vec<u8>> {
    let read = || -> Result<Vec<u8>> {
        let bytes = decode::read_file(&folder.join(image))?;
        let bytes = if exif_orientation { bytes } else { exif::strip(&bytes).into_owned() };
        decode::decode(&bytes, Deep::Nearest)?;
        Ok(bytes)
    };
    read().with_context(|| format!("the image `{image}`"))
}

/// serde's words for a row of the wrong form, with the place in the row.
fn describe_error(error: &serde_path_to_error::Error<serde_json::Error>) -> String {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_placeholder_needs_an_image_and_an_escaped_one_is_text() {
        let asked = [
            ("<image>\nHow many?", true),
            ("How many?\n<image>", true),
            ("How many?", true),
            ("Is \\<image> a tag?", false),
            ("<image> Is \\<image> a tag?", true),
            ("a\\b <IMAGE>", false),
            ("<image>How many?", false),
            ("<image><image>", true),
        ];
        let told: Vec<String> = asked.iter().map(|(text, has)| format!("{:?}", parse_question(text, *has))).collect();
        expect_test::expect![[r#"
            Ok("How many?")
            Ok("How many?")
            Ok("How many?")
            Ok("Is <image> a tag?")
            Ok("Is <image> a tag?")
            Ok("a\\b <IMAGE>")
            Err("the question has `<image>`, and no `image` is given; where the tag itself is meant write `\\<image>` (in JSON `\\\\<image>`)")
            Err("the question names 2 images: one is the most")"#]]
        .assert_eq(&told.join("\n"));
        assert_eq!(parse_text("a \\<image> tag", "answer").unwrap(), "a <image> tag");
        assert_eq!(
            parse_text("<image>", "answer").unwrap_err(),
            "`answer` has `<image>`, whose place is the question; where the tag itself is meant write `\\<image>` (in \
             JSON `\\\\<image>`)"
        );
    }

    #[test]
    fn an_image_under_another_key_is_an_error_and_null_is_no_key() {
        let told = |row: Value| object(row, "`id`").map(|row| Value::Object(row).to_string());
        for row in [
            r#"{"images":["a.png"]}"#,
            r#"{"image":"a.png","images":["b.png"]}"#,
            r#"{"video":"a.mp4"}"#,
            r#"{"audios":["a.wav"],"image":"a.png"}"#,
            r#"{"image":"a.png","image_2":"b.png"}"#,
            r#"{"imagePath":"a.png"}"#,
            r#"{"img":{"bytes":"x"}}"#,
            r#"{"Image":"a.png"}"#,
            r#"{"image":null,"image_url":"http://x"}"#,
        ] {
            let error = told(serde_json::from_str(row).unwrap()).unwrap_err();
            assert!(
                error.ends_with("` is not read: a row has one picture at most, whose path is in `image`"),
                "{error}"
            );
        }
        let fine =
            r#"{"image":"a.png","image_id":7,"images":[],"video":null,"num_images":0,"imagined":"x","options":null}"#;
        assert_eq!(
            told(serde_json::from_str(fine).unwrap()).unwrap(),
            r#"{"image":"a.png","image_id":7,"images":[],"num_images":0,"imagined":"x"}"#
        );
        assert_eq!(told(Value::Array(vec![])).unwrap_err(), "a row must be an object with `id`");
    }
}
