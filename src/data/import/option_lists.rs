//! The options of a multiple-choice row, in the forms in which data sets write them.

use serde_json::Value;

use super::images::STORED;
use super::python_literals;

/// The options with the labels by which answers may name them; without labels they are A, B, ...
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct OptionList {
    pub(super) texts: Vec<String>,
    pub(super) labels: Vec<String>,
}

impl OptionList {
    /// Replaces an answer that is a label by the letter of its option.
    pub(super) fn letter(&self, answer: &str) -> Option<String> {
        let at = self.labels.iter().position(|label| label == answer.trim())?;
        char::from_u32(u32::from(b'A') + at as u32).map(String::from)
    }

    /// Reads a list of texts, a text with such a list, an object from letter to text, an object with the lists `text` and
    /// `label`, or a list of objects with `text` and `label`. `key` is its name in errors.
    pub(super) fn read(value: &Value, key: &str) -> Result<OptionList, String> {
        match value {
            Value::Null => Ok(OptionList::default()),
            Value::Array(values) if values.iter().any(Value::is_object) => {
                let texts: Option<Vec<Value>> = values.iter().map(|option| option.get("text").cloned()).collect();
                let labels: Option<Vec<Value>> = values.iter().map(|option| option.get("label").cloned()).collect();
                let texts = texts.ok_or_else(|| format!("`{key}`: an option has no `text`"))?;
                let labels = labels.map(|labels| self::texts(&labels, key)).transpose()?.unwrap_or_default();
                Ok(OptionList { texts: self::texts(&texts, key)?, labels })
            }
            Value::Array(values) => Ok(OptionList { texts: texts(values, key)?, labels: Vec::new() }),
            Value::String(text) if text.trim().is_empty() => Ok(OptionList::default()),
            Value::String(text) => match python_literals::parse(text) {
                Some(list @ (Value::Array(_) | Value::Object(_))) => OptionList::read(&list, key),
                _ => Err(format!("`{key}` is the text `{text}`, expected a list such as `[\"red\", \"blue\"]`")),
            },
            Value::Object(fields) => match (fields.get("text"), fields.get("label")) {
                (Some(Value::Array(options)), Some(Value::Array(labels))) if fields.len() == 2 => {
                    let (texts, labels) = (texts(options, key)?, texts(labels, key)?);
                    if texts.len() != labels.len() {
                        return Err(format!("`{key}` has {} texts and {} labels", texts.len(), labels.len()));
                    }
                    Ok(OptionList { texts, labels })
                }
                _ => by_letter(fields.iter().map(|(letter, text)| (letter.as_str(), text)), key),
            },
            _ => Err(format!("`{key}` is `{value}`, expected a list of options")),
        }
    }
}

/// Options by letter: A, B, ... without gaps; null at the end means that the row has fewer.
pub(super) fn by_letter<'a>(
    options: impl Iterator<Item = (&'a str, &'a Value)>,
    key: &str,
) -> Result<OptionList, String> {
    let mut options: Vec<(&str, &Value)> = options.filter(|(_, text)| !text.is_null()).collect();
    options.sort_by_key(|(letter, _)| *letter);
    for (at, (letter, _)) in options.iter().enumerate() {
        let expected = char::from(b'A' + at.min(25) as u8).to_string();
        if *letter != expected {
            return Err(format!("`{key}`: the option after the first {at} is `{letter}`, expected `{expected}`"));
        }
    }
    let values: Vec<Value> = options.iter().map(|(_, text)| (*text).clone()).collect();
    Ok(OptionList { texts: texts(&values, key)?, labels: Vec::new() })
}

/// Texts or numbers.
pub(super) fn texts(values: &[Value], key: &str) -> Result<Vec<String>, String> {
    values.iter().map(|value| text(value, key)).collect()
}

/// The text of a text, a number or a boolean.
pub(super) fn text(value: &Value, key: &str) -> Result<String, String> {
    match value {
        Value::String(text) => Ok(text.clone()),
        Value::Number(number) => Ok(number.to_string()),
        Value::Bool(flag) => Ok(flag.to_string()),
        Value::Null => Err(format!("`{key}` has no value")),
        Value::Array(_) => Err(format!("`{key}` is a list, expected a text or a number")),
        Value::Object(fields) if fields.contains_key(STORED) => {
            Err(format!("`{key}` holds bytes, expected a text or a number"))
        }
        Value::Object(fields) => {
            let names: Vec<String> = fields.keys().map(|name| format!("`{key}.{name}`")).collect();
            Err(format!("`{key}` is an object, expected a text or a number; its fields are {}", names.join(", ")))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn all_forms_give_texts_and_labels() {
        let read = |value: Value| {
            OptionList::read(&value, "choices").map(|list| (list.texts.join("|"), list.labels.join("|")))
        };
        let plain = Ok(("red|7".to_string(), String::new()));
        for value in [
            json!(["red", 7]),
            json!("['red', 7]"),
            json!("[\"red\", 7]"),
            json!("['red' '7']"),
            json!({ "A": "red", "B": "7", "C": null }),
            json!("{'A': 'red', 'B': 7}"),
        ] {
            assert_eq!(read(value.clone()), plain, "{value}");
        }
        let labelled = Ok(("red|7".to_string(), "1|2".to_string()));
        assert_eq!(read(json!({ "text": ["red", "7"], "label": ["1", "2"] })), labelled);
        assert_eq!(read(json!([{ "text": "red", "label": 1 }, { "text": "7", "label": 2 }])), labelled);
        assert_eq!(
            OptionList::read(&json!({ "text": ["x"], "label": ["1"] }), "").unwrap().letter("1"),
            Some("A".into())
        );
        let errors: Vec<String> = [
            json!("red, blue"),
            json!({ "A": "red", "C": "blue" }),
            json!({ "text": ["x"], "label": [] }),
            json!([["x"]]),
            json!([null]),
            json!(3),
        ]
        .into_iter()
        .map(|value| read(value).unwrap_err())
        .collect();
        expect_test::expect![[r#"
            `choices` is the text `red, blue`, expected a list such as `["red", "blue"]`
            `choices`: the option after the first 1 is `C`, expected `B`
            `choices` has 1 texts and 0 labels
            `choices` is a list, expected a text or a number
            `choices` has no value
            `choices` is `3`, expected a list of options"#]]
        .assert_eq(&errors.join("\n"));
    }
}
