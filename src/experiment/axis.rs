//! Axes: named lists of points, each a label and the patches it lays on stages. Knows no kind.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::Value;

use super::fields::Section;
use super::label::{label_of, label_problem, name_problem};
use super::problems::Problems;
use super::text::list;
use super::tree::{Data, Entry, Node, Table};
use crate::base::diagnostic::nearest;
use crate::base::{Diagnostic, Origin};

/// Names that mean something else where an axis is named.
const RESERVED: [&str; 2] = ["seed", "dataset"];

/// One dimension along which stages vary.
#[derive(Clone, Debug)]
pub(crate) struct Axis {
    pub(crate) name: Arc<str>,
    pub(crate) points: Vec<AxisPoint>,
}

#[derive(Clone, Debug)]
pub(crate) struct AxisPoint {
    pub(crate) label: Arc<str>,
    pub(crate) patches: Vec<Patch>,
}

/// A change of one key of one stage.
#[derive(Clone, Debug)]
pub(crate) struct Patch {
    pub(crate) stage: String,
    /// Path of the key in the stage's table.
    pub(crate) path: Vec<String>,
    pub(crate) change: Change,
    /// Where the key is named.
    pub(crate) key: Origin,
}

#[derive(Clone, Debug)]
pub(crate) enum Change {
    Set(Node),
    /// The value `"remove"`: the key is taken away.
    Remove(Origin),
}

impl Patch {
    /// Changes the stage's table; the diagnostic says why that cannot be.
    pub(crate) fn apply(&self, table: &mut Table) -> Result<(), Box<Diagnostic>> {
        let path: Vec<&str> = self.path.iter().map(String::as_str).collect();
        let dotted = format!("stage.{}.{}", self.stage, path.join("."));
        match &self.change {
            Change::Set(node) => table.set(&path, &self.key, node.clone()).map_err(|blocker| {
                let message = format!("`{dotted}` cannot be set: `stage.{}.{blocker}` is not a table", self.stage);
                Box::new(Diagnostic::error(message).at(self.key.clone(), ""))
            }),
            Change::Remove(_) if table.remove(&path) => Ok(()),
            Change::Remove(origin) => {
                let message = format!("`{dotted}` cannot be removed: there is no such key");
                Err(Box::new(Diagnostic::error(message).at(origin.clone(), "").at(self.key.clone(), "")))
            }
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct AxisTable {
    key: Option<String>,
    values: Option<Vec<IgnoredAny>>,
    labels: Option<Vec<String>>,
    variants: Option<BTreeMap<String, BTreeMap<String, Value>>>,
}

/// Reads `[axis.NAME]`. `None` after reporting that its points cannot be told.
pub(crate) fn read(name: &str, entry: &Entry, stages: &BTreeSet<&str>, problems: &mut Problems) -> Option<Axis> {
    let path = format!("axis.{name}");
    let Some(table) = entry.node.as_table() else {
        let message = format!("`{path}`: wrong type: {}, expected a table", entry.node.type_name());
        problems.push(Diagnostic::error(message).at(entry.node.origin.clone(), ""));
        return None;
    };
    let section = Section { path: &path, table, header: &entry.node.origin };
    if RESERVED.contains(&name) {
        section.wrong(
            &[],
            format!("`{name}` cannot be the name of an axis, it means something else in names"),
            None,
            problems,
        );
        return None;
    }
    if let Some(message) = name_problem(name) {
        section.wrong(&[], message, None, problems);
        return None;
    }
    let read: AxisTable = section.read(problems)?;
    let points = match (&read.key, &read.values, &read.variants) {
        (Some(key), Some(_), None) => key_points(&section, key, read.labels.as_deref(), stages, problems)?,
        (None, None, Some(_)) if read.labels.is_none() => variant_points(&section, stages, problems)?,
        _ => {
            let help = "write `key` and `values` (and `labels`), or `variants`".to_string();
            section.wrong(&[], "the points of the axis are not told", Some(help), problems);
            return None;
        }
    };
    Some(Axis { name: name.into(), points })
}

/// The points of `key` and `values`.
fn key_points(
    section: &Section<'_>,
    key: &str,
    labels: Option<&[String]>,
    stages: &BTreeSet<&str>,
    problems: &mut Problems,
) -> Option<Vec<AxisPoint>> {
    let Some(Data::List(values)) = section.table.get("values").map(|node| &node.data) else { return None };
    if let Some(labels) = labels {
        if labels.len() != values.len() {
            let message = format!("{} values need as many labels, not {}", values.len(), labels.len());
            section.wrong(&["labels"], message, None, problems);
            return None;
        }
        for (index, label) in labels.iter().enumerate() {
            if let Some(message) = label_problem(label) {
                section.wrong(&["labels", &index.to_string()], message, None, problems);
            }
        }
    }
    if values.is_empty() {
        section.wrong(&["values"], "there is no value", None, problems);
        return None;
    }
    let place = section.table.get("key")?.origin.clone();
    let target = target(key, &place, stages, problems);
    let mut points: Vec<AxisPoint> = Vec::new();
    for (index, value) in values.iter().enumerate() {
        let label = labels.and_then(|labels| labels.get(index).cloned()).unwrap_or_else(|| label_of(value));
        if points.iter().any(|point| *point.label == label) {
            let help = "give `labels`, one per value, that tell them apart".to_string();
            let message = format!("two values are called `{label}`");
            section.wrong(&["values", &index.to_string()], message, Some(help), problems);
        }
        let patch = target.as_ref().map(|(stage, path)| Patch {
            stage: stage.clone(),
            path: path.clone(),
            change: change(value),
            key: value.origin.clone(),
        });
        points.push(AxisPoint { label: label.into(), patches: patch.into_iter().collect() });
    }
    Some(points)
}

/// The points of `variants`, in the order in which they were written.
fn variant_points(section: &Section<'_>, stages: &BTreeSet<&str>, problems: &mut Problems) -> Option<Vec<AxisPoint>> {
    let variants = section.table.get("variants")?.as_table()?;
    let mut points = Vec::new();
    if variants.0.values().all(|variant| variant.node.as_table().is_some_and(|patches| patches.0.is_empty())) {
        section.wrong(&["variants"], "no variant changes a stage", None, problems);
    }
    for (label, variant) in variants.written() {
        if let Some(message) = label_problem(label) {
            problems.push(Diagnostic::error(message).at(variant.key.clone(), ""));
        }
        let mut patches = Vec::new();
        for (key, entry) in variant.node.as_table()?.written() {
            if let Some((stage, path)) = target(key, &entry.key, stages, problems) {
                patches.push(Patch { stage, path, change: change(&entry.node), key: entry.key.clone() });
            }
        }
        points.push(AxisPoint { label: label.into(), patches });
    }
    Some(points)
}

fn change(value: &Node) -> Change {
    match value.as_str() {
        Some("remove") => Change::Remove(value.origin.clone()),
        _ => Change::Set(value.clone()),
    }
}

/// The stage and the path in its table that `stage.mix.sources.cot` names.
fn target(
    key: &str,
    place: &Origin,
    stages: &BTreeSet<&str>,
    problems: &mut Problems,
) -> Option<(String, Vec<String>)> {
    let parts: Vec<&str> = key.split('.').map(str::trim).collect();
    let mut wrong = |message: String, help: String| {
        problems.push(Diagnostic::error(message).at(place.clone(), "").help(help));
        None
    };
    match parts.as_slice() {
        ["stage", stage, path @ ..] if !path.is_empty() && path.iter().all(|part| !part.is_empty()) => {
            if !stages.contains(stage) {
                let help = match nearest(stage, stages.iter().copied()) {
                    Some(near) => format!("a stage of a similar name exists: `{near}`"),
                    None => format!("the stages are {}", list(stages)),
                };
                return wrong(format!("stage `{stage}` is not defined"), help);
            }
            if path == ["kind"] {
                let help = "write a stage of each kind".to_string();
                return wrong("the kind of a stage cannot vary along an axis".to_string(), help);
            }
            Some(((*stage).to_string(), path.iter().map(|part| (*part).to_string()).collect()))
        }
        _ => {
            let help = "write `\"stage.mix.sources.direct\"`, in quotes: the stage, then the path in its table";
            wrong(format!("`{key}` does not name a key of a stage"), help.to_string())
        }
    }
}
