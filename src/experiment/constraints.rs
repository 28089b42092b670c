//! Constraints on points: `[points]` for all stages, and `when` for one stage.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::sync::Arc;

use super::axis::Axis;
use super::declaration::{Declaration, StageDeclaration};
use super::diagnostics::{Diagnostics, list};
use super::join::{AxisId, Point};
use super::section::Section;
use super::selector::Selector;
use super::spanned_toml::{Data, Node, Table};
use super::tables::PointsTable;
use ablate_core::base::Span;
use ablate_core::base::diagnostic::nearest;

/// The key of a stage that lists the points at which the stage exists.
pub(crate) const WHEN: &str = "when";

/// `[points]`: the constraints on the points of all stages.
#[derive(Debug, Default)]
pub(crate) struct Constraints {
    /// Groups of zipped axes. Per axis: the index of each label on the axis.
    zips: Vec<BTreeMap<AxisId, BTreeMap<Arc<str>, usize>>>,
    exclude: Vec<Condition>,
}

/// A condition on a point: it must have all of the labels.
#[derive(Debug)]
pub(crate) struct Condition {
    labels: BTreeMap<AxisId, Arc<str>>,
    text: String,
    span: Span,
    /// Whether the condition held for some point.
    was_met: Cell<bool>,
}

impl Condition {
    pub(crate) fn holds(&self, point: &Point) -> bool {
        let holds = self.labels.iter().all(|(axis, label)| point.get(axis) == Some(label));
        if holds {
            self.was_met.set(true);
        }
        holds
    }

    pub(crate) fn axes(&self) -> impl Iterator<Item = &AxisId> {
        self.labels.keys()
    }
}

impl Constraints {
    /// Reads `[points]`.
    pub(crate) fn read(tree: &Table, declaration: &Declaration<'_>, diagnostics: &mut Diagnostics) -> Constraints {
        let mut constraints = Constraints::default();
        let Some(node) = tree.get("points") else { return constraints };
        let Some(table) = node.as_table() else { return constraints };
        let section = Section { path: "points", table, header: &node.span };
        let Some(read) = section.read::<PointsTable>(diagnostics) else { return constraints };
        let mut zipped: Vec<&str> = Vec::new();
        for (at, names) in read.zip.iter().enumerate() {
            if let Some(group) = zip(&section, at, names, declaration, &zipped, diagnostics) {
                constraints.zips.push(group);
            }
            zipped.extend(names.iter().map(String::as_str));
        }
        if let Some(Data::List(nodes)) = table.get("exclude").map(|node| &node.data) {
            let conditions =
                nodes.iter().filter_map(|node| condition(node, "points.exclude", declaration, diagnostics));
            constraints.exclude = conditions.collect();
        }
        constraints
    }

    pub(crate) fn allow(&self, point: &Point) -> bool {
        // No short circuit: every condition that holds must record that it was met.
        let excluded = self.exclude.iter().filter(|condition| condition.holds(point)).count() > 0;
        let zipped = self.zips.iter().all(|group| {
            let mut indices = point.iter().filter_map(|(axis, label)| group.get(axis)?.get(label));
            let first = indices.next();
            indices.all(|index| Some(index) == first)
        });
        !excluded && zipped
    }

    /// Reports the conditions of `exclude` that never held. A condition counts as met if a wider one was met, because
    /// the wider one may have excluded its points first.
    pub(crate) fn report_unmet(&self, diagnostics: &mut Diagnostics) {
        let was_met = |condition: &Condition| {
            let is_wider =
                |other: &Condition| other.labels.iter().all(|(axis, label)| condition.labels.get(axis) == Some(label));
            self.exclude.iter().any(|other| other.was_met.get() && is_wider(other))
        };
        for condition in self.exclude.iter().filter(|condition| !was_met(condition)) {
            let message = format!("`points.exclude`: no point is `{}`", condition.text);
            diagnostics.error(&condition.span, message, None);
        }
    }
}

/// Reads one group of zipped axes: per axis the index of each label. `None` after reporting what is wrong.
fn zip(
    section: &Section<'_>,
    at: usize,
    names: &[String],
    declaration: &Declaration<'_>,
    zipped: &[&str],
    diagnostics: &mut Diagnostics,
) -> Option<BTreeMap<AxisId, BTreeMap<Arc<str>, usize>>> {
    let at = &at.to_string();
    let mut group = BTreeMap::new();
    let mut first: Option<&Axis> = None;
    for (index, name) in names.iter().enumerate() {
        let index = index.to_string();
        let path = ["zip", at, index.as_str()];
        if declaration.invalid_axes.contains(name.as_str()) {
            return None;
        }
        let Some(axis) = declaration.axes.iter().find(|axis| *axis.name == **name) else {
            let (message, help) = unknown_axis(name, declaration);
            return section.refuse(&path, message, Some(help), diagnostics);
        };
        if zipped.contains(&name.as_str()) || group.contains_key(&AxisId::Shared(axis.name.clone())) {
            return section.refuse(&path, format!("`{name}` is already zipped"), None, diagnostics);
        }
        let (a, b) = (first.unwrap_or(axis).points.len(), axis.points.len());
        if a != b {
            let other = first.map_or("", |axis| &axis.name);
            let message = format!("zipped axes need the same number of points: `{other}` has {a}, `{name}` has {b}");
            return section.refuse(&path, message, None, diagnostics);
        }
        first.get_or_insert(axis);
        let indices = axis.points.iter().enumerate().map(|(index, point)| (point.label.clone(), index)).collect();
        group.insert(AxisId::Shared(axis.name.clone()), indices);
    }
    if group.len() < 2 {
        return section.refuse(&["zip", at], "a group of zipped axes needs at least two", None, diagnostics);
    }
    Some(group)
}

/// Reads `when` of a stage: the stage exists where one of the conditions holds. `None` without the key; an empty list
/// after reporting what is wrong.
pub(crate) fn read_when(
    stage: &StageDeclaration<'_>,
    declaration: &Declaration<'_>,
    diagnostics: &mut Diagnostics,
) -> Option<Vec<Condition>> {
    let node = stage.table.get(WHEN)?;
    let path = format!("stage.{}.{WHEN}", stage.name);
    let nodes = match &node.data {
        Data::List(nodes) => nodes.as_slice(),
        _ => std::slice::from_ref(node),
    };
    let mut conditions = Vec::new();
    for node in nodes {
        let Some(condition) = condition(node, &path, declaration, diagnostics) else { return Some(Vec::new()) };
        if condition.axes().any(|axis| !matches!(axis, AxisId::Shared(name) if **name != *"seed")) {
            let message = format!("`{path}`: `{}` is not a point of the axes", condition.text);
            let help = "seeds and lists that fan out are not allowed here".to_string();
            diagnostics.error(&node.span, message, Some(help));
            return Some(Vec::new());
        }
        conditions.push(condition);
    }
    if conditions.is_empty() {
        diagnostics.error(&node.span, format!("`{path}`: an empty list means that the stage never exists"), None);
    }
    Some(conditions)
}

/// Reads a condition such as `mix=both,truncate=none`. `path` is the key in messages.
fn condition(
    node: &Node,
    path: &str,
    declaration: &Declaration<'_>,
    diagnostics: &mut Diagnostics,
) -> Option<Condition> {
    let mut wrong = |message: String, help: Option<String>| {
        diagnostics.error(&node.span, format!("`{path}`: {message}"), help);
        None
    };
    let Some(text) = node.as_str() else {
        return wrong(format!("wrong type: {}, expected a string", node.type_name()), None);
    };
    let selector = match Selector::parse(text) {
        Ok(selector) if selector.values.is_empty() => return wrong("an empty text names no point".to_string(), None),
        Ok(selector) => selector,
        Err(message) => return wrong(message, None),
    };
    let mut labels = BTreeMap::new();
    for (name, value) in &selector.values {
        if declaration.invalid_axes.contains(name.as_str()) {
            return None;
        }
        let (axis, known) = if let Some(axis) = declaration.axes.iter().find(|axis| *axis.name == **name) {
            let known = axis.points.iter().map(|point| point.label.to_string()).collect();
            (AxisId::Shared(axis.name.clone()), known)
        } else if name == "seed" {
            let known = declaration.seeds.values.iter().map(u64::to_string).collect();
            (AxisId::Shared("seed".into()), known)
        } else if let Some(axis) = fan_out_axis(name, declaration) {
            (axis, Vec::new())
        } else {
            let (message, help) = unknown_axis(name, declaration);
            return wrong(message, Some(help));
        };
        if !known.is_empty() && !known.contains(value) {
            let help = match nearest(value, known.iter().map(String::as_str)) {
                Some(near) => format!("a value of a similar name exists: `{name}={near}`"),
                None => format!("the values of `{name}` are {}", list(&known)),
            };
            return wrong(format!("the axis `{name}` has no value `{value}`"), Some(help));
        }
        labels.insert(axis, value.as_str().into());
    }
    Some(Condition { labels, text: text.to_string(), span: node.span.clone(), was_met: Cell::new(false) })
}

/// The axis of a stage's key that fans out: `eval.model`.
fn fan_out_axis(name: &str, declaration: &Declaration<'_>) -> Option<AxisId> {
    declaration.stages.iter().find_map(|stage| {
        let key = name.strip_prefix(&*stage.name)?.strip_prefix('.')?;
        let key = stage.kind.fan_out.iter().find(|known| **known == key)?;
        Some(AxisId::FanOut { stage: stage.name.clone(), key })
    })
}

fn unknown_axis(name: &str, declaration: &Declaration<'_>) -> (String, String) {
    let axes = || declaration.axes.iter().map(|axis| &*axis.name);
    let help = match nearest(name, axes()) {
        Some(near) => format!("an axis of a similar name exists: `{near}`"),
        None if declaration.axes.is_empty() => "the experiment has no axis".to_string(),
        None => format!("the axes are {}; a list that fans out is written as `eval.model`", list(axes())),
    };
    (format!("there is no axis `{name}`"), help)
}
