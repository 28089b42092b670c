//! Axes whose points are listed in the file: values of a key (`key`, `values`), or named sets of patches (`variants`).

use super::patch::{AxisPoint, Change, Patch, Target};
use super::reader::AxisReader;
use crate::diagnostics::Diagnostics;
use crate::label::{label_error, label_of};
use crate::removal::REMOVE;
use crate::spanned_toml::Data;
use crate::tables::OneOrMany;

/// The points of `values`, with or without `key`. Without it, only `${axis.NAME}` uses the values.
pub(super) fn values(reader: &AxisReader<'_>, diagnostics: &mut Diagnostics) -> Option<Vec<AxisPoint>> {
    let section = &reader.section;
    let keys = match &reader.table.key {
        None => &[],
        Some(OneOrMany::One(key)) => std::slice::from_ref(key),
        Some(OneOrMany::Many(keys)) => keys.as_slice(),
    };
    let Some(Data::List(values)) = section.table.get("values").map(|node| &node.data) else {
        return section.refuse(&["key"], "`key` needs the list `values`", None, diagnostics);
    };
    reader.check_labels(values.len(), diagnostics)?;
    if values.is_empty() {
        return section.refuse(&["values"], "the list is empty", None, diagnostics);
    }
    if keys.is_empty() && reader.table.key.is_some() {
        return section.refuse(&["key"], "the list is empty", None, diagnostics);
    }
    let targets: Vec<_> = keys
        .iter()
        .enumerate()
        .filter_map(|(index, key)| {
            let path =
                if keys.len() == 1 { vec!["key".to_string()] } else { vec!["key".to_string(), index.to_string()] };
            let span = section.locate(&path).1;
            reader.target(key, &span, diagnostics).map(|target| (target, span))
        })
        .collect();
    let mut points: Vec<AxisPoint> = Vec::new();
    for (index, value) in values.iter().enumerate() {
        let label = reader.label(index, || label_of(value));
        if points.iter().any(|point| *point.label == label) {
            let help = "give each value its own label in `labels`".to_string();
            let message = format!("two values have the label `{label}`");
            section.wrong(&["values", &index.to_string()], message, Some(help), diagnostics);
        }
        if value.as_str() == Some(REMOVE) && targets.iter().any(|((target, _), _)| *target == Target::Variables) {
            let message = "an axis cannot remove a variable".to_string();
            section.wrong(&["values", &index.to_string()], message, None, diagnostics);
        }
        let patches = targets.iter().map(|((target, path), span)| Patch {
            target: target.clone(),
            path: path.clone(),
            change: Change::to(value),
            key: span.clone(),
        });
        points.push(AxisPoint { label: label.into(), value: value.clone(), patches: patches.collect() });
    }
    Some(points)
}

/// The points of `variants`, in the order of the file.
pub(super) fn variants(reader: &AxisReader<'_>, diagnostics: &mut Diagnostics) -> Option<Vec<AxisPoint>> {
    let section = &reader.section;
    let variants = section.table.get("variants")?.as_table()?;
    let mut points = Vec::new();
    if variants.0.values().all(|variant| variant.node.as_table().is_some_and(|patches| patches.0.is_empty())) {
        section.wrong(&["variants"], "no variant changes a stage", None, diagnostics);
    }
    for (label, variant) in variants.in_source_order() {
        if let Some(message) = label_error(label) {
            diagnostics.error(&variant.key, message, None);
        }
        let mut patches = Vec::new();
        for (key, entry) in variant.node.as_table()?.in_source_order() {
            if let Some((target, path)) = reader.target(key, &entry.key, diagnostics) {
                if target == Target::Variables && entry.node.as_str() == Some(REMOVE) {
                    diagnostics.error(&entry.node.span, "an axis cannot remove a variable", None);
                }
                patches.push(Patch { target, path, change: Change::to(&entry.node), key: entry.key.clone() });
            }
        }
        points.push(AxisPoint { patches, ..AxisPoint::new(label, &variant.key) });
    }
    Some(points)
}
