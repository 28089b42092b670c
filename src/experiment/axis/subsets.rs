//! Axes whose points keep a subset of the entries of a table, such as the sources of a mix: `leave_one_out`, `add_one`
//! and `subsets`. Entries that no point names are kept.

use std::collections::BTreeSet;

use super::patch::{AxisPoint, Change, Patch, Target};
use super::reader::AxisReader;
use crate::diagnostics::{Diagnostics, list};
use crate::key_path;
use crate::label::label_error;
use crate::removal::REMOVE;
use crate::spanned_toml::{Data, Node};
use ablate_core::base::Span;
use ablate_core::base::diagnostic::nearest;

/// The entries of the axis's table.
struct Entries<'a> {
    stage: String,
    path: Vec<String>,
    span: &'a Span,
    names: Vec<&'a str>,
}

/// The points of `leave_one_out`: `all`, then `no-NAME` for each entry; or of `add_one`: `none`, then each entry alone.
pub(super) fn one_by_one(reader: &AxisReader<'_>, form: &str, diagnostics: &mut Diagnostics) -> Option<Vec<AxisPoint>> {
    let entries = entries(reader, form, diagnostics)?;
    let of: Vec<&str> = match &reader.table.of {
        Some(of) => of.iter().map(String::as_str).collect(),
        None => entries.names.clone(),
    };
    for (index, name) in of.iter().enumerate() {
        check_entry(reader, &entries, name, &["of", &index.to_string()], diagnostics)?;
    }
    let names: BTreeSet<&str> = of.iter().copied().collect();
    if names.len() < of.len() || of.is_empty() {
        let message = if of.is_empty() { "the table has no entries" } else { "an entry is listed twice" };
        return reader.section.refuse(&["of"], message, None, diagnostics);
    }
    let mut points = Vec::new();
    if form == "leave_one_out" {
        points.push(entries.point("all", &BTreeSet::new()));
        points.extend(of.iter().map(|name| entries.point(&format!("no-{name}"), &BTreeSet::from([*name]))));
    } else {
        points.push(entries.point("none", &names));
        for name in &of {
            let others = names.iter().copied().filter(|other| other != name).collect();
            points.push(entries.point(name, &others));
        }
    }
    Some(points)
}

/// The points of `subsets`: each set keeps its entries and removes the other entries that are in some set.
pub(super) fn subsets(reader: &AxisReader<'_>, diagnostics: &mut Diagnostics) -> Option<Vec<AxisPoint>> {
    let entries = entries(reader, "subsets", diagnostics)?;
    let section = &reader.section;
    let Some(sets) = section.table.get("sets").and_then(Node::as_table) else {
        return section.refuse(&["subsets"], "`subsets` needs the table `sets`", None, diagnostics);
    };
    let mut read: Vec<(&str, BTreeSet<&str>)> = Vec::new();
    for (label, entry) in sets.in_source_order() {
        if let Some(message) = label_error(label) {
            diagnostics.error(&entry.key, message, None);
        }
        let Data::List(nodes) = &entry.node.data else { return None };
        let mut names = BTreeSet::new();
        for (index, name) in nodes.iter().filter_map(Node::as_str).enumerate() {
            check_entry(reader, &entries, name, &["sets", label, &index.to_string()], diagnostics)?;
            names.insert(name);
        }
        read.push((label, names));
    }
    let all: BTreeSet<&str> = read.iter().flat_map(|(_, names)| names).copied().collect();
    if all.is_empty() {
        return section.refuse(&["sets"], "all sets are empty", None, diagnostics);
    }
    Some(read.iter().map(|(label, names)| entries.point(label, &all.difference(names).copied().collect())).collect())
}

fn entries<'a>(reader: &'a AxisReader<'_>, form: &str, diagnostics: &mut Diagnostics) -> Option<Entries<'a>> {
    let node = reader.section.table.get(form)?;
    let (target, path) = reader.target(node.as_str()?, &node.span, diagnostics)?;
    let Target::Stage(stage) = target else {
        let message = format!("`{form}` names a table of a stage, not a variable");
        return reader.section.refuse(&[form], message, None, diagnostics);
    };
    let parts: Vec<&str> = path.iter().map(String::as_str).collect();
    let table =
        reader.stages.get(stage.as_str()).and_then(|stage| stage.as_table()).and_then(|table| table.get_path(&parts));
    let Some(table) = table.and_then(Node::as_table) else {
        let message = format!("`stage.{stage}.{}` is not a table", key_path::join(parts));
        return reader.section.refuse(&[form], message, None, diagnostics);
    };
    let names = table.in_source_order().into_iter().filter(|(_, entry)| entry.node.as_str() != Some(REMOVE));
    Some(Entries { stage, path, span: &node.span, names: names.map(|(name, _)| name).collect() })
}

fn check_entry(
    reader: &AxisReader<'_>,
    entries: &Entries<'_>,
    name: &str,
    path: &[&str],
    diagnostics: &mut Diagnostics,
) -> Option<()> {
    if entries.names.contains(&name) {
        return Some(());
    }
    let help = match nearest(name, entries.names.iter().copied()) {
        Some(near) => format!("an entry of a similar name exists: `{near}`"),
        None => format!("the entries are {}", list(&entries.names)),
    };
    let message = format!("`stage.{}.{}` has no entry `{name}`", entries.stage, key_path::join(&entries.path));
    reader.section.wrong(path, message, Some(help), diagnostics);
    None
}

impl Entries<'_> {
    fn point(&self, label: &str, without: &BTreeSet<&str>) -> AxisPoint {
        let patches = self.names.iter().filter(|name| without.contains(*name)).map(|name| Patch {
            target: Target::Stage(self.stage.clone()),
            path: [&self.path[..], &[(*name).to_string()]].concat(),
            change: Change::Remove(self.span.clone()),
            key: self.span.clone(),
        });
        AxisPoint { patches: patches.collect(), ..AxisPoint::new(label, self.span) }
    }
}
