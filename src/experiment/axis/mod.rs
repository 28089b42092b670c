//! Axes: the tables `[axis.NAME]`, whose points patch stages.

mod patch;
mod random;
mod reader;
mod simplex;
mod subsets;
mod values;

use std::collections::BTreeMap;

use crate::diagnostics::Diagnostics;
use crate::label::{label_error, name_error};
use crate::section::Section;
use crate::selector::DATASET;
use crate::spanned_toml::{Entry, Node};
use crate::tables::AxisTable;
use crate::vars::Templates;

pub use patch::Simplex;
pub(crate) use patch::{Axis, Change, Patch, Target};
use reader::AxisReader;

/// Names with another meaning in selectors.
const RESERVED: [&str; 2] = ["seed", DATASET];

/// The forms of an axis: the key that defines each form, and the keys that may be used with it.
const FORMS: [(&str, &[&str]); 7] = [
    ("key", &["values", "labels"]),
    ("variants", &[]),
    ("simplex", &["step", "values", "labels"]),
    ("random", &["points", "seed"]),
    ("leave_one_out", &["of"]),
    ("add_one", &["of"]),
    ("subsets", &["sets"]),
];

/// Reads `[axis.NAME]`. `None` after reporting what is wrong.
pub(crate) fn read(
    name: &str,
    entry: &Entry,
    stages: &BTreeMap<&str, &Node>,
    templates: &Templates,
    diagnostics: &mut Diagnostics,
) -> Option<Axis> {
    let path = format!("axis.{name}");
    let section = Section::of(&path, &entry.node, diagnostics)?;
    if RESERVED.contains(&name) {
        return section.refuse(&[], format!("`{name}` is a reserved name and cannot name an axis"), None, diagnostics);
    }
    if let Some(message) = name_error(name) {
        return section.refuse(&[], message, None, diagnostics);
    }
    let read: AxisTable = section.read(diagnostics)?;
    let form = form(&section, diagnostics)?;
    let reader = AxisReader { section, table: read, stages, templates };
    let mut simplex = None;
    let points = match form {
        "key" | "values" => values::values(&reader, diagnostics),
        "variants" => values::variants(&reader, diagnostics),
        "simplex" => simplex::points(&reader, diagnostics).map(|(points, shares)| {
            simplex = Some(shares);
            points
        }),
        "random" => random::points(name, &reader, diagnostics),
        "subsets" => subsets::subsets(&reader, diagnostics),
        one_by_one => subsets::one_by_one(&reader, one_by_one, diagnostics),
    }?;
    for (index, point) in points.iter().enumerate() {
        // The labels of the other forms are checked where they are read.
        let generated = ["leave_one_out", "add_one"].contains(&form);
        let problem = label_error(&point.label).filter(|_| generated).or_else(|| {
            let twice =
                !["key", "values"].contains(&form) && points[..index].iter().any(|other| other.label == point.label);
            twice.then(|| format!("two points have the label `{}`", point.label))
        });
        if let Some(message) = problem {
            return section.refuse(&[form], message, None, diagnostics);
        }
    }
    Some(Axis { name: name.into(), header: entry.key.clone(), points, simplex })
}

/// The form of the axis. `None` after reporting that it has no form or several.
fn form(section: &Section<'_>, diagnostics: &mut Diagnostics) -> Option<&'static str> {
    let has_key = |key: &str| section.table.get(key).is_some();
    // Values alone are for `${axis.NAME}`.
    if has_key("values") && section.table.0.keys().all(|key| ["values", "labels"].contains(&key.as_str())) {
        return Some("values");
    }
    let forms: Vec<&(&str, &[&str])> = FORMS.iter().filter(|(first, _)| has_key(first)).collect();
    let help = || {
        let forms = FORMS.map(|(first, others)| {
            [&[first], others].concat().iter().map(|key| format!("`{key}`")).collect::<Vec<_>>().join(" ")
        });
        format!("the forms of an axis are {}", forms.join("; "))
    };
    let [(form, others)] = forms.as_slice() else {
        let message = match forms.as_slice() {
            [] => "the axis has no points".to_string(),
            [first, second, ..] => format!("`{}` and `{}` cannot both define the points", first.0, second.0),
            [_] => return None,
        };
        return section.refuse(&[], message, Some(help()), diagnostics);
    };
    let unexpected = section.table.0.keys().find(|key| *key != form && !others.contains(&key.as_str()));
    if let Some(key) = unexpected {
        let message = format!("`{}`: `{key}` cannot be used with `{form}`", section.path);
        section.wrong_key(&[key], message, Some(help()), diagnostics);
        return None;
    }
    Some(form)
}
