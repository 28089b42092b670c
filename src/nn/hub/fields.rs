//! A JSON object read field by field, each known by its dotted name. What is wrong is collected, not thrown: a config
//! tells all of its problems at once. Knows no model.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::fmt::Display;

use serde_json::{Map, Value};

/// No size may exceed this: a damaged file must not ask for a petabyte.
const LARGEST: usize = 1 << 20;

/// What a config says that cannot be followed, each with its field.
#[derive(Debug, Default)]
pub(super) struct Problems {
    /// What is wrong: the model is refused.
    pub(super) wrong: RefCell<Vec<String>>,
    /// Fields that are not known.
    pub(super) unknown: RefCell<Vec<String>>,
}

/// An object of a config, and which of its fields were asked for.
pub(super) struct Fields<'a> {
    object: &'a Map<String, Value>,
    /// What stands before a field's name, its dot included.
    prefix: String,
    problems: &'a Problems,
    asked: RefCell<BTreeSet<&'static str>>,
}

impl<'a> Fields<'a> {
    pub(super) fn new(object: &'a Map<String, Value>, prefix: String, problems: &'a Problems) -> Fields<'a> {
        Fields { object, prefix, problems, asked: RefCell::default() }
    }

    /// Whether the field is written, be it as null.
    pub(super) fn has(&self, name: &str) -> bool {
        self.object.contains_key(name)
    }

    /// The field's value; None where it is left out or null.
    pub(super) fn value(&self, name: &'static str) -> Option<&'a Value> {
        self.asked.borrow_mut().insert(name);
        self.object.get(name).filter(|value| !value.is_null())
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

    /// Notes a problem of a field.
    pub(super) fn wrong(&self, name: &str, message: impl Display) {
        self.problems.wrong.borrow_mut().push(format!("`{}{name}` {message}", self.prefix));
    }

    /// A whole number from 1 to a bound.
    pub(super) fn size(&self, name: &'static str, default: usize) -> usize {
        self.size_if_there(name).unwrap_or(default)
    }

    pub(super) fn size_if_there(&self, name: &'static str) -> Option<usize> {
        self.count_if_there(name, 1, LARGEST)
    }

    /// A whole number within bounds.
    pub(super) fn count_if_there(&self, name: &'static str, least: usize, most: usize) -> Option<usize> {
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
        self.positive_if_there(name).unwrap_or(default)
    }

    pub(super) fn positive_if_there(&self, name: &'static str) -> Option<f64> {
        let value = self.value(name)?;
        let number = value.as_f64().filter(|number| number.is_finite() && *number > 0.0);
        if number.is_none() {
            self.wrong(name, format!("must be a number above 0, not {value}"));
        }
        number
    }

    /// A number that must be there and above zero.
    pub(super) fn needed(&self, name: &'static str) -> f64 {
        if !self.has(name) || self.value(name).is_none() {
            self.wrong(name, "is missing");
        }
        self.positive(name, 1.0)
    }

    pub(super) fn flag(&self, name: &'static str, default: bool) -> bool {
        let Some(value) = self.value(name) else { return default };
        value.as_bool().unwrap_or_else(|| {
            self.wrong(name, format!("must be true or false, not {value}"));
            default
        })
    }

    pub(super) fn text(&self, name: &'static str) -> Option<&'a str> {
        let value = self.value(name)?;
        let text = value.as_str();
        if text.is_none() {
            self.wrong(name, format!("must be a text, not {value}"));
        }
        text
    }

    /// One of several texts, and what it stands for.
    pub(super) fn choice<T: Copy>(&self, name: &'static str, default: &str, choices: &[(&str, T)]) -> Option<T> {
        let text = if self.value(name).is_some() { self.text(name)? } else { default };
        let chosen = choices.iter().find(|(known, _)| *known == text).map(|(_, chosen)| *chosen);
        if chosen.is_none() {
            let known: Vec<String> = choices.iter().map(|(known, _)| format!("`{known}`")).collect();
            self.wrong(name, format!("is `{text}`: supported is {}", known.join(", ")));
        }
        chosen
    }

    /// Refuses every value of a field but one; left out or null is as good.
    pub(super) fn only(&self, name: &'static str, wanted: &Value) {
        let Some(value) = self.value(name) else { return };
        let equal = value == wanted || (value.is_number() && value.as_f64() == wanted.as_f64());
        if !equal {
            self.wrong(name, format!("is {}: supported is {wanted} only", short(value)));
        }
    }

    /// How many problems there are, of this object and of all others.
    pub(super) fn problems(&self) -> usize {
        self.problems.wrong.borrow().len()
    }

    /// Looks at the fields that nothing asked for. A null one and one of `harmless` change nothing; one of `inert` is
    /// refused at all but its listed values; any other is noted as unknown.
    pub(super) fn finish(&self, harmless: &[&[&str]], inert: &[(&str, &[&str])]) {
        for (name, value) in self.rest(harmless) {
            match inert.iter().find(|(known, _)| *known == name) {
                Some((_, values)) if values.iter().any(|text| is(value, text)) => {}
                Some((_, [])) => self.refuse(name, value),
                Some((_, values)) => {
                    self.wrong(name, format!("is {}: supported is {} only", short(value), values.join(" or ")));
                }
                None => self.note_unknown(name, value),
            }
        }
    }

    /// As [`Fields::finish`], for an object whose every field is part of a formula: only those of `spare`, which belong to
    /// another formula, are noted, and any other is refused.
    pub(super) fn finish_formula(&self, harmless: &[&str], spare: &[&str]) {
        for (name, value) in self.rest(&[harmless]) {
            if spare.contains(&name) { self.note_unknown(name, value) } else { self.refuse(name, value) }
        }
    }

    fn rest(&self, harmless: &[&[&str]]) -> Vec<(&'a str, &'a Value)> {
        let asked = self.asked.borrow();
        let rest = self.object.iter().filter(|(name, value)| {
            let known = asked.contains(name.as_str()) || harmless.iter().any(|list| list.contains(&name.as_str()));
            !known && !value.is_null()
        });
        rest.map(|(name, value)| (name.as_str(), value)).collect()
    }

    fn refuse(&self, name: &str, value: &Value) {
        self.wrong(name, format!("is not supported and may change the arithmetic: it is {}", short(value)));
    }

    fn note_unknown(&self, name: &str, value: &Value) {
        self.problems.unknown.borrow_mut().push(format!("`{}{name}` ({})", self.prefix, short(value)));
    }
}

/// Whether a value is the one of a JSON text. Numbers are compared as numbers.
fn is(value: &Value, text: &str) -> bool {
    serde_json::from_str::<Value>(text)
        .is_ok_and(|wanted| *value == wanted || (value.is_number() && value.as_f64() == wanted.as_f64()))
}

/// A value as text, cut where it gets long.
fn short(value: &Value) -> String {
    let text = value.to_string();
    match text.char_indices().nth(60) {
        Some((at, _)) => format!("{}...", &text[..at]),
        None => text,
    }
}
