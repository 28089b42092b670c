//! Deserializes a table of the experiment file into a config struct, and finds all errors with their places in the
//! table.

use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::de::DeserializeOwned;
use serde_json::Value;
use serde_path_to_error::Segment;

use crate::base::diagnostic::nearest;

/// An error in a table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigError {
    pub kind: ConfigErrorKind,
    /// Keys and list indices that lead to the wrong value, the unknown key, or the table with the missing key.
    /// Outermost first; empty for the table itself.
    pub path: Vec<String>,
    pub message: String,
    pub help: Option<String>,
}

/// The kind of a [`ConfigError`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ConfigErrorKind {
    /// The table has no such key. `similar` is the key of those that it can have (`known`) that was probably meant.
    UnknownKey { similar: Option<String>, known: Vec<String> },
    /// A required key is missing.
    MissingKey { key: String },
    /// A value has the wrong type or is not allowed.
    InvalidValue,
}

impl ConfigError {
    /// An invalid value at a dotted path.
    pub fn at(path: &str, message: impl Into<String>) -> ConfigError {
        let path = path.split('.').filter(|part| !part.is_empty()).map(str::to_string).collect();
        ConfigError::invalid_value(path, message)
    }

    pub fn invalid_value(path: Vec<String>, message: impl Into<String>) -> ConfigError {
        ConfigError { kind: ConfigErrorKind::InvalidValue, path, message: message.into(), help: None }
    }

    #[must_use]
    pub fn help(mut self, help: impl Into<String>) -> ConfigError {
        self.help = Some(help.into());
        self
    }
}

/// Deserializes a table. After each error the wrong value is removed and the rest is tried again, so that all errors
/// are found.
pub fn parse<T: DeserializeOwned>(table: &Value) -> Result<T, Vec<ConfigError>> {
    let mut rest = table.clone();
    let mut errors: Vec<ConfigError> = Vec::new();
    loop {
        let error = match serde_path_to_error::deserialize::<_, T>(&rest) {
            Ok(value) if errors.is_empty() => return Ok(value),
            Ok(_) => return Err(errors),
            Err(error) => error,
        };
        let key = |segment: &Segment| match segment {
            Segment::Seq { index } => Some(index.to_string()),
            Segment::Map { key } | Segment::Enum { variant: key } => Some(key.clone()),
            Segment::Unknown => None,
        };
        let path: Vec<String> = error.path().iter().filter_map(key).collect();
        let error = describe(&path, &error.inner().to_string());
        if !errors.iter().any(|known| *known == error || follows_from(&error, known)) {
            errors.push(error);
        }
        if path.is_empty() || !remove(&mut rest, &path) {
            return Err(errors);
        }
    }
}

/// Whether `error` is only a consequence of `known`: a key is missing because it was removed as wrong, or because it is
/// present under a misspelt name.
fn follows_from(error: &ConfigError, known: &ConfigError) -> bool {
    let ConfigErrorKind::MissingKey { key: missing } = &error.kind else { return false };
    let Some((_, table)) = known.path.split_last() else { return false };
    // The removed value may be a whole list, whose element was wrong.
    let was_removed = known.path.strip_prefix(&error.path[..]).and_then(<[String]>::first) == Some(missing);
    let is_misspelt =
        matches!(&known.kind, ConfigErrorKind::UnknownKey { similar: Some(similar), .. } if similar == missing);
    was_removed || (table == error.path && is_misspelt)
}

/// Rewrites a message of serde in the terms of TOML.
fn describe(path: &[String], message: &str) -> ConfigError {
    let ticked: Vec<&str> = message.split('`').skip(1).step_by(2).collect();
    let error = |message: String| ConfigError::invalid_value(path.to_vec(), message);
    if message.starts_with("unknown field") || message.starts_with("unknown variant") {
        let is_key = message.starts_with("unknown field");
        let what = if is_key { "key" } else { "value" };
        let (name, known) = ticked.split_first().map_or(("", &[][..]), |(name, known)| (*name, known));
        let similar = nearest(name, known.iter().copied());
        let help = match similar {
            Some(near) => format!("a {what} of a similar name exists: `{near}`"),
            None if known.is_empty() => format!("no {what} is allowed here"),
            None => format!("the known {what}s are {}", list(known)),
        };
        let mut error = error(format!("unknown {what} `{name}`")).help(help);
        if is_key {
            let known = known.iter().map(ToString::to_string).collect();
            error.kind = ConfigErrorKind::UnknownKey { similar: similar.map(str::to_string), known };
        }
        return error;
    }
    if let (true, Some(name)) = (message.ends_with("unit variant, expected newtype variant"), path.last()) {
        return error(format!("`{name}` needs a value: write `{{ {name} = ... }}`"));
    }
    if message.starts_with("missing field") {
        let key = ticked.first().unwrap_or(&"");
        let kind = ConfigErrorKind::MissingKey { key: (*key).to_string() };
        return ConfigError { kind, ..error(format!("the key `{key}` is missing")) };
    }
    let count = "a whole number from 0";
    let numbers = [("f64", "a number"), ("f32", "a number"), ("u64", count), ("u32", count), ("usize", count)];
    let others = [("a boolean", "`true` or `false`"), ("a map", "a table"), ("a sequence", "a list")];
    let words = numbers.into_iter().chain(others).chain([("an array of", "a list of")]);
    let message = message.replace("invalid type: map", "invalid type: table");
    let mut message = message.replace("type: sequence", "type: list");
    // serde's message ends with the name of the Rust struct.
    if let Some((before, _)) = message.split_once("expected struct ") {
        message = format!("{before}expected a table");
    }
    for (theirs, ours) in words {
        message = message.replace(&format!("expected {theirs}"), &format!("expected {ours}"));
    }
    error(message.replace("invalid type: ", "wrong type: ").replace("floating point", "number"))
}

fn list(names: &[&str]) -> String {
    names.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ")
}

/// Removes the value at `path`. `false` if there is none.
fn remove(value: &mut Value, path: &[String]) -> bool {
    match (value, path) {
        (Value::Object(table), [key]) => table.shift_remove(key).is_some(),
        (Value::Object(table), [key, rest @ ..]) => match table.get_mut(key) {
            Some(inner) if inner.is_object() => remove(inner, rest),
            // Removing one element of a list would shift the indices of the others, so the whole list is removed.
            Some(_) => table.shift_remove(key).is_some(),
            None => false,
        },
        _ => false,
    }
}

/// The JSON Schema of a config struct.
pub fn schema_of<T: JsonSchema>(generator: &mut SchemaGenerator) -> Schema {
    T::json_schema(generator)
}

#[cfg(test)]
mod tests {
    use super::super::Reference;
    use super::*;
    use serde::Deserialize;
    use serde_json::json;

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    #[expect(dead_code, reason = "only the errors are checked")]
    struct Dpo {
        beta: f64,
        policy: Reference,
        optimizer: Optimizer,
    }

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    #[expect(dead_code, reason = "only the errors are checked")]
    struct Optimizer {
        lr: f64,
        warmup: u32,
    }

    #[test]
    fn all_errors_of_a_table_are_found() {
        let table = json!({ "bta": 1, "beta": "high", "optimizer": { "lr": 1, "wramup": 3 } });
        let errors = parse::<Dpo>(&table).unwrap_err();
        let messages: Vec<String> = errors.iter().map(|e| format!("{}: {}", e.path.join("."), e.message)).collect();
        let beta = "beta: wrong type: string \"high\", expected a number";
        assert_eq!(messages, ["bta: unknown key `bta`", beta, "optimizer.wramup: unknown key `wramup`"]);
        assert_eq!(errors[0].help.as_deref(), Some("a key of a similar name exists: `beta`"));
    }
}
