//! The parts of a merged tree: stages with their kinds, axes, seeds, settings, reports still as tables. Expands nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::axis::{self, Axis};
use super::fields::Section;
use super::label::name_problem;
use super::problems::Problems;
use super::settings::{self, Settings};
use super::tables::{ExperimentTable, Seeds};
use super::text::list;
use super::tree::{Data, Entry, Node, Table};
use ablate_core::base::diagnostic::nearest;
use ablate_core::base::{Diagnostic, Span};
use ablate_core::stage::{Kind, Registry, find_kind};

/// One experiment as written, its names checked against each other.
#[derive(Debug)]
pub(crate) struct Declaration<'t> {
    pub(crate) name: Option<String>,
    pub(crate) about: Option<String>,
    /// In the order in which they were written.
    pub(crate) stages: Vec<StageDeclaration<'t>>,
    /// Stages that are written but have no kind to check them by: nothing more is said about them.
    pub(crate) unusable: BTreeSet<&'t str>,
    /// In the order in which they were written.
    pub(crate) axes: Vec<Axis>,
    /// Axes whose points could not be told.
    pub(crate) unusable_axes: BTreeSet<&'t str>,
    pub(crate) seeds: Seeds,
    /// The stages that are wanted, each with the place that says so; all of them where nothing is said.
    pub(crate) targets: Option<Vec<(String, Span)>>,
    pub(crate) settings: Settings,
    pub(crate) reports: Vec<(&'t str, &'t Entry)>,
}

#[derive(Debug)]
pub(crate) struct StageDeclaration<'t> {
    pub(crate) name: Arc<str>,
    pub(crate) kind: &'static Kind,
    /// The stage's table, `kind` included.
    pub(crate) table: &'t Table,
    pub(crate) header: &'t Span,
}

/// Reads the tree. `root` is the place for what the file as a whole lacks.
pub(crate) fn read<'t>(
    tree: &'t Table,
    root: &'t Span,
    registry: &Registry,
    problems: &mut Problems,
) -> Declaration<'t> {
    let top = Section { path: "", table: tree, header: root }.read::<ExperimentTable>(problems);
    let (name, about) = top.map_or((None, None), |top| (top.name, top.about));
    if let (Some(name), Some(node)) = (&name, tree.get("name"))
        && let Some(message) = name_problem(name)
    {
        problems.push(Diagnostic::error(format!("`name`: {message}")).at(node.origin.clone(), ""));
    }
    let section = |name: &str| tree.get(name).and_then(Node::as_table);
    let mut declaration = Declaration {
        name,
        about,
        stages: Vec::new(),
        unusable: BTreeSet::new(),
        axes: Vec::new(),
        unusable_axes: BTreeSet::new(),
        seeds: Seeds::default(),
        targets: None,
        settings: Settings::default(),
        reports: section("report").map(Table::written).unwrap_or_default(),
    };
    for (name, entry) in section("stage").map(Table::written).unwrap_or_default() {
        match stage(name, entry, registry, problems) {
            Some(stage) => declaration.stages.push(stage),
            None => drop(declaration.unusable.insert(name)),
        }
    }
    if section("stage").is_none_or(|stages| stages.0.is_empty())
        && tree.get("stage").is_none_or(|node| node.as_table().is_some())
    {
        let help = "write a table `[stage.NAME]` with a `kind`";
        problems.push(Diagnostic::error("the experiment has no stage").at(root.clone(), "").help(help));
    }
    let tables: BTreeMap<&str, &Node> = section("stage")
        .into_iter()
        .flat_map(|table| table.0.iter().map(|(name, entry)| (name.as_str(), &entry.node)))
        .collect();
    let names: BTreeSet<&str> = tables.keys().copied().collect();
    declaration.targets = targets(tree, &names, problems);
    for (name, entry) in section("axis").map(Table::written).unwrap_or_default() {
        match axis::read(name, entry, &tables, problems) {
            Some(axis) => declaration.axes.push(axis),
            None => drop(declaration.unusable_axes.insert(name)),
        }
    }
    if let Some(node) = tree.get("seeds")
        && let Some(table) = node.as_table()
    {
        let section = Section { path: "seeds", table, header: &node.origin };
        match seeds(&section, &names, problems) {
            Some(seeds) => declaration.seeds = seeds,
            None => drop(declaration.unusable_axes.insert("seed")),
        }
    }
    if let Some(node) = tree.get("settings")
        && let Some(table) = node.as_table()
    {
        let section = Section { path: "settings", table, header: &node.origin };
        let named =
            |pool: &str| ["stage", "axis"].iter().any(|part| tree.get(part).is_some_and(|node| node.says(pool)));
        declaration.settings = settings::read(&section, &named, problems);
    }
    declaration
}

fn stage<'t>(
    name: &str,
    entry: &'t Entry,
    registry: &Registry,
    problems: &mut Problems,
) -> Option<StageDeclaration<'t>> {
    let header = &entry.node.origin;
    let path = format!("stage.{name}");
    let wrong =
        |message: String, origin: &Span| Diagnostic::error(format!("`{path}`: {message}")).at(origin.clone(), "");
    let Some(table) = entry.node.as_table() else {
        let message = format!("wrong type: {}, expected a table", entry.node.type_name());
        problems.push(wrong(message, header));
        return None;
    };
    if let Some(message) = name_problem(name) {
        problems.push(wrong(message, &entry.key));
    }
    let known = || list(registry.iter().map(|kind| kind.name));
    let Some(node) = table.get("kind") else {
        problems
            .push(wrong("the key `kind` is missing".to_string(), header).help(format!("the kinds are {}", known())));
        return None;
    };
    let Some(written) = node.as_str() else {
        let message = format!("wrong type: {}, expected a string", node.type_name());
        problems.push(Diagnostic::error(format!("`{path}.kind`: {message}")).at(node.origin.clone(), ""));
        return None;
    };
    let Some(kind) = find_kind(registry, written) else {
        let help = match nearest(written, registry.iter().map(|kind| kind.name)) {
            Some(near) => format!("a kind of a similar name exists: `{near}`"),
            None => format!("the kinds are {}", known()),
        };
        let diagnostic = Diagnostic::error(format!("`{path}.kind`: `{written}` is not a kind of stage"));
        problems.push(diagnostic.at(node.origin.clone(), "").help(help));
        return None;
    };
    Some(StageDeclaration { name: name.into(), kind, table, header })
}

/// The stages that `targets` names.
fn targets(tree: &Table, stages: &BTreeSet<&str>, problems: &mut Problems) -> Option<Vec<(String, Span)>> {
    let node = tree.get("targets")?;
    let Data::List(nodes) = &node.data else { return None };
    if nodes.is_empty() {
        let help = "leave `targets` out to have all stages";
        problems.push(Diagnostic::error("`targets` names no stage").at(node.origin.clone(), "").help(help));
    }
    let mut found = Vec::new();
    for node in nodes {
        let name = node.as_str()?;
        if stages.contains(name) {
            found.push((name.to_string(), node.origin.clone()));
            continue;
        }
        let help = match nearest(name, stages.iter().copied()) {
            Some(near) => format!("a stage of a similar name exists: `{near}`"),
            None => format!("the stages are {}", list(stages)),
        };
        let message = format!("`targets`: stage `{name}` is not defined");
        problems.push(Diagnostic::error(message).at(node.origin.clone(), "").help(help));
    }
    Some(found)
}

fn seeds(section: &Section<'_>, stages: &BTreeSet<&str>, problems: &mut Problems) -> Option<Seeds> {
    let seeds: Seeds = section.read(problems)?;
    if seeds.values.is_empty() {
        section.wrong(&["values"], "there is no seed", Some("leave `[seeds]` out to run with seed 0".into()), problems);
        return None;
    }
    for (index, value) in seeds.values.iter().enumerate() {
        if seeds.values[..index].contains(value) {
            section.wrong(&["values", &index.to_string()], format!("the seed {value} is given twice"), None, problems);
        }
    }
    for (index, stage) in seeds.from.iter().enumerate() {
        if !stages.contains(stage.as_str()) {
            let help = match nearest(stage, stages.iter().copied()) {
                Some(near) => format!("a stage of a similar name exists: `{near}`"),
                None => format!("the stages are {}", list(stages)),
            };
            section.wrong(
                &["from", &index.to_string()],
                format!("stage `{stage}` is not defined"),
                Some(help),
                problems,
            );
        }
    }
    Some(seeds)
}
