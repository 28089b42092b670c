//! Saved results: the reports of an experiment without what the documents do not need, and what they depend on.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use ablate_core::base::Hash;
use serde_json::{Value, json};

use crate::support::repository;

/// Fields of a report that are not saved.
const DROPPED: [&str; 5] = ["instances", "missing", "readable", "resamples", "stages"];

/// Width of a line of a saved result, where its values allow it.
const WIDTH: usize = 200;

/// The tables of `ablate report --json`, with rounded numbers.
pub(super) fn tables(report: &Value) -> Value {
    reduce(&report["tables"])
}

fn reduce(value: &Value) -> Value {
    match value {
        Value::Object(fields) => {
            let kept = fields.iter().filter(|(key, _)| !DROPPED.contains(&key.as_str()));
            kept.map(|(key, value)| (key.clone(), reduce(value))).collect()
        }
        Value::Array(values) => values.iter().map(reduce).collect(),
        Value::Number(number) if number.is_f64() => json!(rounded(number.as_f64().unwrap())),
        other => other.clone(),
    }
}

/// Six significant digits, and at most six decimals. Last bits depend on the machine.
fn rounded(number: f64) -> f64 {
    let text = if number.abs() < 1.0 { format!("{number:.6}") } else { format!("{number:.5e}") };
    // Without a negative zero.
    text.parse::<f64>().unwrap() + 0.0
}

/// What an experiment's results depend on: the content of its files, and the versions of its kinds.
pub(super) fn dependencies(experiment: &Path, kinds: &BTreeSet<String>, statistics: Hash) -> Value {
    let versions = kinds.iter().map(|name| {
        let kind = ablate::stages::KINDS.iter().find(|kind| kind.name == name);
        (name.clone(), kind.map_or(Value::Null, |kind| kind.version.into()))
    });
    json!({
        "files": files(experiment),
        "kinds": versions.collect::<BTreeMap<String, Value>>(),
        "statistics": statistics.short(),
    })
}

/// The hashes of a file and the files that it extends, without comments and spaces, by path in the repository.
fn files(experiment: &Path) -> BTreeMap<String, String> {
    let (mut found, mut pending) = (BTreeMap::new(), vec![experiment.to_path_buf()]);
    while let Some(path) = pending.pop() {
        let path = fs::canonicalize(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let table: toml::Table = fs::read_to_string(&path).unwrap().parse().unwrap();
        let folder = path.parent().unwrap();
        match table.get("extends") {
            Some(toml::Value::String(name)) => pending.push(folder.join(name)),
            Some(toml::Value::Array(names)) => {
                pending.extend(names.iter().map(|name| folder.join(name.as_str().unwrap())));
            }
            _ => {}
        }
        let name = path.strip_prefix(fs::canonicalize(repository("")).unwrap()).unwrap_or(&path).display().to_string();
        found.insert(name, Hash::of_bytes(table.to_string().as_bytes()).short());
    }
    found
}

/// What has changed since results were saved, in words.
pub(super) fn changes(saved: &Value, today: &Value) -> Vec<String> {
    let mut changes = Vec::new();
    for part in ["files", "kinds"] {
        let fields = [&saved[part], &today[part]].map(|fields| fields.as_object().cloned().unwrap_or_default());
        let names: BTreeSet<&String> = fields.iter().flat_map(|fields| fields.keys()).collect();
        for name in names {
            let [was, is] = fields.each_ref().map(|fields| fields.get(name).unwrap_or(&Value::Null));
            if was != is {
                changes.push(match part {
                    "kinds" => format!("`{name}` was version {was}, is {is}"),
                    _ => format!("{name} has changed"),
                });
            }
        }
    }
    if saved["statistics"] != today["statistics"] {
        changes.push("the report computes other numbers from the same scores".to_string());
    }
    changes
}

/// The files of saved results, by name of the experiment.
pub(super) fn paths() -> BTreeMap<String, PathBuf> {
    let folder = fs::read_dir(repository("docs/results")).into_iter().flatten();
    let paths = folder.map(|entry| entry.unwrap().path());
    paths.map(|path| (path.file_stem().unwrap().to_string_lossy().into_owned(), path)).collect()
}

/// JSON with one line per value that fits, so that a changed number changes one line.
pub(super) fn render(value: &Value) -> String {
    let mut text = String::new();
    write(value, "", &mut text);
    text + "\n"
}

fn write(value: &Value, indent: &str, text: &mut String) {
    let line = value.to_string();
    if indent.len() + line.len() <= WIDTH || !(value.is_object() || value.is_array()) {
        text.push_str(&line);
        return;
    }
    let inner = format!("{indent} ");
    let (open, close) = if value.is_object() { ("{", "}") } else { ("[", "]") };
    let fields: Vec<(String, &Value)> = match value {
        Value::Object(fields) => fields.iter().map(|(key, value)| (format!("{}: ", json!(key)), value)).collect(),
        _ => value.as_array().into_iter().flatten().map(|value| (String::new(), value)).collect(),
    };
    text.push_str(open);
    for (index, (key, value)) in fields.iter().enumerate() {
        text.push_str(&format!("{}\n{inner}{key}", if index == 0 { "" } else { "," }));
        write(value, &inner, text);
    }
    text.push_str(&format!("\n{indent}{close}"));
}
