//! JSON texts whose numbers stay as they are written. An id or an answer is a name, and `serde_json` keeps of a number
//! its value only: `1e5`, `3.10` and integers beyond 64 bits would come back as other texts. Knows no row.

use std::collections::BTreeSet;

use serde_json::Value;

use super::jsonl;

/// The keys whose numbers are texts, at any depth below them.
const TEXTS: [&str; 5] = ["id", "idx", "answer", "answers", "options"];

/// What is wrong with a text, and in which line of it, from 1.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Mistake {
    pub(super) line: usize,
    pub(super) what: String,
}

/// Parses a JSON text; numbers below the keys of [`TEXTS`] become texts, written as they are there.
///
/// # Errors
///
/// What is not JSON, and an object that has a key twice, of which one value would be lost.
pub(super) fn parse(text: &[u8]) -> Result<Value, Mistake> {
    let mut value = serde_json::from_slice(text).map_err(|error| {
        let line = text.split(|byte| *byte == b'\n').nth(error.line().saturating_sub(1)).unwrap_or_default();
        Mistake { line: error.line(), what: jsonl::describe_error(&error, line) }
    })?;
    let numbers = numbers(text)?;
    replace(&mut value, false, &mut numbers.into_iter());
    Ok(value)
}

/// The numbers of a text in their order. It is known to be JSON.
fn numbers(text: &[u8]) -> Result<Vec<&str>, Mistake> {
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
                    let what = format!("the key `{}` is given twice", String::from_utf8_lossy(name));
                    return Err(Mistake { line, what });
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

/// Takes the numbers in the order of the text, which is that of the fields.
fn replace<'a>(value: &mut Value, text: bool, numbers: &mut impl Iterator<Item = &'a str>) {
    match value {
        Value::Number(_) => {
            let written = numbers.next().map(|number| Value::String(number.to_string()));
            if let (true, Some(written)) = (text, written) {
                *value = written;
            }
        }
        Value::Array(values) => values.iter_mut().for_each(|value| replace(value, text, numbers)),
        Value::Object(fields) => {
            fields.iter_mut().for_each(|(key, value)| replace(value, text || TEXTS.contains(&key.as_str()), numbers));
        }
        Value::Null | Value::Bool(_) | Value::String(_) => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn numbers_that_are_names_stay_as_they_are_written() {
        let text = r#"{"x": 1.50, "id": 123456789012345678901234567890, "s": "\"id\": 7 \\", "answers": [1e5, 3.10, "-0", -0, 9007199254740993],
            "deep": [{"answer": {"of": [0.10]}, "y": 2}], "options": [ 1.0,2 ]}"#;
        let expected = json!({
            "x": 1.5, "id": "123456789012345678901234567890", "s": "\"id\": 7 \\",
            "answers": ["1e5", "3.10", "-0", "-0", "9007199254740993"],
            "deep": [{ "answer": { "of": ["0.10"] }, "y": 2 }], "options": ["1.0", "2"],
        });
        assert_eq!(parse(text.as_bytes()).unwrap(), expected);
        assert_eq!(parse(b"7").unwrap(), json!(7));
    }

    #[test]
    fn a_key_that_is_given_twice_is_an_error_with_its_line() {
        let told = |text: &str| parse(text.as_bytes()).unwrap_err();
        let twice = Mistake { line: 2, what: "the key `id` is given twice".to_string() };
        assert_eq!(told("{\"id\": \"a\", \"b\": {\"id\" : \"c\",\n\"id\": \"d\"}}"), twice);
        assert_eq!(parse(br#"[{"a": ":"}, {"a": "\":"}]"#).unwrap(), json!([{ "a": ":" }, { "a": "\":" }]));
    }
}
