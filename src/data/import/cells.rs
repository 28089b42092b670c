//! The cells of a map of columns: names of columns, templates and constant texts.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::option_lists;

/// A cell: the name of a column, a template such as `{name}.png`, or a constant text.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(untagged, expecting = "expected a column, a text with columns in braces, or { text = \"...\" }")]
pub enum Cell {
    Column(String),
    Text(Constant),
}

impl Default for Cell {
    fn default() -> Cell {
        Cell::Column(String::new())
    }
}

/// The same text for every row.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Constant {
    pub text: String,
}

/// A part of a template.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Part<'a> {
    Text(String),
    Column(&'a str),
}

impl Cell {
    /// The value in a row; `None` if the column is null. A template is a text.
    pub(super) fn value(&self, row: &Map<String, Value>, key: &str) -> Result<Option<Value>, String> {
        let text = match self {
            Cell::Text(constant) => return Ok(Some(Value::String(constant.text.clone()))),
            Cell::Column(text) => text,
        };
        let parts = parts(text)?;
        if let [Part::Column(name)] = parts.as_slice() {
            return Ok(lookup(row, name).filter(|value| !value.is_null()));
        }
        let mut made = String::new();
        for part in parts {
            match part {
                Part::Text(text) => made.push_str(&text),
                Part::Column(name) => match lookup(row, name).filter(|value| !value.is_null()) {
                    Some(value) => made.push_str(&option_lists::text(&value, name)?),
                    None => return Err(format!("`columns.{key}`: the column `{name}` of `{text}` has no value")),
                },
            }
        }
        Ok(Some(Value::String(made)))
    }

    pub(super) fn text(&self, row: &Map<String, Value>, key: &str) -> Result<Option<String>, String> {
        self.value(row, key)?.map(|value| option_lists::text(&value, &self.name(key))).transpose()
    }

    /// The name of the column in errors.
    pub(super) fn name(&self, key: &str) -> String {
        match self {
            Cell::Column(text) => text.clone(),
            Cell::Text(_) => key.to_string(),
        }
    }

    pub(super) fn describe(&self, key: &str) -> String {
        format!("`{}`", self.name(key))
    }
}

/// The value of a column. `a.b` is the field `b` of the column `a`; of a list of objects, the list of their fields.
fn lookup(row: &Map<String, Value>, name: &str) -> Option<Value> {
    if let Some(value) = row.get(name) {
        return Some(value.clone());
    }
    let (first, rest) = name.split_once('.')?;
    rest.split('.').try_fold(row.get(first)?.clone(), |value, field| match value {
        Value::Object(mut fields) => fields.remove(field),
        Value::Array(values) => {
            let fields = values.into_iter().map(|value| value.get(field).cloned().unwrap_or(Value::Null));
            Some(Value::Array(fields.collect()))
        }
        _ => None,
    })
}

/// Splits a text into columns and text. A text without braces is the name of a column; `{{` and `}}` are braces.
pub(super) fn parts(text: &str) -> Result<Vec<Part<'_>>, String> {
    if !text.contains(['{', '}']) {
        return Ok(vec![Part::Column(text)]);
    }
    let (mut parts, mut literal, mut rest) = (Vec::new(), String::new(), text);
    while let Some(at) = rest.find(['{', '}']) {
        literal.push_str(&rest[..at]);
        let doubled = rest[at..].starts_with("{{") || rest[at..].starts_with("}}");
        if doubled {
            literal.push_str(&rest[at..=at]);
            rest = &rest[at + 2..];
            continue;
        }
        let end = rest[at..].find('}').filter(|end| *end > 1 && rest[at..].starts_with('{'));
        let Some(end) = end else {
            return Err(format!("`{text}`: a column is written as `{{name}}`, a brace as `{{{{` or `}}}}`"));
        };
        if !literal.is_empty() {
            parts.push(Part::Text(std::mem::take(&mut literal)));
        }
        parts.push(Part::Column(&rest[at + 1..at + end]));
        rest = &rest[at + end + 1..];
    }
    literal.push_str(rest);
    if !literal.is_empty() {
        parts.push(Part::Text(literal));
    }
    if !parts.iter().any(|part| matches!(part, Part::Column(_))) {
        return Err(format!("`{text}` names no column: write `{{ text = \"…\" }}` for a constant text"));
    }
    Ok(parts)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn cell(text: &str) -> Cell {
        Cell::Column(text.to_string())
    }

    #[test]
    fn cells_are_columns_templates_and_constants() {
        let row = json!({
            "a": "x", "n": 7, "flag": true, "none": null, "a.b": "dotted", "s": { "t": { "u": "deep" } },
            "list": [{ "text": "p" }, { "text": "q" }],
        });
        let row = row.as_object().unwrap();
        let value = |text: &str| cell(text).value(row, "key").unwrap();
        assert_eq!((value("a"), value("none"), value("missing")), (Some(json!("x")), None, None));
        assert_eq!((value("a.b"), value("s.t.u")), (Some(json!("dotted")), Some(json!("deep"))));
        assert_eq!(value("list.text"), Some(json!(["p", "q"])));
        assert_eq!(value("{a}-{n}{flag}.png"), Some(json!("x-7true.png")));
        assert_eq!(value("{{{a}}}"), Some(json!("{x}")));
        // A template of a single column keeps its value.
        assert_eq!(value("{n}"), Some(json!(7)));
        let constant = Cell::Text(Constant { text: "{a}".to_string() });
        assert_eq!(constant.text(row, "key").unwrap().as_deref(), Some("{a}"));
        let errors = ["{none}.png", "{s}.png", "{a", "a}", "{}", "{{a}}", "x{"]
            .map(|text| cell(text).value(row, "image").unwrap_err());
        expect_test::expect![[r#"
            `columns.image`: the column `none` of `{none}.png` has no value
            `s` is an object, expected a text or a number; its fields are `s.t`
            `{a`: a column is written as `{name}`, a brace as `{{` or `}}`
            `a}`: a column is written as `{name}`, a brace as `{{` or `}}`
            `{}`: a column is written as `{name}`, a brace as `{{` or `}}`
            `{{a}}` names no column: write `{ text = "…" }` for a constant text
            `x{`: a column is written as `{name}`, a brace as `{{` or `}}`"#]]
        .assert_eq(&errors.join("\n"));
    }
}
