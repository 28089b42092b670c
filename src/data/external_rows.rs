//! Reads rows of files that others have released. Shared by the readers of the individual layouts.

use std::path::Path;

use anyhow::{Context, Result};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer};
use serde_json::{Map, Value};

use super::images::decode::{self, DepthConversion};
use super::images::exif;
use super::jsonl::{self, ErrorList};
use super::lossless_json;
use ablate_core::base::files;

/// LLaVA's placeholder of an image in a question.
const IMAGE: &str = "<image>";
/// The escaped placeholder, which stands for the literal text.
const ESCAPED: &str = "\\<image>";

/// Every row with its location, or the error of its text.
pub(super) fn read_values(path: &Path, errors: &mut ErrorList) -> Result<Vec<(String, Result<Value, String>)>> {
    let name = path.display();
    let lines = jsonl::lines(path)?;
    let array = lines.first().is_some_and(|(_, line)| line.trim_ascii_start().starts_with(b"["));
    if array {
        return elements(path, errors);
    }
    let read = |line: &[u8]| lossless_json::parse(line).map_err(|error| error.message);
    let rows: Vec<_> = lines.iter().map(|(number, line)| (format!("{name}:{number}"), read(line))).collect();
    if matches!(rows.first(), Some((_, Err(_)))) && jsonl::is_pretty_printed(&lines) {
        errors.add(format!("{}: {}", rows[0].0, jsonl::MULTILINE_ROW));
        return Ok(Vec::new());
    }
    Ok(rows)
}

/// The elements of a JSON array with their locations.
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
            errors.add(format!("{name}: the file begins with `[` but is not a JSON array"));
            Ok(Vec::new())
        }
        Err(error) => {
            errors.add(format!("{name}:{}: {}", error.line, error.message));
            Ok(Vec::new())
        }
    }
}

/// Parses a row as a `T`; `keys` names the required keys in errors.
pub(super) fn parse_row<T: DeserializeOwned>(value: Result<Value, String>, keys: &str) -> Result<T, String> {
    let row = Value::Object(object(value?, keys)?);
    serde_path_to_error::deserialize(row).map_err(|error| describe_error(&error))
}

/// A row without its null keys. A value that is not an object is an error. A key that names an image but is not read is
/// an error too: the row would ask about an image that the model does not get.
fn object(value: Value, keys: &str) -> Result<Map<String, Value>, String> {
    let Value::Object(mut row) = value else { return Err(format!("a row must be an object with {keys}")) };
    row.retain(|_, value| !value.is_null());
    let has_image = row.contains_key("image");
    match row.iter().find(|(key, value)| is_set(value) && is_ignored_media(key, has_image)) {
        Some((key, _)) => {
            Err(format!("`{key}` is not supported: a row has at most one image, with its path in `image`"))
        }
        None => Ok(row),
    }
}

/// Words in keys of media files.
const MEDIA: [&str; 13] = [
    "audio", "audios", "image", "images", "img", "imgs", "media", "photo", "photos", "picture", "pictures", "video",
    "videos",
];

/// Whether a key other than `image` names a media file that would be ignored. `images`, `image_2` and `video` always
/// do; `image_path` and `video_id` do if there is no `image`.
fn is_ignored_media(key: &str, has_image: bool) -> bool {
    let words = words(key);
    let named = words.iter().filter(|word| MEDIA.contains(&word.as_str())).count();
    key != "image" && named > 0 && (!has_image || named == words.len())
}

/// The words of a key in lower case, without numbers.
fn words(key: &str) -> Vec<String> {
    let mut spaced = String::new();
    let mut previous = ' ';
    for letter in key.chars() {
        if !letter.is_alphabetic() || previous.is_lowercase() && letter.is_uppercase() {
            spaced.push(' ');
        }
        spaced.extend(letter.to_lowercase().filter(|_| letter.is_alphabetic()));
        previous = letter;
    }
    spaced.split_whitespace().map(str::to_string).collect()
}

/// Whether a value is not null, false, 0 or empty.
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

/// Parses a question: removes the image placeholder. A row with a placeholder must have an image.
pub fn parse_question(text: &str, has_image: bool) -> Result<String, String> {
    let (text, images) = strip_placeholders(text);
    match images {
        0 => {}
        1 if has_image => {}
        1 => {
            return Err(format!(
                "the question has `{IMAGE}`, but the row has no `image`; for the literal text write \
                 `{ESCAPED}` (in JSON `\\{ESCAPED}`)"
            ));
        }
        _ => return Err(format!("the question has {images} image placeholders, at most one is allowed")),
    }
    Ok(text.trim().to_string())
}

/// Parses any other text of a row, in which an image placeholder is an error.
pub(super) fn parse_text(text: &str, key: &str) -> Result<String, String> {
    match strip_placeholders(text) {
        (text, 0) => Ok(text),
        _ => Err(format!(
            "`{key}` has `{IMAGE}`, which belongs in the question; for the literal text write `{ESCAPED}` (in \
             JSON `\\{ESCAPED}`)"
        )),
    }
}

/// The text without placeholders, and their number; `\<image>` becomes `<image>`.
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

/// Checks the path of a row's image. Without a folder, no row may have an image.
pub(super) fn check_image(image: &str, folder: Option<&Path>) -> Option<String> {
    let Some(folder) = folder else {
        return Some(format!(
            "the row has the image `{image}`, but the stage has no image folder: set `images = \"…\"` in the stage"
        ));
    };
    if image.split('/').any(|part| matches!(part, "" | "." | "..")) {
        return Some(format!("the image `{image}` is not a relative path below the folder `images`"));
    }
    let missing = || format!("the image `{image}` is not in the folder `images` (`{}`)", folder.display());
    (!folder.join(image).is_file()).then(missing)
}

/// Reads an image file for packing, and checks that it can be decoded. Without `exif_orientation` the EXIF data are
/// removed, so that no later decoder rotates the image.
pub fn read_image(image: &str, folder: &Path, exif_orientation: bool) -> Result<Vec<u8>> {
    let read = || -> Result<Vec<u8>> {
        let bytes = decode::read_file(&folder.join(image))?;
        let bytes = if exif_orientation { bytes } else { exif::strip(&bytes).into_owned() };
        decode::decode(&bytes, DepthConversion::Nearest)?;
        Ok(bytes)
    };
    read().with_context(|| format!("the image `{image}`"))
}

/// Describes a deserialization error with the path inside the row.
fn describe_error(error: &serde_path_to_error::Error<serde_json::Error>) -> String {
    let path = error.path().to_string();
    let what = error.inner().to_string().replace("a sequence", "a list");
    if path == "." { what } else { format!("`{path}`: {what}") }
}

/// A string that may be written as a number, as ids and answers often are.
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
    fn an_image_placeholder_needs_an_image() {
        let cases = [
            ("<image>\nHow many?", true),
            ("How many?\n<image>", true),
            ("How many?", true),
            ("Is \\<image> a tag?", false),
            ("<image> Is \\<image> a tag?", true),
            ("a\\b <IMAGE>", false),
            ("<image>How many?", false),
            ("<image><image>", true),
        ];
        let parsed: Vec<String> = cases.iter().map(|(text, has)| format!("{:?}", parse_question(text, *has))).collect();
        expect_test::expect![[r#"
            Ok("How many?")
            Ok("How many?")
            Ok("How many?")
            Ok("Is <image> a tag?")
            Ok("Is <image> a tag?")
            Ok("a\\b <IMAGE>")
            Err("the question has `<image>`, but the row has no `image`; for the literal text write `\\<image>` (in JSON `\\\\<image>`)")
            Err("the question has 2 image placeholders, at most one is allowed")"#]]
        .assert_eq(&parsed.join("\n"));
        assert_eq!(parse_text("a \\<image> tag", "answer").unwrap(), "a <image> tag");
        assert_eq!(
            parse_text("<image>", "answer").unwrap_err(),
            "`answer` has `<image>`, which belongs in the question; for the literal text write `\\<image>` (in \
             JSON `\\\\<image>`)"
        );
    }

    #[test]
    fn media_under_unsupported_keys_is_an_error() {
        let parse = |row: Value| object(row, "`id`").map(|row| Value::Object(row).to_string());
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
            let error = parse(serde_json::from_str(row).unwrap()).unwrap_err();
            let expected = "` is not supported: a row has at most one image, with its path in `image`";
            assert!(error.ends_with(expected), "{error}");
        }
        let fine =
            r#"{"image":"a.png","image_id":7,"images":[],"video":null,"num_images":0,"imagined":"x","options":null}"#;
        assert_eq!(
            parse(serde_json::from_str(fine).unwrap()).unwrap(),
            r#"{"image":"a.png","image_id":7,"images":[],"num_images":0,"imagined":"x"}"#
        );
        assert_eq!(parse(Value::Array(vec![])).unwrap_err(), "a row must be an object with `id`");
    }
}
