//! The parts of the merged file: stages with their kinds, axes, seeds, targets and settings. Reports are read after the
//! expansion, because their names are checked against its points.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::axis::{self, Axis, Change, Patch};
use super::diagnostics::{Diagnostics, known_names, list};
use super::label::name_error;
use super::section::Section;
use super::settings::{self, Settings};
use super::spanned_toml::{Data, Entry, Node, Table};
use super::tables::{ExperimentTable, Seeds};
use super::vars::Templates;
use super::varying::Dependencies;
use ablate_core::base::Span;
use ablate_core::stage::{Kind, Registry, find_kind};

/// The parts of one experiment. Their names are checked against each other.
#[derive(Debug)]
pub(crate) struct Declaration<'t> {
    pub(crate) name: Option<String>,
    pub(crate) about: Option<String>,
    /// In the order of the file.
    pub(crate) stages: Vec<StageDeclaration<'t>>,
    /// Stages without a valid kind. They are reported once; references to them are not reported.
    pub(crate) invalid_stages: BTreeSet<&'t str>,
    /// In the order of the file.
    pub(crate) axes: Vec<Axis>,
    /// Axes without valid points. They are reported once; references to them are not reported.
    pub(crate) invalid_axes: BTreeSet<&'t str>,
    pub(crate) seeds: Seeds,
    /// The stages that `targets` names. Without `targets` all stages are targets.
    pub(crate) targets: Option<Vec<(String, Span)>>,
    pub(crate) settings: Settings,
    pub(crate) reports: Vec<(&'t str, &'t Entry)>,
    pub(crate) templates: Templates,
}

impl Declaration<'_> {
    /// The axes that patch a stage, and those that its templates use, in the order of the file.
    pub(crate) fn axes_of(&self, stage: &StageDeclaration<'_>) -> Vec<&Axis> {
        let mut depends = Dependencies::default();
        stage.table.0.values().for_each(|entry| self.templates.add_dependencies(&entry.node, &mut depends));
        let patches = self.axes.iter().flat_map(|axis| &axis.points).flat_map(|point| point.patches_of(&stage.name));
        for patch in patches {
            if let Change::Set(node) = &patch.change {
                self.templates.add_dependencies(node, &mut depends);
            }
        }
        let concerns = |axis: &&Axis| {
            let changes = |patch: &Patch| match patch.target.stage() {
                Some(name) => name == &*stage.name,
                None => patch.path.first().is_some_and(|name| depends.variables.contains(name)),
            };
            depends.axes.contains(&*axis.name) || axis.points.iter().flat_map(|point| &point.patches).any(changes)
        };
        self.axes.iter().filter(concerns).collect()
    }

    /// Reports axes that only stages without a template could use.
    fn check_axes(&self, diagnostics: &mut Diagnostics) {
        let used: BTreeSet<&str> =
            self.stages.iter().flat_map(|stage| self.axes_of(stage)).map(|axis| &*axis.name).collect();
        for axis in self.axes.iter().filter(|axis| !used.contains(&*axis.name)) {
            let name = &axis.name;
            let patches = axis.points.iter().flat_map(|point| &point.patches);
            let variables: BTreeSet<&str> = patches.filter_map(|patch| Some(patch.path.first()?.as_str())).collect();
            let help = match variables.first() {
                Some(variable) => format!("use the variable in a stage: `${{{variable}}}`"),
                None => format!("use its value in a stage: `${{axis.{name}}}`, or name a `key`"),
            };
            diagnostics.error(&axis.header, format!("`axis.{name}` changes no stage"), Some(help));
        }
    }
}

#[derive(Debug)]
pub(crate) struct StageDeclaration<'t> {
    pub(crate) name: Arc<str>,
    pub(crate) kind: &'static Kind,
    /// The stage's table with `kind`.
    pub(crate) table: &'t Table,
    pub(crate) header: &'t Span,
}

/// Reads the tree. `root` is the place for errors about the whole file.
pub(crate) fn read<'t>(
    tree: &'t Table,
    templates: Templates,
    root: &'t Span,
    registry: &Registry,
    diagnostics: &mut Diagnostics,
) -> Declaration<'t> {
    let top = Section { path: "", table: tree, header: root }.read::<ExperimentTable>(diagnostics);
    let (name, about) = top.map_or((None, None), |top| (top.name, top.about));
    if let (Some(name), Some(node)) = (&name, tree.get("name"))
        && let Some(message) = name_error(name)
    {
        diagnostics.error(&node.span, format!("`name`: {message}"), None);
    }
    let section = |name: &str| tree.get(name).and_then(Node::as_table);
    let mut declaration = Declaration {
        name,
        about,
        stages: Vec::new(),
        invalid_stages: BTreeSet::new(),
        axes: Vec::new(),
        invalid_axes: BTreeSet::new(),
        seeds: Seeds::default(),
        targets: None,
        settings: Settings::default(),
        reports: section("report").map(Table::in_source_order).unwrap_or_default(),
        templates,
    };
    for (name, entry) in section("stage").map(Table::in_source_order).unwrap_or_default() {
        match stage(name, entry, registry, diagnostics) {
            Some(stage) => declaration.stages.push(stage),
            None => drop(declaration.invalid_stages.insert(name)),
        }
    }
    if section("stage").is_none_or(|stages| stages.0.is_empty())
        && tree.get("stage").is_none_or(|node| node.as_table().is_some())
    {
        let help = "write a table `[stage.NAME]` with a `kind`".to_string();
        diagnostics.error(root, "the experiment has no stage", Some(help));
    }
    let tables: BTreeMap<&str, &Node> = section("stage")
        .into_iter()
        .flat_map(|table| table.0.iter().map(|(name, entry)| (name.as_str(), &entry.node)))
        .collect();
    let names: BTreeSet<&str> = tables.keys().copied().collect();
    declaration.targets = targets(tree, &names, diagnostics);
    for (name, entry) in section("axis").map(Table::in_source_order).unwrap_or_default() {
        match axis::read(name, entry, &tables, &declaration.templates, diagnostics) {
            Some(axis) => declaration.axes.push(axis),
            None => drop(declaration.invalid_axes.insert(name)),
        }
    }
    // An axis with an error may change nothing because of it.
    if diagnostics.is_empty() {
        declaration.check_axes(diagnostics);
    }
    if let Some(node) = tree.get("seeds")
        && let Some(table) = node.as_table()
    {
        let section = Section { path: "seeds", table, header: &node.span };
        match seeds(&section, &names, diagnostics) {
            Some(seeds) => declaration.seeds = seeds,
            None => drop(declaration.invalid_axes.insert("seed")),
        }
    }
    if let Some(node) = tree.get("settings")
        && let Some(table) = node.as_table()
    {
        let section = Section { path: "settings", table, header: &node.span };
        let is_used = |pool: &str| {
            ["stage", "axis"].iter().any(|part| tree.get(part).is_some_and(|node| node.contains_string(pool)))
        };
        declaration.settings = settings::read(&section, &is_used, diagnostics);
    }
    declaration
}

fn stage<'t>(
    name: &str,
    entry: &'t Entry,
    registry: &Registry,
    diagnostics: &mut Diagnostics,
) -> Option<StageDeclaration<'t>> {
    let path = format!("stage.{name}");
    let header = &entry.node.span;
    Section::of(&path, &entry.node, diagnostics)?;
    let table = entry.node.as_table()?;
    if let Some(message) = name_error(name) {
        diagnostics.error(&entry.key, format!("`{path}`: {message}"), None);
    }
    let kinds = registry.iter().map(|kind| kind.name);
    let Some(node) = table.get("kind") else {
        let help = format!("the kinds are {}", list(kinds));
        diagnostics.error(header, format!("`{path}`: the key `kind` is missing"), Some(help));
        return None;
    };
    let Some(kind_name) = node.as_str() else {
        let message = format!("`{path}.kind`: wrong type: {}, expected a string", node.type_name());
        diagnostics.error(&node.span, message, None);
        return None;
    };
    let Some(kind) = find_kind(registry, kind_name) else {
        let message = format!("`{path}.kind`: `{kind_name}` is not a kind of stage");
        diagnostics.error(&node.span, message, Some(known_names("kind", kind_name, kinds)));
        return None;
    };
    Some(StageDeclaration { name: name.into(), kind, table, header })
}

/// The stages that `targets` names.
fn targets(tree: &Table, stages: &BTreeSet<&str>, diagnostics: &mut Diagnostics) -> Option<Vec<(String, Span)>> {
    let node = tree.get("targets")?;
    let Data::List(nodes) = &node.data else { return None };
    if nodes.is_empty() {
        let help = "omit `targets` to run all stages".to_string();
        diagnostics.error(&node.span, "`targets` names no stage", Some(help));
    }
    let mut found = Vec::new();
    for node in nodes {
        let name = node.as_str()?;
        if stages.contains(name) {
            found.push((name.to_string(), node.span.clone()));
            continue;
        }
        let message = format!("`targets`: stage `{name}` is not defined");
        diagnostics.error(&node.span, message, Some(known_names("stage", name, stages.iter().copied())));
    }
    Some(found)
}

fn seeds(section: &Section<'_>, stages: &BTreeSet<&str>, diagnostics: &mut Diagnostics) -> Option<Seeds> {
    let seeds: Seeds = section.read(diagnostics)?;
    if seeds.values.is_empty() {
        let help = "omit `[seeds]` to run with seed 0".to_string();
        return section.refuse(&["values"], "the list of seeds is empty", Some(help), diagnostics);
    }
    for (index, value) in seeds.values.iter().enumerate() {
        if seeds.values[..index].contains(value) {
            section.wrong(
                &["values", &index.to_string()],
                format!("the seed {value} is listed twice"),
                None,
                diagnostics,
            );
        }
    }
    for (index, stage) in seeds.from.iter().enumerate() {
        if !stages.contains(stage.as_str()) {
            let (message, help) =
                (format!("stage `{stage}` is not defined"), known_names("stage", stage, stages.iter().copied()));
            section.wrong(&["from", &index.to_string()], message, Some(help), diagnostics);
        }
    }
    Some(seeds)
}
