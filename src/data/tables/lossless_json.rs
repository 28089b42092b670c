//! Parses JSON without changing numbers that are names. An id or an answer may be written as a number, and `serde_json`
//! keeps only its value: `1e5`, `3.10` and integers above 64 bits would be written differently afterwards.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::jsonl;

/// The keys below which numbers are kept as text, at any depth.
#[derive(Clone, Copy, Debug)]
pub enum TextKeys<'a> {
    All,
    Named(&'a [&'a str]),
}

impl TextKeys<'_> {
    fn contains(self, key: &str) -> bool {
        match self {
            TextKeys::All => true,
            TextKeys::Named(keys) => keys.contains(&key),
        }
    }
}

/// A parse error and its line, from 1.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct ParseError {
    pub(super) line: usize,
    pub(super) message: String,
}

/// Parses JSON. Numbers below `keys` become strings, exactly as written.
///
/// # Errors
///
/// Text that is not JSON, and an object with a duplicate key, of which one value would be lost.
pub(super) fn parse(text: &[u8], keys: TextKeys<'_>) -> Result<Value, ParseError> {
    let mut value = serde_json::from_slice(text).map_err(|error| {
        let line = text.split(|byte| *byte == b'\n').nth(error.line().saturating_sub(1)).unwrap_or_default();
        ParseError { line: error.line(), message: jsonl::describe_error(&error, line) }
    })?;
    let numbers = numbers(text)?;
    replace(&mut value, keys, matches!(keys, TextKeys::All), &mut numbers.into_iter());
    Ok(value)
}

/// The numbers of a valid JSON text in order.
fn numbers(text: &[u8]) -> Result<Vec<&str>, ParseError> {
    let mut numbers = Vec::new();
    let mut open: Vec<BTreeSet<&[u8]>> = Vec::new();
    let mut at = 0;
    while at < text.len() {
        match text[at] {
            b'"' => {
                let start = at + 1;
                at = start;
                while at < text.len() && text[at] != b'"' {
                    at += if text[at] == b'\\' { 2 } else { 1 };
                }
                let name = &text[start..at.min(text.len())];
                at += 1;
                let next = text[at.min(text.len())..].iter().find(|byte| !byte.is_ascii_whitespace());
                if next == Some(&b':') && open.last_mut().is_some_and(|keys| !keys.insert(name)) {
                    let line = text[..start].split(|byte| *byte == b'\n').count();
                    let message = format!("the key `{}` occurs twice", String::from_utf8_lossy(name));
                    return Err(ParseError { line, message });
                }
            }
            b'-' | b'0'..=b'9' => {
                let number = |byte: &u8| matches!(byte, b'0'..=b'9' | b'+' | b'-' | b'.' | b'e' | b'E');
                let length = text[at..].iter().position(|byte| !number(byte)).unwrap_or(text.len() - at);
                numbers.extend(std::str::from_utf8(&text[at..at + length]));
                at += length;
            }
            other => {
                match other {
                    b'{' => open.push(BTreeSet::new()),
                    b'}' => drop(open.pop()),
                    _ => {}
                }
                at += 1;
            }
        }
    }
    Ok(numbers)
}

/// Replaces numbers by their text. `numbers` has the order of the text, which is the order of the fields.
fn replace<'a>(value: &mut Value, keys: TextKeys<'_>, as_text: bool, numbers: &mut impl Iterator<Item = &'a str>) {
    match value {
        Value::Number(_) => {
            let number = numbers.next().map(|number| Value::String(number.to_string()));
            if let (true, Some(number)) = (as_text, number) {
                *value = number;
            }
        }
        Value::Array(values) => values.iter_mut().for_each(|value| replace(value, keys, as_text, numbers)),
        Value::Object(fields) => {
            fields.iter_mut().for_each(|(key, value)| replace(value, keys, as_text || keys.contains(key), numbers));
        }
        Value::Null | Value::Bool(_) | Value::String(_) => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const KEYS: TextKeys<'_> = TextKeys::Named(&["id", "answer", "answers", "options"]);

    #[test]
    fn numbers_below_text_keys_are_kept_as_written() {
        let text = r#"{"x": 1.50, "id": 123456789012345678901234567890, "s": "\"id\": 7 \\", "answers": [1e5, 3.10, "-0", -0, 9007199254740993],
            "deep": [{"answer": {"of": [0.10]}, "y": 2}], "options": [ 1.0,2 ]}"#;
        let expected = json!({
            "x": 1.5, "id": "123456789012345678901234567890", "s": "\"id\": 7 \\",
            "answers": ["1e5", "3.10", "-0", "-0", "9007199254740993"],
            "deep": [{ "answer": { "of": ["0.10"] }, "y": 2 }], "options": ["1.0", "2"],
        });
        assert_eq!(parse(text.as_bytes(), KEYS).unwrap(), expected);
        assert_eq!(parse(b"7", KEYS).unwrap(), json!(7));
        assert_eq!(parse(b"[{\"a\": [1.50]}]", TextKeys::All).unwrap(), json!([{ "a": ["1.50"] }]));
    }

    #[test]
    fn a_duplicate_key_is_an_error_with_its_line() {
        let error = |text: &str| parse(text.as_bytes(), KEYS).unwrap_err();
        let twice = ParseError { line: 2, message: "the key `id` occurs twice".to_string() };
        assert_eq!(error("{\"id\": \"a\", \"b\": {\"id\" : \"c\",\n\"id\": \"d\"}}"), twice);
        assert_eq!(parse(br#"[{"a": ":"}, {"a": "\":"}]"#, KEYS).unwrap(), json!([{ "a": ":" }, { "a": "\":" }]));
    }
}
