//! The variants of a stage: its table at each combination of the axes that patch it and of the lists that fan out. Each
//! table is parsed by the kind. Seeds and the points of upstream stages are added by `expand`.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::axis::{Axis, Change, Patch, Target};
use super::constraints::{Condition, Constraints, WHEN, read_when};
use super::declaration::{Declaration, StageDeclaration};
use super::diagnostics::Diagnostics;
use super::hub_cache;
use super::join::{AxisId, MAX_POINTS, Point};
use super::key_path;
use super::label::label_of;
use super::limits::{self, Limits};
use super::section::Section;
use super::spanned_toml::{Data, Node, Table};
use super::stage_errors::StageErrors;
use super::vars::PointValues;
use ablate_core::base::{Diagnostic, SharedStr, Span};
use ablate_core::stage::{
    ArtifactKind, HubRepository, Input, InputSource, Manifest, OutputSpec, Pool, Reference, Stage,
};

/// A stage at one combination of its own axis values.
#[derive(Clone, Debug)]
pub(crate) struct StageVariant {
    pub(crate) point: Point,
    pub(crate) config: SharedStr,
    /// The manifest without seed and inputs.
    pub(crate) identity: SharedStr,
    pub(crate) inputs: Vec<VariantInput>,
    pub(crate) outputs: Cow<'static, [OutputSpec]>,
    pub(crate) pool: Pool,
    pub(crate) limits: Limits,
    pub(crate) spans: Arc<BTreeMap<String, Span>>,
    pub(crate) stage: Arc<dyn Stage>,
}

#[derive(Clone, Debug)]
pub(crate) struct VariantInput {
    pub(crate) role: Arc<str>,
    /// The key that messages name. For an input that defaults to the value of another key, it is that key.
    pub(crate) key: String,
    /// The place of that key's value; the stage's header for a default without such a key.
    pub(crate) span: Span,
    pub(crate) source: VariantSource,
}

#[derive(Clone, Debug)]
pub(crate) enum VariantSource {
    /// As written; [`VariantBuilder::resolve`] replaces it with the output.
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
    External(PathBuf),
    Environment(String),
}

/// Builds the variants of stages, one stage at a time.
pub(crate) struct VariantBuilder<'a> {
    pub(crate) declaration: &'a Declaration<'a>,
    /// External paths are relative to this folder.
    folder: &'a Path,
    /// Indices of the stages by name.
    pub(crate) stages: BTreeMap<&'a str, usize>,
    /// By stage: the axes that patch it, and those that its templates use.
    axes: BTreeMap<&'a str, Vec<&'a Axis>>,
    /// Whether an external path exists.
    exists: BTreeMap<PathBuf, bool>,
    constraints: &'a Constraints,
    /// The number of variants of all stages so far.
    count: usize,
}

/// A table with the point at which it holds, and the removals to apply to it.
type PatchedTable<'a> = (Point, Table, Vec<&'a Patch>);

impl<'a> VariantBuilder<'a> {
    pub(crate) fn new(
        declaration: &'a Declaration<'a>,
        constraints: &'a Constraints,
        folder: &'a Path,
    ) -> VariantBuilder<'a> {
        let stages = declaration.stages.iter().enumerate().map(|(index, stage)| (&*stage.name, index)).collect();
        let axes = declaration.stages.iter().map(|stage| (&*stage.name, declaration.axes_of(stage))).collect();
        VariantBuilder { declaration, folder, stages, axes, exists: BTreeMap::new(), constraints, count: 0 }
    }

    /// All variants of a stage, without seeds. `None` after reporting an error in one of them.
    pub(crate) fn build(
        &mut self,
        stage: &StageDeclaration<'_>,
        diagnostics: &mut Diagnostics,
    ) -> Option<Vec<StageVariant>> {
        let when = read_when(stage, self.declaration, diagnostics);
        if when.as_ref().is_some_and(Vec::is_empty) {
            return None;
        }
        let axes = self.axes_of(stage, when.as_deref().unwrap_or_default());
        let mut valid = check_conflicts(stage, &axes, diagnostics);
        let tables = self.patched_tables(stage, &axes, when.as_deref(), &mut valid, diagnostics)?;
        let mut variants = Vec::new();
        let mut errors = StageErrors::default();
        for (point, mut table, removals) in tables {
            for patch in removals {
                valid &= apply(patch, &mut table, diagnostics);
            }
            if !self.resolve_templates(&axes, &point, &mut table, diagnostics) {
                valid = false;
                continue;
            }
            let Some(fanned_out) = fan_out(stage, point, table, diagnostics) else {
                valid = false;
                continue;
            };
            let fanned_out: Vec<_> =
                fanned_out.into_iter().filter(|(point, _)| self.constraints.allow(point)).collect();
            self.count += fanned_out.len();
            if self.count > MAX_POINTS {
                too_many_points(stage, diagnostics);
                return None;
            }
            for (point, mut table) in fanned_out {
                match self.parse(stage, point, &mut table, &mut errors, diagnostics) {
                    Some(variant) => variants.push(variant),
                    None => valid = false,
                }
            }
        }
        errors.report(stage, diagnostics);
        if let [first, rest @ ..] = variants.as_slice()
            && rest.iter().any(|variant| variant.outputs != first.outputs)
        {
            let message =
                format!("`stage.{}`: its outputs differ along an axis, so no stage can read them", stage.name);
            diagnostics.error(stage.header, message, None);
            return None;
        }
        valid.then_some(variants)
    }

    /// Replaces the templates of a stage's table with the values at a point.
    fn resolve_templates(
        &self,
        axes: &[&Axis],
        point: &Point,
        table: &mut Table,
        diagnostics: &mut Diagnostics,
    ) -> bool {
        let templates = &self.declaration.templates;
        if templates.is_empty() {
            return true;
        }
        let mut values = PointValues::default();
        for axis in axes {
            let label = point.get(&AxisId::Shared(axis.name.clone()));
            let Some(value) = axis.points.iter().find(|value| Some(&value.label) == label) else { continue };
            values.axes.insert(&axis.name, value.value.clone());
            for patch in value.patches.iter().filter(|patch| patch.target == Target::Variables) {
                if let Change::Set(node) = &patch.change {
                    values.variables.push((&patch.path, node, &patch.key));
                }
            }
        }
        templates.resolve(table, values, diagnostics)
    }

    /// The axes that patch a stage, and those that its `when` names.
    fn axes_of(&self, stage: &StageDeclaration<'_>, when: &[Condition]) -> Vec<&'a Axis> {
        let mut axes = self.axes.get(&*stage.name).cloned().unwrap_or_default();
        for axis in &self.declaration.axes {
            let names = |condition: &Condition| condition.axes().any(|id| *id == AxisId::Shared(axis.name.clone()));
            if when.iter().any(names) && !axes.iter().any(|known| std::ptr::eq(*known, axis)) {
                axes.push(axis);
            }
        }
        axes
    }

    /// The tables at every allowed combination of axis values. Removals are returned with the tables: they are applied
    /// after all other patches, because one axis may change an entry that another axis removes.
    fn patched_tables(
        &self,
        stage: &StageDeclaration<'_>,
        axes: &[&'a Axis],
        when: Option<&[Condition]>,
        valid: &mut bool,
        diagnostics: &mut Diagnostics,
    ) -> Option<Vec<PatchedTable<'a>>> {
        let mut table = stage.table.clone();
        table.0.remove("kind");
        table.0.remove(WHEN);
        let mut tables: Vec<PatchedTable<'a>> = vec![(Point::new(), table, Vec::new())];
        for axis in axes {
            if tables.len().saturating_mul(axis.points.len()) > MAX_POINTS {
                too_many_points(stage, diagnostics);
                return None;
            }
            let mut next = Vec::with_capacity(tables.len() * axis.points.len());
            for (point, table, removals) in &tables {
                for value in &axis.points {
                    let (mut point, mut table, mut removals) = (point.clone(), table.clone(), removals.clone());
                    point.insert(AxisId::Shared(axis.name.clone()), value.label.clone());
                    for patch in value.patches_of(&stage.name) {
                        match &patch.change {
                            Change::Remove(_) => removals.push(patch),
                            Change::Set(_) => *valid &= apply(patch, &mut table, diagnostics),
                        }
                    }
                    next.push((point, table, removals));
                }
            }
            next.retain(|(point, ..)| self.constraints.allow(point));
            tables = next;
        }
        if let Some(conditions) = when {
            tables.retain(|(point, ..)| conditions.iter().any(|condition| condition.holds(point)));
        }
        Some(tables)
    }

    fn parse(
        &mut self,
        stage: &StageDeclaration<'_>,
        point: Point,
        table: &mut Table,
        errors: &mut StageErrors,
        diagnostics: &mut Diagnostics,
    ) -> Option<StageVariant> {
        let path = format!("stage.{}", stage.name);
        let limits = self.limits(&path, stage, table, diagnostics);
        let section = Section { path: &path, table, header: stage.header };
        let config = table.to_json();
        let (parsed, found) = match (stage.kind.parse)(&config) {
            Ok(parsed) => (Some(parsed), Vec::new()),
            Err(found) => (None, found),
        };
        errors.add(&point, &section, found);
        let parsed: Arc<dyn Stage> = parsed?.into();
        let mut inputs = Vec::new();
        let mut valid = true;
        let all = parsed.inputs();
        for input in &all {
            // An input without its own key may default to the value of another key. Errors are reported at that key.
            let has_key = |input: &Input| table.get_path(&input.role.split('.').collect::<Vec<_>>()).is_some();
            let same_value = all.iter().find(|other| other.source == input.source && has_key(other));
            let key = if has_key(input) { input } else { same_value.unwrap_or(input) }.role.clone();
            let parts: Vec<String> = key.split('.').map(str::to_string).collect();
            let span = section.locate(&parts).1;
            let key = key_path::join(table.keys_on_path(&parts));
            let source = match &input.source {
                InputSource::Stage { reference, accepts } => {
                    Some(VariantSource::Reference { reference: reference.clone(), accepts })
                }
                InputSource::External { path, hub } => self.external(stage, &key, &span, path, *hub, diagnostics),
                InputSource::Environment { name } => Some(VariantSource::Environment(name.clone())),
            };
            match source {
                Some(source) => inputs.push(VariantInput { role: input.role.as_str().into(), key, span, source }),
                None => valid = false,
            }
        }
        let mut manifest = Manifest::new(stage.kind.name, stage.kind.version);
        parsed.identify(&mut manifest);
        let mut spans = BTreeMap::new();
        table.collect_spans("", &mut spans);
        spans.insert(String::new(), stage.header.clone());
        let outputs = parsed.outputs().map_or(Cow::Borrowed(stage.kind.outputs), Cow::Owned);
        let pool = parsed.pool().unwrap_or(stage.kind.pool);
        let (config, identity) = (config.to_string().into(), manifest.text().into());
        let limits = limits.filter(|_| valid)?;
        let spans = Arc::new(spans);
        Some(StageVariant { point, config, identity, inputs, outputs, pool, limits, spans, stage: parsed })
    }

    /// Removes `limits` from the stage's table and reads it. The kind does not parse this key.
    fn limits(
        &self,
        path: &str,
        stage: &StageDeclaration<'_>,
        table: &mut Table,
        diagnostics: &mut Diagnostics,
    ) -> Option<Limits> {
        let Some(entry) = table.0.remove(limits::KEY) else { return Some(Limits::default()) };
        let path = format!("{path}.{}", limits::KEY);
        let Some(table) = entry.node.as_table() else {
            let message = format!("`{path}`: wrong type: {}, expected a table", entry.node.type_name());
            let diagnostic = Diagnostic::error(message).at(entry.node.span, "");
            diagnostics.push(diagnostic.at(stage.header.clone(), "in this stage"));
            return None;
        };
        let section = Section { path: &path, table, header: &entry.node.span };
        limits::read(&section, &self.declaration.settings.pools, diagnostics)
    }

    fn external(
        &mut self,
        stage: &StageDeclaration<'_>,
        key: &str,
        span: &Span,
        path: &str,
        hub: HubRepository,
        diagnostics: &mut Diagnostics,
    ) -> Option<VariantSource> {
        if path.starts_with(hub_cache::SCHEME) {
            let resolved = hub_cache::resolve(path, hub).map_err(|what| {
                diagnostics.error(span, format!("`stage.{}.{key}`: {what}", stage.name), None);
            });
            return resolved.ok().map(|path| VariantSource::External(std::path::absolute(&path).unwrap_or(path)));
        }
        let full = self.folder.join(path);
        if !*self.exists.entry(full.clone()).or_insert_with(|| full.exists()) {
            let message = format!("`stage.{}.{key}`: `{path}` does not exist", stage.name);
            let help = format!("paths are relative to the folder of the experiment: `{}`", full.display());
            diagnostics.error(span, message, Some(help));
            return None;
        }
        Some(VariantSource::External(std::path::absolute(&full).unwrap_or(full)))
    }
}

fn apply(patch: &Patch, table: &mut Table, diagnostics: &mut Diagnostics) -> bool {
    let applied = patch.apply(table);
    let valid = applied.is_ok();
    if let Err(diagnostic) = applied {
        diagnostics.push(*diagnostic);
    }
    valid
}

/// Makes one table per combination of elements of the lists that fan out.
fn fan_out(
    stage: &StageDeclaration<'_>,
    point: Point,
    table: Table,
    diagnostics: &mut Diagnostics,
) -> Option<Vec<(Point, Table)>> {
    let mut tables = vec![(point, table)];
    for key in stage.kind.fan_out.iter().copied() {
        let path: Vec<&str> = key.split('.').collect();
        let Some(Node { data: Data::List(elements), span }) =
            tables.first().and_then(|(_, table)| table.get_path(&path)).cloned()
        else {
            continue;
        };
        let mut labels: Vec<Arc<str>> = Vec::new();
        let mut wrong = |message: &str, span: &Span, help: Option<String>| {
            diagnostics.error(span, format!("`stage.{}.{key}`: {message}", stage.name), help);
            None
        };
        if elements.is_empty() {
            return wrong("an empty list makes no instance", &span, None);
        }
        for element in &elements {
            let label: Arc<str> = label_of(element).into();
            if labels.contains(&label) {
                let help = "give a table a `name`, or use an axis with `labels`".to_string();
                return wrong(&format!("two elements have the label `{label}`"), &element.span, Some(help));
            }
            labels.push(label);
        }
        if tables.len().saturating_mul(elements.len()) > MAX_POINTS {
            too_many_points(stage, diagnostics);
            return None;
        }
        let axis = AxisId::FanOut { stage: stage.name.clone(), key };
        let mut next = Vec::with_capacity(tables.len() * elements.len());
        for (point, table) in &tables {
            for (label, element) in labels.iter().zip(&elements) {
                let (mut point, mut table) = (point.clone(), table.clone());
                point.insert(axis.clone(), label.clone());
                // `set` cannot fail: the list was read at this path.
                table.set(&path, &element.span, element.clone()).ok();
                next.push((point, table));
            }
        }
        tables = next;
    }
    Some(tables)
}

/// Checks that no two axes change the same key of a stage, or the same variable. Otherwise the order of the axes in the
/// file would decide the value.
fn check_conflicts(stage: &StageDeclaration<'_>, axes: &[&Axis], diagnostics: &mut Diagnostics) -> bool {
    let mut patched: BTreeMap<(&Target, &[String]), (&Axis, &Span)> = BTreeMap::new();
    let mut valid = true;
    for axis in axes {
        let patches = axis.points.iter().flat_map(|point| &point.patches);
        let concerns = |patch: &&Patch| patch.target.stage().is_none_or(|name| name == &*stage.name);
        for patch in patches.filter(concerns) {
            let (first, span) = patched.entry((&patch.target, &patch.path)).or_insert((axis, &patch.key));
            if first.name != axis.name {
                let message =
                    format!("`{}` is changed by the axes `{}` and `{}`", patch.dotted(), first.name, axis.name);
                let diagnostic =
                    Diagnostic::error(message).at(patch.key.clone(), "").at((*span).clone(), "also changed here");
                diagnostics.push(diagnostic);
                valid = false;
            }
        }
    }
    valid
}

pub(crate) fn too_many_points(stage: &StageDeclaration<'_>, diagnostics: &mut Diagnostics) {
    let message = format!("`stage.{}`: the experiment has more than {MAX_POINTS} points", stage.name);
    diagnostics.error(stage.header, message, None);
}
