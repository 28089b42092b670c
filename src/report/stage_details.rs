//! Loads what the page shows of each stage: its config, its inputs, its costs, and the end of the logs of its instances.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;

use serde_json::Value;

use super::input::{InstanceFacts, StageDetails};
use super::text_table::thousands;
use ablate_core::base::{escape, files};
use ablate_core::stage::{Manifest, ManifestEntry, Summary};
use ablate_experiment::{Expansion, Instance, InstanceId, Upstream};
use ablate_store::{StageRecord, Store};

/// Most instances of a stage that are shown.
const INSTANCES: usize = 12;
/// Most instances of a stage whose log is shown.
const LOGS: usize = 2;
/// Most lines and bytes of a log.
const LOG_LINES: usize = 20;
const LOG_BYTES: u64 = 4 << 10;
/// Most characters of a value.
const MAX_VALUE: usize = 300;
/// Most keys of a list.
const KEYS: usize = 80;

/// The details of every stage, in order of appearance. `record` gives the record of an instance whose result is up to
/// date.
pub(super) fn load(
    expansion: &Expansion,
    store: &Store,
    record: impl Fn(InstanceId) -> Option<StageRecord>,
) -> Vec<StageDetails> {
    let mut stages: Vec<(&str, Vec<InstanceId>)> = Vec::new();
    let mut places: BTreeMap<&str, usize> = BTreeMap::new();
    for id in expansion.ids() {
        let stage = expansion.get(id).stage.as_str();
        let place = *places.entry(stage).or_insert_with(|| {
            stages.push((stage, Vec::new()));
            stages.len() - 1
        });
        stages[place].1.push(id);
    }
    stages.into_iter().map(|(_, ids)| stage(expansion, store, &ids, &record)).collect()
}

fn stage(
    expansion: &Expansion,
    store: &Store,
    ids: &[InstanceId],
    record: &impl Fn(InstanceId) -> Option<StageRecord>,
) -> StageDetails {
    let configs: Vec<Vec<(String, String)>> = ids.iter().map(|&id| config(expansion.get(id))).collect();
    let differ = differing(&configs);
    let mut details = StageDetails { instances: ids.len(), ..StageDetails::default() };
    if let Some(&first) = ids.first() {
        let Instance { stage, kind, .. } = expansion.get(first);
        (details.stage, details.kind) = (stage.clone(), kind.name.to_string());
    }
    let common = configs.first().into_iter().flatten().filter(|(key, _)| !differ.contains(key.as_str()));
    details.config = capped(common.cloned().collect());
    details.inputs = capped(inputs(expansion, ids));
    let mut logs = 0;
    for (&id, config) in ids.iter().zip(&configs) {
        let record = record(id);
        details.done += usize::from(record.is_some());
        details.seconds += record.as_ref().map_or(0.0, |record| record.provenance.seconds);
        if details.shown.len() == INSTANCES {
            continue;
        }
        let own = config.iter().filter(|(key, _)| differ.contains(key.as_str())).cloned();
        let mut facts = InstanceFacts {
            instance: expansion.get(id).name.clone(),
            config: capped(own.collect()),
            ..InstanceFacts::default()
        };
        if let Some(record) = record {
            facts.seconds = Some(record.provenance.seconds);
            facts.summary = capped(summary(&record.summary));
            if logs < LOGS {
                facts.log = log_end(&store.root().join(&record.provenance.log));
                logs += usize::from(facts.log.is_some());
            }
        }
        details.shown.push(facts);
    }
    details
}

/// The values of an instance's manifest.
fn config(instance: &Instance) -> Vec<(String, String)> {
    let manifest: Manifest =
        serde_json::from_str(&instance.identity).unwrap_or_else(|_| Manifest::new(instance.kind.name, 0));
    let value = |entry: ManifestEntry| match entry {
        ManifestEntry::Value { key, value } => Some((key, text(&value))),
        ManifestEntry::Input { .. } | ManifestEntry::Seed { .. } => None,
    };
    manifest.entries.into_iter().filter_map(value).collect()
}

/// The keys that are absent from an instance, or whose values differ.
fn differing(configs: &[Vec<(String, String)>]) -> BTreeSet<&str> {
    let mut values: BTreeMap<&str, (&str, usize, bool)> = BTreeMap::new();
    for (key, value) in configs.iter().flatten() {
        let (first, count, equal) = values.entry(key).or_insert((value, 0, true));
        *count += 1;
        *equal &= *first == value.as_str();
    }
    let differ = |(_, count, equal): &(&str, usize, bool)| !equal || *count < configs.len();
    values.into_iter().filter(|(_, known)| differ(known)).map(|(key, _)| key).collect()
}

/// The roles of the inputs with the stages, files and variables that they name, each once.
fn inputs(expansion: &Expansion, ids: &[InstanceId]) -> Vec<(String, String)> {
    let mut found: Vec<(String, String)> = Vec::new();
    let mut known = BTreeSet::new();
    for input in ids.iter().flat_map(|&id| &expansion.get(id).inputs) {
        let name = match &input.upstream {
            Upstream::Output { instance, output, .. } => format!("{} ({output})", expansion.get(*instance).stage),
            Upstream::External { path } => {
                path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
            }
            Upstream::Environment { name } => format!("${name}"),
        };
        let pair = (input.role.to_string(), name);
        if known.insert(pair.clone()) {
            found.push(pair);
        }
    }
    found
}

/// The facts of a summary without its warnings, which the page lists among its notes.
fn summary(summary: &Summary) -> Vec<(String, String)> {
    let warnings: Vec<&str> = summary.warnings().collect();
    let is_warnings = |value: &Value| {
        value
            .as_array()
            .is_some_and(|list| !list.is_empty() && list.iter().filter_map(Value::as_str).eq(warnings.iter().copied()))
    };
    let facts = summary.0.iter().filter(|(_, value)| !is_warnings(value));
    facts.map(|(key, value)| (key.clone(), text(value))).collect()
}

/// A value as text, with the number of characters that were cut.
fn text(value: &Value) -> String {
    let text = match value {
        Value::String(text) => text.clone(),
        Value::Number(number) => match number.as_u64() {
            Some(whole) if whole >= 10_000 => thousands(whole),
            _ => number.to_string(),
        },
        value => value.to_string(),
    };
    match text.char_indices().nth(MAX_VALUE) {
        None => text,
        Some((end, _)) => format!("{}… ({} more characters)", &text[..end], text[end..].chars().count()),
    }
}

/// At most [`KEYS`] pairs, and the number of the others.
fn capped(mut pairs: Vec<(String, String)>) -> Vec<(String, String)> {
    if pairs.len() > KEYS {
        let others = pairs.len() - KEYS;
        pairs.truncate(KEYS);
        pairs.push(("…".to_string(), format!("{others} more")));
    }
    pairs
}

/// The last lines of a log. None without a readable log or text.
fn log_end(path: &Path) -> Option<String> {
    let mut file = files::open_file(path).ok()?;
    let size = file.metadata().ok()?.len();
    let start = size.saturating_sub(LOG_BYTES);
    file.seek(SeekFrom::Start(start)).ok()?;
    let mut bytes = Vec::new();
    file.take(LOG_BYTES).read_to_end(&mut bytes).ok()?;
    // The output of a program need not be UTF-8.
    let end = String::from_utf8_lossy(&bytes);
    let end = if start > 0 { end.split_once('\n').map_or("", |(_, rest)| rest) } else { &end };
    let end = escape::clean_log(end);
    let lines: Vec<&str> = end.lines().collect();
    let shown = &lines[lines.len().saturating_sub(LOG_LINES)..];
    let text = shown.join("\n");
    let cut = start > 0 || shown.len() < lines.len();
    let text = if cut { format!("… the end of {} bytes\n{text}", thousands(size)) } else { text };
    (!text.trim().is_empty()).then_some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pairs(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
        pairs.iter().map(|(key, value)| ((*key).to_string(), (*value).to_string())).collect()
    }

    #[test]
    fn keys_with_several_values_differ() {
        let configs = [pairs(&[("lr", "1"), ("steps", "5"), ("only", "x")]), pairs(&[("lr", "2"), ("steps", "5")])];
        assert_eq!(differing(&configs).into_iter().collect::<Vec<_>>(), ["lr", "only"]);
    }

    #[test]
    fn long_values_end_with_what_was_cut() {
        assert_eq!(text(&Value::from("a".repeat(305))).split('…').nth(1), Some(" (5 more characters)"));
        assert_eq!(text(&Value::from(12_345)), "12,345");
        let many = vec![("key".to_string(), String::new()); KEYS + 2];
        assert_eq!(capped(many).last(), Some(&("…".to_string(), "2 more".to_string())));
    }

    #[test]
    fn the_end_of_a_log_is_shown() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        files::write_unsynced(&path, b"\x1b[31mone\x1b[0m\ntwo\n").unwrap();
        assert_eq!(log_end(&path).as_deref(), Some("one\ntwo"));
        let long = (0..5_000).map(|line| format!("line {line}")).collect::<Vec<_>>().join("\n") + "\n";
        files::write_unsynced(&path, long.as_bytes()).unwrap();
        let end = log_end(&path).unwrap();
        assert!(end.starts_with("… the end of 48,890 bytes\nline 4980\n") && end.ends_with("line 4999"), "{end}");
        files::write_unsynced(&path, b"\n").unwrap();
        assert_eq!(log_end(&path), None);
        assert_eq!(log_end(&folder.path().join("none")), None);
    }
}
