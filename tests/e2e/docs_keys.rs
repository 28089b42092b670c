//! The reference pages document every key of the schema, and no others.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use serde_json::Value;

use crate::schema::schema;
use crate::support::repository;

/// Keys of every stage, which `docs/experiment.md` documents.
const EVERY_STAGE: [&str; 3] = ["kind", "limits", "when"];

/// Collects the names of keys, including those of nested tables.
fn keys(part: &Value, root: &Value, found: &mut BTreeSet<String>) {
    match part {
        Value::Object(fields) => fields.iter().for_each(|(word, inner)| match (word.as_str(), inner) {
            ("properties", Value::Object(known)) => {
                for (key, value) in known {
                    found.insert(key.clone());
                    keys(value, root, found);
                }
            }
            ("$ref", Value::String(name)) => keys(root.pointer(name.trim_start_matches('#')).unwrap(), root, found),
            _ => keys(inner, root, found),
        }),
        Value::Array(parts) => parts.iter().for_each(|inner| keys(inner, root, found)),
        _ => {}
    }
}

fn page(name: &str) -> String {
    fs::read_to_string(repository("docs").join(name)).unwrap()
}

/// The text below each `## heading`.
fn sections(page: &str) -> BTreeMap<&str, &str> {
    page.split("\n## ").skip(1).map(|section| section.split_once('\n').unwrap()).collect()
}

/// Possible keys in the code of a text: in backticks, and with `fences` in code blocks too.
fn code_words(text: &str, fences: bool) -> BTreeSet<&str> {
    let blocks = text.split("```").enumerate();
    let code = blocks.flat_map(|(index, block)| {
        if index % 2 == 1 {
            return if fences { vec![block] } else { Vec::new() };
        }
        block.split('`').skip(1).step_by(2).collect()
    });
    code.flat_map(words).collect()
}

fn words(code: &str) -> impl Iterator<Item = &str> {
    let words = code.split(|letter: char| !letter.is_ascii_alphanumeric() && letter != '_');
    words.filter(|word| word.starts_with(|letter: char| letter.is_ascii_lowercase()))
}

/// Problems of the tables of keys: unknown keys and empty cells.
fn wrong_rows(place: &str, text: &str, known: &BTreeSet<String>) -> Vec<String> {
    let mut problems = Vec::new();
    let mut header: Vec<&str> = Vec::new();
    for line in text.lines() {
        let Some(row) = line.strip_prefix("| ").and_then(|line| line.trim_end().strip_suffix('|')) else {
            if !line.starts_with('|') {
                header.clear();
            }
            continue;
        };
        let cells: Vec<&str> = row.split('|').map(str::trim).collect();
        if header.is_empty() {
            header = cells;
            continue;
        }
        if !header[0].starts_with("key") {
            continue;
        }
        if cells.len() != header.len() {
            problems.push(format!("{place}: {} cells, not {}: {line}", cells.len(), header.len()));
            continue;
        }
        for key in cells[0].split('`').skip(1).step_by(2).flat_map(words).filter(|key| !known.contains(*key)) {
            problems.push(format!("{place}: there is no key `{key}`"));
        }
        for (name, cell) in header.iter().zip(&cells) {
            if ["type", "default"].contains(name) && cell.is_empty() {
                problems.push(format!("{place}: {} has no {name}", cells[0]));
            }
        }
    }
    problems
}

#[test]
fn stages_page_documents_every_key() {
    let (schema, page) = (schema(), page("stages.md"));
    let sections = sections(&page);
    let everywhere = code_words(&page, true);
    let mut problems = Vec::new();
    for (name, kind) in schema["$defs"].as_object().unwrap() {
        let Some(name) = name.strip_prefix("stage.") else { continue };
        let Some(section) = sections.get(name) else {
            problems.push(format!("{name}: the kind has no section"));
            continue;
        };
        // "and the other keys of [`sft`](#sft)".
        let linked = section.split("](#").skip(1).filter_map(|link| sections.get(link.split(')').next()?));
        let here: BTreeSet<&str> = linked.chain([section]).flat_map(|text| code_words(text, false)).collect();
        let mut known = BTreeSet::new();
        for (key, value) in kind["properties"].as_object().unwrap() {
            if EVERY_STAGE.contains(&key.as_str()) {
                continue;
            }
            if !here.contains(key.as_str()) {
                problems.push(format!("{name}: the key `{key}` is not documented"));
            }
            known.insert(key.clone());
            let mut inner = BTreeSet::new();
            keys(value, &schema, &mut inner);
            let missing = inner.iter().filter(|inner| !everywhere.contains(inner.as_str()));
            problems.extend(missing.map(|inner| format!("{name}: the key `{inner}` of `{key}` is not documented")));
            known.extend(inner);
        }
        problems.extend(wrong_rows(name, section, &known));
    }
    assert!(problems.is_empty(), "docs/stages.md\n{}", problems.join("\n"));
}

#[test]
fn experiment_page_documents_every_key() {
    let (schema, page) = (schema(), page("experiment.md"));
    let mut known: BTreeSet<String> = EVERY_STAGE.map(str::to_string).into();
    keys(&schema["$defs"]["LimitsTable"], &schema, &mut known);
    for (key, value) in schema["properties"].as_object().unwrap() {
        known.insert(key.clone());
        if key != "stage" {
            keys(value, &schema, &mut known);
        }
    }
    let here = code_words(&page, false);
    let missing = known.iter().filter(|key| !here.contains(key.as_str()));
    let mut problems: Vec<String> = missing.map(|key| format!("the key `{key}` is not documented")).collect();
    for (name, section) in page.split("\n## ").map(|section| section.split_once('\n').unwrap()) {
        problems.extend(wrong_rows(name, section, &known));
    }
    assert!(problems.is_empty(), "docs/experiment.md\n{}", problems.join("\n"));
}
