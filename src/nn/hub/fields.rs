//! Reads a JSON object field by field. Problems are collected with the dotted name of their field, so that an error lists all
//! of them.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::fmt::Display;

use serde_json::{Map, Value, json};

/// Largest size: a damaged file must not allocate a petabyte.
const MAX_SIZE: usize = 1 << 20;

/// The problems of a config, each with its field.
#[derive(Debug, Default)]
pub(super) struct Problems {
    /// Errors: the model is refused.
    pub(super) wrong: RefCell<Vec<String>>,
    /// Unknown fields.
    pub(super) unknown: RefCell<Vec<String>>,
}

/// An object of a config, and which of its fields were read.
pub(super) struct Fields<'a> {
    object: &'a Map<String, Value>,
    /// The prefix of a field's dotted name, with the last dot.
    prefix: String,
    problems: &'a Problems,
    read: RefCell<BTreeSet<&'static str>>,
}

impl<'a> Fields<'a> {
    pub(super) fn new(object: &'a Map<String, Value>, prefix: String, problems: &'a Problems) -> Fields<'a> {
        Fields { object, prefix, problems, read: RefCell::default() }
    }

    /// Whether the field is present, possibly as null.
    pub(super) fn has(&self, name: &str) -> bool {
        self.object.contains_key(name)
    }

    /// The field's value; none if it is absent or null.
    pub(super) fn value(&self, name: &'static str) -> Option<&'a Value> {
        self.read.borrow_mut().insert(name);
        self.object.get(name).filter(|value| !value.is_null())
    }

    /// Whether a field is there and null.
    pub(super) fn is_null(&self, name: &str) -> bool {
        self.object.get(name).is_some_and(Value::is_null)
    }

    /// Accepts a field with any value.
    pub(super) fn skip(&self, name: &'static str) {
        self.read.borrow_mut().insert(name);
    }

    /// The object in a field.
    pub(super) fn inner(&self, name: &'static str) -> Option<Fields<'a>> {
        let value = self.value(name)?;
        let Some(object) = value.as_object() else {
            self.wrong(name, format!("must be an object, not {value}"));
            return None;
        };
        Some(Fields::new(object, format!("{}{name}.", self.prefix), self.problems))
    }

    /// Adds a problem of a field.
    pub(super) fn wrong(&self, name: &str, message: impl Display) {
        self.problems.wrong.borrow_mut().push(format!("`{}{name}` {message}", self.prefix));
    }

    /// A whole number from 1 to [`MAX_SIZE`].
    pub(super) fn size(&self, name: &'static str, default: usize) -> usize {
        self.optional_size(name).unwrap_or(default)
    }

    pub(super) fn optional_size(&self, name: &'static str) -> Option<usize> {
        self.optional_count(name, 1, MAX_SIZE)
    }

    /// A whole number within bounds.
    pub(super) fn optional_count(&self, name: &'static str, least: usize, most: usize) -> Option<usize> {
        let value = self.value(name)?;
        let count = value.as_u64().and_then(|count| usize::try_from(count).ok());
        let within = count.filter(|count| (least..=most).contains(count));
        if within.is_none() {
            self.wrong(name, format!("must be a whole number from {least} to {most}, not {value}"));
        }
        within
    }

    /// A number above zero.
    pub(super) fn positive(&self, name: &'static str, default: f64) -> f64 {
        self.optional_positive(name).unwrap_or(default)
    }

    pub(super) fn optional_positive(&self, name: &'static str) -> Option<f64> {
        let value = self.value(name)?;
        let number = value.as_f64().filter(|number| number.is_finite() && *number > 0.0);
        if number.is_none() {
            self.wrong(name, format!("must be a number above 0, not {value}"));
        }
        number
    }

    /// A required number above zero.
    pub(super) fn required(&self, name: &'static str) -> f64 {
        if !self.has(name) || self.value(name).is_none() {
            self.wrong(name, "is missing");
        }
        self.positive(name, 1.0)
    }

    pub(super) fn flag(&self, name: &'static str, default: bool) -> bool {
        let Some(value) = self.value(name) else {
            // transformers 4 takes null as false, and transformers 5 refuses it.
            if default && self.is_null(name) {
                self.wrong(name, "must be true or false, not null");
            }
            return default;
        };
        value.as_bool().unwrap_or_else(|| {
            self.wrong(name, format!("must be true or false, not {value}"));
            default
        })
    }

    pub(super) fn text(&self, name: &'static str) -> Option<&'a str> {
        let value = self.value(name)?;
        let text = value.as_str();
        if text.is_none() {
            self.wrong(name, format!("must be a string, not {value}"));
        }
        text
    }

    /// One of several strings, and the value it stands for.
    pub(super) fn choice<T: Copy>(&self, name: &'static str, default: &str, choices: &[(&str, T)]) -> Option<T> {
        let text = if self.value(name).is_some() { self.text(name)? } else { default };
        let chosen = choices.iter().find(|(known, _)| *known == text).map(|(_, chosen)| *chosen);
        if chosen.is_none() {
            let known: Vec<String> = choices.iter().map(|(known, _)| format!("`{known}`")).collect();
            self.wrong(name, format!("is `{text}`: must be one of {}", known.join(", ")));
        }
        chosen
    }

    /// Refuses every value of a field except one; absent and null are accepted.
    pub(super) fn only(&self, name: &'static str, wanted: &Value) {
        let Some(value) = self.value(name) else { return };
        let equal = value == wanted || (value.is_number() && value.as_f64() == wanted.as_f64());
        if !equal {
            self.wrong(name, format!("is {}: only {wanted} is supported", short(value)));
        }
    }

    /// Refuses another class in `architectures`, which has no language head or another one, so other arrays.
    pub(super) fn class(&self, class: &str) {
        self.only("architectures", &json!([class]));
    }

    /// The number of problems of the whole config so far.
    pub(super) fn problems(&self) -> usize {
        self.problems.wrong.borrow().len()
    }

    /// Checks the fields that were not read. Null values and `ignored` fields are accepted. A `restricted` field is refused
    /// unless it has one of its listed values. Any other field is unknown.
    pub(super) fn finish(&self, ignored: &[&[&str]], restricted: &[(&str, &[&str])]) {
        for (name, value) in self.unread(ignored) {
            match restricted.iter().find(|(known, _)| *known == name) {
                Some((_, values)) if values.iter().any(|text| is(value, text)) => {}
                Some((_, [])) => self.refuse(name, value),
                Some((_, values)) => {
                    self.wrong(name, format!("is {}: only {} is supported", short(value), values.join(" or ")));
                }
                None => self.add_unknown(name, value),
            }
        }
    }

    /// As [`Fields::finish`], for an object in which every field changes the arithmetic. The fields of `unused` belong to
    /// another variant and are unknown; any other is refused.
    pub(super) fn finish_strict(&self, ignored: &[&str], unused: &[&str]) {
        for (name, value) in self.unread(&[ignored]) {
            if unused.contains(&name) { self.add_unknown(name, value) } else { self.refuse(name, value) }
        }
    }

    fn unread(&self, ignored: &[&[&str]]) -> Vec<(&'a str, &'a Value)> {
        let read = self.read.borrow();
        let rest = self.object.iter().filter(|(name, value)| {
            let known = read.contains(name.as_str()) || ignored.iter().any(|list| list.contains(&name.as_str()));
            !known && !value.is_null()
        });
        rest.map(|(name, value)| (name.as_str(), value)).collect()
    }

    fn refuse(&self, name: &str, value: &Value) {
        self.wrong(name, format!("is not supported and may change the arithmetic: it is {}", short(value)));
    }

    fn add_unknown(&self, name: &str, value: &Value) {
        self.problems.unknown.borrow_mut().push(format!("`{}{name}` ({})", self.prefix, short(value)));
    }
}

/// Whether a value equals that of a JSON text. `1` equals `1.0`.
fn is(value: &Value, text: &str) -> bool {
    serde_json::from_str::<Value>(text)
        .is_ok_and(|wanted| *value == wanted || (value.is_number() && value.as_f64() == wanted.as_f64()))
}

/// A value as text, truncated to 60 characters.
fn short(value: &Value) -> String {
    let text = value.to_string();
    match text.char_indices().nth(60) {
        Some((at, _)) => format!("{}...", &text[..at]),
        None => text,
    }
}
