//! Axes whose points are written out: one key with several values, or named sets of patches.

use super::{AxisPoint, Patch, Reading, change};
use crate::label::{label_of, label_problem};
use crate::problems::Problems;
use crate::tables::OneOrMany;
use crate::tree::Data;
use ablate_core::base::Diagnostic;

/// The points of `key` and `values`.
pub(super) fn values(reading: &Reading<'_>, problems: &mut Problems) -> Option<Vec<AxisPoint>> {
    let section = &reading.section;
    let keys = match reading.table.key.as_ref()? {
        OneOrMany::One(key) => std::slice::from_ref(key),
        OneOrMany::Many(keys) => keys.as_slice(),
    };
    let Some(Data::List(values)) = section.table.get("values").map(|node| &node.data) else {
        section.wrong(&["key"], "`key` needs the list `values`", None, problems);
        return None;
    };
    reading.check_labels(values.len(), problems)?;
    if values.is_empty() {
        section.wrong(&["values"], "there is no value", None, problems);
        return None;
    }
    if keys.is_empty() {
        section.wrong(&["key"], "there is no key", None, problems);
        return None;
    }
    let targets: Vec<_> = keys
        .iter()
        .enumerate()
        .filter_map(|(index, key)| {
            let path =
                if keys.len() == 1 { vec!["key".to_string()] } else { vec!["key".to_string(), index.to_string()] };
            let place = section.locate(&path).1;
            reading.target(key, &place, problems).map(|target| (target, place))
        })
        .collect();
    let mut points: Vec<AxisPoint> = Vec::new();
    for (index, value) in values.iter().enumerate() {
        let label = reading.label(index, || label_of(value));
        if points.iter().any(|point| *point.label == label) {
            let help = "give `labels`, one per value, that tell them apart".to_string();
            let message = format!("two values are called `{label}`");
            section.wrong(&["values", &index.to_string()], message, Some(help), problems);
        }
        let patches = targets.iter().map(|((stage, path), place)| Patch {
            stage: stage.clone(),
            path: path.clone(),
            change: change(value),
            key: place.clone(),
        });
        points.push(AxisPoint { label: label.into(), patches: patches.collect() });
    }
    Some(points)
}

/// The points of `variants`, in the order in which they were written.
pub(super) fn variants(reading: &Reading<'_>, problems: &mut Problems) -> Option<Vec<AxisPoint>> {
    let section = &reading.section;
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
            if let Some((stage, path)) = reading.target(key, &entry.key, problems) {
                patches.push(Patch { stage, path, change: change(&entry.node), key: entry.key.clone() });
            }
        }
        points.push(AxisPoint { label: label.into(), patches });
    }
    Some(points)
}
