//! Helpers of the readers of all layouts: rows as structs, and the texts of rows.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer};
use serde_json::{Map, Value};

/// LLaVA's placeholder of an image in a question.
pub(super) const IMAGE: &str = "<image>";
/// The escaped placeholder, which stands for the literal text.
const ESCAPED: &str = "\\<image>";

/// Parses a row as a `T`; `keys` names the required keys in errors, `media` the keys of images that are read.
pub(super) fn parse_row<T: DeserializeOwned>(
    value: Result<Value, String>,
    keys: &str,
    media: &[&str],
) -> Result<T, String> {
    let row = Value::Object(object(value?, keys, media)?);
    serde_path_to_error::deserialize(row).map_err(|error| describe_error(&error))
}

/// A row without its null keys. A value that is not an object is an error. A key that names an image but is not read is
/// an error too: the row would ask about an image that the model does not get.
fn object(value: Value, keys: &str, media: &[&str]) -> Result<Map<String, Value>, String> {
    let Value::Object(mut row) = value else { return Err(format!("a row must be an object with {keys}")) };
    row.retain(|_, value| !value.is_null());
    let has_image = media.iter().any(|key| row.get(*key).is_some_and(is_set));
    let unread = |key: &str| !media.contains(&key) && is_ignored_media(key, has_image);
    match row.iter().find(|(key, value)| is_set(value) && unread(key)) {
        Some((key, _)) => Err(format!("`{key}` is not read: images are in {}", list(media))),
        None => Ok(row),
    }
}

/// Words in keys of media files.
const MEDIA: [&str; 13] = [
    "audio", "audios", "image", "images", "img", "imgs", "media", "photo", "photos", "picture", "pictures", "video",
    "videos",
];

/// Columns in an error message; at most 20.
pub(super) fn shown(columns: &[String]) -> String {
    let names: Vec<String> = columns.iter().take(20).map(|column| format!("`{column}`")).collect();
    let more = if columns.len() > 20 { format!(" and {} more", columns.len() - 20) } else { String::new() };
    names.join(", ") + &more
}

/// Keys in an error message.
fn list(keys: &[&str]) -> String {
    keys.iter().map(|key| format!("`{key}`")).collect::<Vec<_>>().join(" or ")
}

/// Whether a column names media files. Its value decides whether that is an error.
pub(super) fn is_media(column: &str) -> bool {
    words(column).iter().any(|word| MEDIA.contains(&word.as_str()))
}

/// Whether a key that is not read names a media file that would be ignored. `image_2` and `video` always do;
/// `image_path` and `video_id` do if the row has no image that is read.
pub(super) fn is_ignored_media(key: &str, has_image: bool) -> bool {
    let words = words(key);
    let named = words.iter().filter(|word| MEDIA.contains(&word.as_str())).count();
    named > 0 && (!has_image || named == words.len())
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
pub(super) fn is_set(value: &Value) -> bool {
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

/// The text in which `<image>` is the literal text.
pub(super) fn escape(text: &str) -> String {
    text.replace(IMAGE, ESCAPED)
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
        let parse = |row: Value| object(row, "`id`", &["image"]).map(|row| Value::Object(row).to_string());
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
            let expected = "` is not read: images are in `image`";
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
