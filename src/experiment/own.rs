//! The points that a stage has by itself: axes that patch it, lists that fan out. Each is parsed by the kind. Knows
//! nothing of what the stages above it come to.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::axis::{Axis, Change, Patch};
use super::declaration::{Declaration, StageDeclaration};
use super::fields::Section;
use super::join::{AxisId, MAX_POINTS, Point};
use super::keys;
use super::label::label_of;
use super::limits::{self, Limits};
use super::mistakes::Mistakes;
use super::points::{self, Condition, Constraints, WHEN};
use super::problems::Problems;
use super::tree::{Data, Node, Table};
use ablate_core::base::{Diagnostic, SharedStr, Span};
use ablate_core::stage::{ArtifactKind, Input, InputSource, Manifest, OutputSpec, Pool, Reference, Stage};

/// A stage at one of its own points.
#[derive(Clone, Debug)]
pub(crate) struct OwnPoint {
    pub(crate) point: Point,
    pub(crate) config: SharedStr,
    /// All that identifies the stage but seed and inputs.
    pub(crate) identity: SharedStr,
    pub(crate) inputs: Vec<OwnInput>,
    pub(crate) outputs: Cow<'static, [OutputSpec]>,
    pub(crate) pool: Pool,
    pub(crate) limits: Limits,
    pub(crate) origins: Arc<BTreeMap<String, Span>>,
    pub(crate) stage: Arc<dyn Stage>,
}

#[derive(Clone, Debug)]
pub(crate) struct OwnInput {
    pub(crate) role: Arc<str>,
    /// The role that messages name: that of the key which was written, for an input that defaults to another.
    pub(crate) named: String,
    /// Where the input is named; the stage's header for a default.
    pub(crate) place: Span,
    pub(crate) source: OwnSource,
}

#[derive(Clone, Debug)]
pub(crate) enum OwnSource {
    /// As written; [`OwnPoints::resolve`] finds the output.
    Reference {
        reference: Reference,
        accepts: &'static [ArtifactKind],
    },
    Output {
        stage: usize,
        pins: BTreeMap<String, String>,
        output: Arc<str>,
        kind: ArtifactKind,
    },
    Outside(PathBuf),
    Environment(String),
}

/// Finds the own points of stages, one stage at a time.
pub(crate) struct OwnPoints<'a> {
    pub(crate) declaration: &'a Declaration<'a>,
    /// Outside paths are relative to this folder.
    folder: &'a Path,
    pub(crate) stages: BTreeMap<&'a str, usize>,
    /// Axes by the stages they patch.
    axes: BTreeMap<&'a str, Vec<&'a Axis>>,
    exists: BTreeMap<PathBuf, bool>,
    constraints: &'a Constraints,
    /// Points found so far, of all stages.
    found: usize,
}

impl<'a> OwnPoints<'a> {
    pub(crate) fn new(
        declaration: &'a Declaration<'a>,
        constraints: &'a Constraints,
        folder: &'a Path,
    ) -> OwnPoints<'a> {
        let stages = declaration.stages.iter().enumerate().map(|(index, stage)| (&*stage.name, index)).collect();
        let mut axes: BTreeMap<&str, Vec<&Axis>> = BTreeMap::new();
        for axis in &declaration.axes {
            for patch in axis.points.iter().flat_map(|point| &point.patches) {
                let touching = axes.entry(&patch.stage).or_default();
                if touching.last().is_none_or(|last| !std::ptr::eq(*last, axis)) {
                    touching.push(axis);
                }
            }
        }
        OwnPoints { declaration, folder, stages, axes, exists: BTreeMap::new(), constraints, found: 0 }
    }

    /// All own points of a stage, seeds left out; `None` after reporting what is wrong at one of them.
    pub(crate) fn of(&mut self, stage: &StageDeclaration<'_>, problems: &mut Problems) -> Option<Vec<OwnPoint>> {
        let mut table = stage.table.clone();
        table.0.remove("kind");
        table.0.remove(WHEN);
        let when = points::when(stage, self.declaration, problems);
        if when.as_ref().is_some_and(Vec::is_empty) {
            return None;
        }
        let mut axes = self.axes.get(&*stage.name).cloned().unwrap_or_default();
        // A stage that exists at some points of an axis varies with it.
        for axis in &self.declaration.axes {
            let named = |condition: &Condition| condition.axes().any(|id| *id == AxisId::Shared(axis.name.clone()));
            let asked = when.iter().flatten().any(named);
            if asked && !axes.iter().any(|known| std::ptr::eq(*known, axis)) {
                axes.push(axis);
            }
        }
        // What is set at a point is set before anything is removed: an axis may change a source that another takes away.
        let mut tables: Vec<(Point, Table, Vec<&Patch>)> = vec![(Point::new(), table, Vec::new())];
        let mut sound = unambiguous(stage, &axes, problems);
        for axis in axes {
            if tables.len().saturating_mul(axis.points.len()) > MAX_POINTS {
                too_many(stage, problems);
                return None;
            }
            let mut next = Vec::with_capacity(tables.len() * axis.points.len());
            for (point, table, removals) in &tables {
                for value in &axis.points {
                    let (mut point, mut table, mut removals) = (point.clone(), table.clone(), removals.clone());
                    point.insert(AxisId::Shared(axis.name.clone()), value.label.clone());
                    for patch in value.patches.iter().filter(|patch| *patch.stage == *stage.name) {
                        match &patch.change {
                            Change::Remove(_) => removals.push(patch),
                            Change::Set(_) => sound &= apply(patch, &mut table, problems),
                        }
                    }
                    next.push((point, table, removals));
                }
            }
            next.retain(|(point, ..)| self.constraints.allow(point));
            tables = next;
        }
        if let Some(conditions) = &when {
            tables.retain(|(point, ..)| points::exists(conditions, point));
        }
        let mut points = Vec::new();
        let mut mistakes = Mistakes::default();
        for (point, mut table, removals) in tables {
            for patch in removals {
                sound &= apply(patch, &mut table, problems);
            }
            let Some(fanned) = fan_out(stage, point, table, problems) else {
                sound = false;
                continue;
            };
            let fanned: Vec<_> = fanned.into_iter().filter(|(point, _)| self.constraints.allow(point)).collect();
            self.found += fanned.len();
            if self.found > MAX_POINTS {
                too_many(stage, problems);
                return None;
            }
            for (point, mut table) in fanned {
                match self.parse(stage, point, &mut table, &mut mistakes, problems) {
                    Some(point) => points.push(point),
                    None => sound = false,
                }
            }
        }
        mistakes.report(stage, problems);
        if let [first, rest @ ..] = points.as_slice()
            && rest.iter().any(|point| point.outputs != first.outputs)
        {
            let message = format!("`stage.{}`: its outputs vary along an axis, so nothing could read them", stage.name);
            problems.push(Diagnostic::error(message).at(stage.header.clone(), ""));
            return None;
        }
        sound.then_some(points)
    }

    fn parse(
        &mut self,
        stage: &StageDeclaration<'_>,
        point: Point,
        table: &mut Table,
        mistakes: &mut Mistakes,
        problems: &mut Problems,
    ) -> Option<OwnPoint> {
        let path = format!("stage.{}", stage.name);
        let limits = self.limits(&path, stage, table, problems);
        let section = Section { path: &path, table, header: stage.header };
        let config = table.to_json();
        let (built, errors) = match (stage.kind.parse)(&config) {
            Ok(built) => (Some(built), Vec::new()),
            Err(errors) => (None, errors),
        };
        mistakes.add(&point, &section, errors);
        let built: Arc<dyn Stage> = built?.into();
        let mut inputs = Vec::new();
        let mut sound = true;
        let reads = built.inputs();
        for input in &reads {
            // A key that is not written may default to the value of one that is: mistakes are told there, once.
            let written = |input: &Input| table.at(&input.role.split('.').collect::<Vec<_>>()).is_some();
            let same = reads.iter().find(|other| other.source == input.source && written(other));
            let named = if written(input) { input } else { same.unwrap_or(input) }.role.clone();
            let parts: Vec<String> = named.split('.').map(str::to_string).collect();
            let place = section.locate(&parts).1;
            let named = keys::join(table.keys(&parts));
            let source = match &input.source {
                InputSource::Stage { reference, accepts } => {
                    Some(OwnSource::Reference { reference: reference.clone(), accepts })
                }
                InputSource::External { path } => self.outside(stage, &named, &place, path, problems),
                InputSource::Environment { name } => Some(OwnSource::Environment(name.clone())),
            };
            match source {
                Some(source) => inputs.push(OwnInput { role: input.role.as_str().into(), named, place, source }),
                None => sound = false,
            }
        }
        let mut manifest = Manifest::new(stage.kind.name, stage.kind.version);
        built.identify(&mut manifest);
        let mut origins = BTreeMap::new();
        table.origins("", &mut origins);
        origins.insert(String::new(), stage.header.clone());
        let outputs = built.outputs().map_or(Cow::Borrowed(stage.kind.outputs), Cow::Owned);
        let pool = built.pool().unwrap_or(stage.kind.pool);
        let (config, identity) = (config.to_string().into(), manifest.text().into());
        let limits = limits.filter(|_| sound)?;
        let origins = Arc::new(origins);
        Some(OwnPoint { point, config, identity, inputs, outputs, pool, limits, origins, stage: built })
    }

    /// Takes the stage's `limits` out of its table, which the kind does not know.
    fn limits(
        &self,
        path: &str,
        stage: &StageDeclaration<'_>,
        table: &mut Table,
        problems: &mut Problems,
    ) -> Option<Limits> {
        let Some(entry) = table.0.remove(limits::KEY) else { return Some(Limits::default()) };
        let path = format!("{path}.{}", limits::KEY);
        let Some(table) = entry.node.as_table() else {
            let message = format!("`{path}`: wrong type: {}, expected a table", entry.node.type_name());
            let diagnostic = Diagnostic::error(message).at(entry.node.origin, "");
            problems.push(diagnostic.at(stage.header.clone(), "in this stage"));
            return None;
        };
        let section = Section { path: &path, table, header: &entry.node.origin };
        limits::read(&section, &self.declaration.settings.pools, problems)
    }

    fn outside(
        &mut self,
        stage: &StageDeclaration<'_>,
        role: &str,
        place: &Span,
        path: &str,
        problems: &mut Problems,
    ) -> Option<OwnSource> {
        let full = self.folder.join(path);
        if !*self.exists.entry(full.clone()).or_insert_with(|| full.exists()) {
            let message = format!("`stage.{}.{role}`: `{path}` does not exist", stage.name);
            let help = format!("paths start at the folder of the experiment: looked for `{}`", full.display());
            problems.push(Diagnostic::error(message).at(place.clone(), "").help(help));
            return None;
        }
        Some(OwnSource::Outside(std::path::absolute(&full).unwrap_or(full)))
    }
}

fn apply(patch: &Patch, table: &mut Table, problems: &mut Problems) -> bool {
    let applied = patch.apply(table);
    let sound = applied.is_ok();
    if let Err(diagnostic) = applied {
        problems.push(*diagnostic);
    }
    sound
}

/// Makes one table per element of every list that fans out.
fn fan_out(
    stage: &StageDeclaration<'_>,
    point: Point,
    table: Table,
    problems: &mut Problems,
) -> Option<Vec<(Point, Table)>> {
    let mut tables = vec![(point, table)];
    for key in stage.kind.fan_out.iter().copied() {
        let path: Vec<&str> = key.split('.').collect();
        let Some(Node { data: Data::List(elements), origin }) =
            tables.first().and_then(|(_, table)| table.at(&path)).cloned()
        else {
            continue;
        };
        let mut labels: Vec<Arc<str>> = Vec::new();
        let mut wrong = |message: &str, origin: &Span, help: Option<String>| {
            let message = format!("`stage.{}.{key}`: {message}", stage.name);
            let diagnostic = Diagnostic::error(message).at(origin.clone(), "");
            problems.push(match help {
                Some(help) => diagnostic.help(help),
                None => diagnostic,
            });
            None
        };
        if elements.is_empty() {
            return wrong("an empty list is no instance at all", &origin, None);
        }
        for element in &elements {
            let label: Arc<str> = label_of(element).into();
            if labels.contains(&label) {
                let help = "a table may have a `name`; an axis may have `labels`".to_string();
                return wrong(&format!("two elements are called `{label}`"), &element.origin, Some(help));
            }
            labels.push(label);
        }
        if tables.len().saturating_mul(elements.len()) > MAX_POINTS {
            too_many(stage, problems);
            return None;
        }
        let axis = AxisId::Own { stage: stage.name.clone(), key };
        let mut next = Vec::with_capacity(tables.len() * elements.len());
        for (point, table) in &tables {
            for (label, element) in labels.iter().zip(&elements) {
                let (mut point, mut table) = (point.clone(), table.clone());
                point.insert(axis.clone(), label.clone());
                // The path was just read, so there is nothing in its way.
                table.set(&path, &element.origin, element.clone()).ok();
                next.push((point, table));
            }
        }
        tables = next;
    }
    Some(tables)
}

/// Checks that no two axes patch the same key: the order of the file would decide which one counts.
fn unambiguous(stage: &StageDeclaration<'_>, axes: &[&Axis], problems: &mut Problems) -> bool {
    let mut patched: BTreeMap<&[String], (&Axis, &Span)> = BTreeMap::new();
    let mut sound = true;
    for axis in axes {
        for patch in axis.points.iter().flat_map(|point| &point.patches).filter(|patch| *patch.stage == *stage.name) {
            let (first, place) = patched.entry(&patch.path).or_insert((axis, &patch.key));
            if first.name != axis.name {
                let key = keys::join(&patch.path);
                let message =
                    format!("`stage.{}.{key}` is changed by the axes `{}` and `{}`", stage.name, first.name, axis.name);
                let diagnostic =
                    Diagnostic::error(message).at(patch.key.clone(), "").at(place.clone(), "changed here too");
                problems.push(diagnostic);
                sound = false;
            }
        }
    }
    sound
}

pub(crate) fn too_many(stage: &StageDeclaration<'_>, problems: &mut Problems) {
    let message = format!("`stage.{}` takes the experiment over {MAX_POINTS} points", stage.name);
    problems.push(Diagnostic::error(message).at(stage.header.clone(), ""));
}
