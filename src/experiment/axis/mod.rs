//! Axes: named lists of points, each a label and the patches it lays on stages. Knows no kind.

mod drawn;
mod keyed;
mod simplex;
mod sources;

use std::collections::BTreeMap;
use std::sync::Arc;

use super::fields::Section;
use super::keys;
use super::label::{label_problem, name_problem};
use super::problems::Problems;
use super::removal::{self, REMOVE};
use super::tables::AxisTable;
use super::text::{list, quoted};
use super::tree::{Entry, Node, Table};
use ablate_core::base::diagnostic::nearest;
use ablate_core::base::{Diagnostic, Span};

/// Names that mean something else where an axis is named.
const RESERVED: [&str; 2] = ["seed", "dataset"];

/// One dimension along which stages vary.
#[derive(Clone, Debug)]
pub(crate) struct Axis {
    pub(crate) name: Arc<str>,
    pub(crate) points: Vec<AxisPoint>,
    /// What the points are in numbers, where they are shares of a whole.
    pub(crate) simplex: Option<Simplex>,
}

/// Shares of a whole: what each point of an axis gives to each of its keys.
#[derive(Clone, Debug, PartialEq)]
pub struct Simplex {
    /// What the shares are of: the part of each key that tells it from the others.
    pub parts: Vec<String>,
    /// By point, in the order of the parts.
    pub shares: Vec<Vec<f64>>,
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
    pub(crate) key: Span,
}

#[derive(Clone, Debug)]
pub(crate) enum Change {
    Set(Node),
    /// The value `"remove"`: the key is taken away.
    Remove(Span),
}

impl Patch {
    /// Changes the stage's table; the diagnostic says why that cannot be.
    pub(crate) fn apply(&self, table: &mut Table) -> Result<(), Box<Diagnostic>> {
        let path: Vec<&str> = self.path.iter().map(String::as_str).collect();
        let dotted = || keys::join(["stage", &self.stage].into_iter().chain(path.iter().copied()));
        if let Some(meant) = quoted(table, &path) {
            let message = format!("`{}` is no key, but one with dots in its name is", dotted());
            let help = format!("write `stage.{}.{meant}`", self.stage);
            return Err(Box::new(Diagnostic::error(message).at(self.key.clone(), "").help(help)));
        }
        match &self.change {
            Change::Set(node) => table.set(&path, &self.key, node.clone()).map_err(|blocker| {
                let message = format!("`{}` cannot be set: `stage.{}.{blocker}` is not a table", dotted(), self.stage);
                Box::new(Diagnostic::error(message).at(self.key.clone(), ""))
            }),
            Change::Remove(_) if table.remove(&path) => Ok(()),
            Change::Remove(origin) => {
                let near = table.near(&path);
                let near = near.map(|near| [&["stage".to_string(), self.stage.clone()], &near[..]].concat());
                Err(Box::new(removal::refused(&dotted(), near, origin, &self.key)))
            }
        }
    }
}

/// The ways to write an axis: the key that each begins with, and the others that go with it.
const FORMS: [(&str, &[&str]); 7] = [
    ("key", &["values", "labels"]),
    ("variants", &[]),
    ("simplex", &["step", "values", "labels"]),
    ("random", &["points", "seed"]),
    ("leave_one_out", &["of"]),
    ("add_one", &["of"]),
    ("subsets", &["sets"]),
];

/// What an axis needs while it is read.
struct Reading<'a> {
    section: Section<'a>,
    table: AxisTable,
    /// The stages' tables by name.
    stages: &'a BTreeMap<&'a str, &'a Node>,
}

/// Reads `[axis.NAME]`. `None` after reporting that its points cannot be told.
pub(crate) fn read(name: &str, entry: &Entry, stages: &BTreeMap<&str, &Node>, problems: &mut Problems) -> Option<Axis> {
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
    let form = form(&section, problems)?;
    let reading = Reading { section, table: read, stages };
    let mut simplex = None;
    let points = match form {
        "key" => keyed::values(&reading, problems),
        "variants" => keyed::variants(&reading, problems),
        "simplex" => simplex::points(&reading, problems).map(|(points, shares)| {
            simplex = Some(shares);
            points
        }),
        "random" => drawn::points(name, &reading, problems),
        "subsets" => sources::subsets(&reading, problems),
        one_by_one => sources::one_by_one(&reading, one_by_one, problems),
    }?;
    for (index, point) in points.iter().enumerate() {
        // Labels that were written out are checked where they stand.
        let made = ["leave_one_out", "add_one"].contains(&form);
        let problem = label_problem(&point.label).filter(|_| made).or_else(|| {
            let twice = form != "key" && points[..index].iter().any(|other| other.label == point.label);
            twice.then(|| format!("two points are called `{}`", point.label))
        });
        if let Some(message) = problem {
            section.wrong(&[form], message, None, problems);
            return None;
        }
    }
    Some(Axis { name: name.into(), points, simplex })
}

/// Which way the axis is written. `None` after reporting that it is none of them, or two at once.
fn form(section: &Section<'_>, problems: &mut Problems) -> Option<&'static str> {
    let written = |key: &str| section.table.get(key).is_some();
    let forms: Vec<&(&str, &[&str])> = FORMS.iter().filter(|(first, _)| written(first)).collect();
    let ways = || {
        let ways = FORMS.map(|(first, others)| {
            [&[first], others].concat().iter().map(|key| format!("`{key}`")).collect::<Vec<_>>().join(" ")
        });
        format!("an axis has {}", ways.join(", or "))
    };
    let [(form, others)] = forms.as_slice() else {
        let message = match forms.as_slice() {
            [] => "the points of the axis are not told".to_string(),
            [first, second, ..] => format!("`{}` and `{}` are two ways to tell the points", first.0, second.0),
            [_] => return None,
        };
        section.wrong(&[], message, Some(ways()), problems);
        return None;
    };
    let alien = section.table.0.keys().find(|key| *key != form && !others.contains(&key.as_str()));
    if let Some(key) = alien {
        let message = format!("`{}`: `{key}` does not go with `{form}`", section.path);
        section.wrong_key(&[key], message, Some(ways()), problems);
        return None;
    }
    Some(form)
}

impl Reading<'_> {
    /// The stage and the path in its table that `stage.mix.sources.cot` names.
    fn target(&self, key: &str, place: &Span, problems: &mut Problems) -> Option<(String, Vec<String>)> {
        let parts = keys::parse(key).filter(|(_, end)| *end == key.len()).map(|(parts, _)| parts).unwrap_or_default();
        let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
        let mut wrong = |message: String, help: String| {
            problems.push(Diagnostic::error(message).at(place.clone(), "").help(help));
            None
        };
        match parts.as_slice() {
            ["stage", stage, path @ ..] if !path.is_empty() => {
                if !self.stages.contains_key(stage) {
                    let help = match nearest(stage, self.stages.keys().copied()) {
                        Some(near) => format!("a stage of a similar name exists: `{near}`"),
                        None => format!("the stages are {}", list(self.stages.keys())),
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

    /// Checks that there are as many labels as points, and that each may stand in a name.
    fn check_labels(&self, points: usize, problems: &mut Problems) -> Option<()> {
        let labels = self.table.labels.as_deref().unwrap_or_default();
        if self.table.labels.is_some() && labels.len() != points {
            let message = format!("{points} values need as many labels, not {}", labels.len());
            self.section.wrong(&["labels"], message, None, problems);
            return None;
        }
        for (index, label) in labels.iter().enumerate() {
            if let Some(message) = label_problem(label) {
                self.section.wrong(&["labels", &index.to_string()], message, None, problems);
            }
        }
        Some(())
    }

    /// The label of a point: the given one, or else the value's own.
    fn label(&self, index: usize, own: impl FnOnce() -> String) -> String {
        self.table.labels.as_ref().and_then(|labels| labels.get(index).cloned()).unwrap_or_else(own)
    }
}

fn change(value: &Node) -> Change {
    match value.as_str() {
        Some(REMOVE) => Change::Remove(value.origin.clone()),
        _ => Change::Set(value.clone()),
    }
}
