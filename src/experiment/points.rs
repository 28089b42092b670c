//! Which points of the axes there are: `[points]` for all stages, `when` for one. Expands nothing.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::sync::Arc;

use super::axis::Axis;
use super::declaration::{Declaration, StageDeclaration};
use super::fields::Section;
use super::join::{AxisId, Point};
use super::problems::Problems;
use super::selector::Selector;
use super::tables::PointsTable;
use super::text::list;
use super::tree::{Data, Node, Table};
use ablate_core::base::diagnostic::nearest;
use ablate_core::base::{Diagnostic, Span};

/// The key of a stage that says at which points it exists.
pub(crate) const WHEN: &str = "when";

/// What every point must keep to.
#[derive(Debug, Default)]
pub(crate) struct Constraints {
    /// Axes that go in step: per group, what place a label has on its axis.
    zips: Vec<BTreeMap<AxisId, BTreeMap<Arc<str>, usize>>>,
    exclude: Vec<Condition>,
}

/// Labels that a point must have, all of them.
#[derive(Debug)]
pub(crate) struct Condition {
    labels: BTreeMap<AxisId, Arc<str>>,
    text: String,
    place: Span,
    /// Whether a point was met that has them.
    met: Cell<bool>,
}

impl Condition {
    fn holds(&self, point: &Point) -> bool {
        let holds = self.labels.iter().all(|(axis, label)| point.get(axis) == Some(label));
        if holds {
            self.met.set(true);
        }
        holds
    }

    pub(crate) fn axes(&self) -> impl Iterator<Item = &AxisId> {
        self.labels.keys()
    }
}

impl Constraints {
    /// Reads `[points]`.
    pub(crate) fn read(tree: &Table, declaration: &Declaration<'_>, problems: &mut Problems) -> Constraints {
        let mut constraints = Constraints::default();
        let Some(node) = tree.get("points") else { return constraints };
        let Some(table) = node.as_table() else { return constraints };
        let section = Section { path: "points", table, header: &node.origin };
        let Some(read) = section.read::<PointsTable>(problems) else { return constraints };
        let mut zipped: Vec<&str> = Vec::new();
        for (at, names) in read.zip.iter().enumerate() {
            if let Some(group) = zip(&section, at, names, declaration, &zipped, problems) {
                constraints.zips.push(group);
            }
            zipped.extend(names.iter().map(String::as_str));
        }
        if let Some(Data::List(nodes)) = table.get("exclude").map(|node| &node.data) {
            let conditions = nodes.iter().filter_map(|node| condition(node, "points.exclude", declaration, problems));
            constraints.exclude = conditions.collect();
        }
        constraints
    }

    pub(crate) fn allow(&self, point: &Point) -> bool {
        // Every condition is asked, so that each learns that it is met.
        let excluded = self.exclude.iter().filter(|condition| condition.holds(point)).count() > 0;
        let in_step = self.zips.iter().all(|group| {
            let mut places = point.iter().filter_map(|(axis, label)| group.get(axis)?.get(label));
            let first = places.next();
            places.all(|place| Some(place) == first)
        });
        !excluded && in_step
    }

    /// Reports what was excluded and is not there: a condition that never holds is a mistake. One that another includes
    /// is met with it.
    pub(crate) fn report_unmet(&self, problems: &mut Problems) {
        let included = |one: &Condition| {
            let wider =
                |other: &Condition| other.labels.iter().all(|(axis, label)| one.labels.get(axis) == Some(label));
            self.exclude.iter().any(|other| other.met.get() && wider(other))
        };
        for condition in self.exclude.iter().filter(|condition| !included(condition)) {
            let message = format!("`points.exclude`: no point is `{}`", condition.text);
            problems.push(Diagnostic::error(message).at(condition.place.clone(), ""));
        }
    }
}

/// The labels of axes that go in step, each with its place. `None` after reporting why they cannot.
fn zip(
    section: &Section<'_>,
    at: usize,
    names: &[String],
    declaration: &Declaration<'_>,
    zipped: &[&str],
    problems: &mut Problems,
) -> Option<BTreeMap<AxisId, BTreeMap<Arc<str>, usize>>> {
    let mut group = BTreeMap::new();
    let mut first: Option<&Axis> = None;
    for (index, name) in names.iter().enumerate() {
        let path = ["zip", &at.to_string(), &index.to_string()].map(str::to_string);
        let path: Vec<&str> = path.iter().map(String::as_str).collect();
        if declaration.unusable_axes.contains(name.as_str()) {
            return None;
        }
        let Some(axis) = declaration.axes.iter().find(|axis| *axis.name == **name) else {
            let (message, help) = unknown(name, declaration);
            section.wrong(&path, message, Some(help), problems);
            return None;
        };
        if zipped.contains(&name.as_str()) || group.contains_key(&AxisId::Shared(axis.name.clone())) {
            section.wrong(&path, format!("`{name}` goes in step with others already"), None, problems);
            return None;
        }
        let lengths = (first.unwrap_or(axis).points.len(), axis.points.len());
        if lengths.0 != lengths.1 {
            let other = first.map_or("", |axis| &axis.name);
            let message = format!(
                "axes go in step when they are as long: `{other}` has {} points, `{name}` {}",
                lengths.0, lengths.1
            );
            section.wrong(&path, message, None, problems);
            return None;
        }
        first.get_or_insert(axis);
        let places = axis.points.iter().enumerate().map(|(place, point)| (point.label.clone(), place)).collect();
        group.insert(AxisId::Shared(axis.name.clone()), places);
    }
    if group.len() < 2 {
        section.wrong(&["zip", &at.to_string()], "two axes at least go in step", None, problems);
        return None;
    }
    Some(group)
}

/// The points at which a stage exists, one or several conditions. `None` where it says nothing; an empty list after
/// reporting what is wrong.
pub(crate) fn when(
    stage: &StageDeclaration<'_>,
    declaration: &Declaration<'_>,
    problems: &mut Problems,
) -> Option<Vec<Condition>> {
    let node = stage.table.get(WHEN)?;
    let path = format!("stage.{}.{WHEN}", stage.name);
    let nodes = match &node.data {
        Data::List(nodes) => nodes.as_slice(),
        _ => std::slice::from_ref(node),
    };
    let mut conditions = Vec::new();
    for node in nodes {
        let Some(condition) = condition(node, &path, declaration, problems) else { return Some(Vec::new()) };
        if condition.axes().any(|axis| !matches!(axis, AxisId::Shared(name) if **name != *"seed")) {
            let message = format!("`{path}`: `{}` is no point of an axis", condition.text);
            problems.push(Diagnostic::error(message).at(node.origin.clone(), ""));
            return Some(Vec::new());
        }
        conditions.push(condition);
    }
    if conditions.is_empty() {
        let message = format!("`{path}`: the stage would exist nowhere");
        problems.push(Diagnostic::error(message).at(node.origin.clone(), ""));
    }
    Some(conditions)
}

pub(crate) fn exists(conditions: &[Condition], point: &Point) -> bool {
    conditions.iter().any(|condition| condition.holds(point))
}

/// `mix=both,truncate=none`, in the place of `path`.
fn condition(node: &Node, path: &str, declaration: &Declaration<'_>, problems: &mut Problems) -> Option<Condition> {
    let mut wrong = |message: String, help: Option<String>| {
        let diagnostic = Diagnostic::error(format!("`{path}`: {message}")).at(node.origin.clone(), "");
        problems.push(match help {
            Some(help) => diagnostic.help(help),
            None => diagnostic,
        });
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
        if declaration.unusable_axes.contains(name.as_str()) {
            return None;
        }
        let (axis, known) = if let Some(axis) = declaration.axes.iter().find(|axis| *axis.name == **name) {
            let known = axis.points.iter().map(|point| point.label.to_string()).collect();
            (AxisId::Shared(axis.name.clone()), known)
        } else if name == "seed" {
            let known = declaration.seeds.values.iter().map(u64::to_string).collect();
            (AxisId::Shared("seed".into()), known)
        } else if let Some(axis) = own(name, declaration) {
            (axis, Vec::new())
        } else {
            let (message, help) = unknown(name, declaration);
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
    Some(Condition { labels, text: text.to_string(), place: node.origin.clone(), met: Cell::new(false) })
}

/// The list of a stage's key that fans out: `eval.model`.
fn own(name: &str, declaration: &Declaration<'_>) -> Option<AxisId> {
    declaration.stages.iter().find_map(|stage| {
        let key = name.strip_prefix(&*stage.name)?.strip_prefix('.')?;
        let key = stage.kind.fan_out.iter().find(|known| **known == key)?;
        Some(AxisId::Own { stage: stage.name.clone(), key })
    })
}

fn unknown(name: &str, declaration: &Declaration<'_>) -> (String, String) {
    let axes = || declaration.axes.iter().map(|axis| &*axis.name);
    let help = match nearest(name, axes()) {
        Some(near) => format!("an axis of a similar name exists: `{near}`"),
        None if declaration.axes.is_empty() => "the experiment has no axis".to_string(),
        None => format!("the axes are {}; a list of a stage is `eval.model`", list(axes())),
    };
    (format!("there is no axis `{name}`"), help)
}
