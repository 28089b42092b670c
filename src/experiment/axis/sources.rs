//! Axes over the entries of a table, such as the sources of a mix: which of them are there. What a point leaves out is
//! removed; what no point names stays.

use std::collections::BTreeSet;

use super::{AxisPoint, Change, Patch, Reading};
use crate::keys;
use crate::label::label_problem;
use crate::problems::Problems;
use crate::removal::REMOVE;
use crate::text::list;
use crate::tree::{Data, Node};
use ablate_core::base::diagnostic::nearest;
use ablate_core::base::{Diagnostic, Span};

/// The table that an axis is about.
struct Entries<'a> {
    stage: String,
    path: Vec<String>,
    place: &'a Span,
    names: Vec<&'a str>,
}

/// The points of `leave_one_out`: `all`, then `no-NAME` for each entry; or of `add_one`: `none`, then each entry alone.
pub(super) fn one_by_one(reading: &Reading<'_>, form: &str, problems: &mut Problems) -> Option<Vec<AxisPoint>> {
    let entries = entries(reading, form, problems)?;
    let of: Vec<&str> = match &reading.table.of {
        Some(of) => of.iter().map(String::as_str).collect(),
        None => entries.names.clone(),
    };
    for (index, name) in of.iter().enumerate() {
        known(reading, &entries, name, &["of", &index.to_string()], problems)?;
    }
    let names: BTreeSet<&str> = of.iter().copied().collect();
    if names.len() < of.len() || of.is_empty() {
        let message = if of.is_empty() { "there is nothing to name" } else { "an entry is named twice" };
        reading.section.wrong(&["of"], message, None, problems);
        return None;
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

/// The points of `subsets`: each set keeps its entries and removes those that only other sets name.
pub(super) fn subsets(reading: &Reading<'_>, problems: &mut Problems) -> Option<Vec<AxisPoint>> {
    let entries = entries(reading, "subsets", problems)?;
    let section = &reading.section;
    let Some(sets) = section.table.get("sets").and_then(Node::as_table) else {
        section.wrong(&["subsets"], "`subsets` needs the table `sets`", None, problems);
        return None;
    };
    let mut read: Vec<(&str, BTreeSet<&str>)> = Vec::new();
    for (label, entry) in sets.written() {
        if let Some(message) = label_problem(label) {
            problems.push(Diagnostic::error(message).at(entry.key.clone(), ""));
        }
        let Data::List(nodes) = &entry.node.data else { return None };
        let mut names = BTreeSet::new();
        for (index, name) in nodes.iter().filter_map(Node::as_str).enumerate() {
            known(reading, &entries, name, &["sets", label, &index.to_string()], problems)?;
            names.insert(name);
        }
        read.push((label, names));
    }
    let all: BTreeSet<&str> = read.iter().flat_map(|(_, names)| names).copied().collect();
    if all.is_empty() {
        section.wrong(&["sets"], "no set names an entry", None, problems);
        return None;
    }
    Some(read.iter().map(|(label, names)| entries.point(label, &all.difference(names).copied().collect())).collect())
}

fn entries<'a>(reading: &'a Reading<'_>, form: &str, problems: &mut Problems) -> Option<Entries<'a>> {
    let node = reading.section.table.get(form)?;
    let (stage, path) = reading.target(node.as_str()?, &node.origin, problems)?;
    let parts: Vec<&str> = path.iter().map(String::as_str).collect();
    let table =
        reading.stages.get(stage.as_str()).and_then(|stage| stage.as_table()).and_then(|table| table.at(&parts));
    let Some(table) = table.and_then(Node::as_table) else {
        let message = format!("`stage.{stage}.{}` is not a table of the experiment", keys::join(parts));
        reading.section.wrong(&[form], message, None, problems);
        return None;
    };
    let names = table.written().into_iter().filter(|(_, entry)| entry.node.as_str() != Some(REMOVE));
    Some(Entries { stage, path, place: &node.origin, names: names.map(|(name, _)| name).collect() })
}

fn known(
    reading: &Reading<'_>,
    entries: &Entries<'_>,
    name: &str,
    path: &[&str],
    problems: &mut Problems,
) -> Option<()> {
    if entries.names.contains(&name) {
        return Some(());
    }
    let help = match nearest(name, entries.names.iter().copied()) {
        Some(near) => format!("a similar name exists: `{near}`"),
        None => format!("there are {}", list(&entries.names)),
    };
    let message = format!("`stage.{}.{}` has no entry `{name}`", entries.stage, keys::join(&entries.path));
    reading.section.wrong(path, message, Some(help), problems);
    None
}

impl Entries<'_> {
    fn point(&self, label: &str, without: &BTreeSet<&str>) -> AxisPoint {
        let patches = self.names.iter().filter(|name| without.contains(*name)).map(|name| Patch {
            stage: self.stage.clone(),
            path: [&self.path[..], &[(*name).to_string()]].concat(),
            change: Change::Remove(self.place.clone()),
            key: self.place.clone(),
        });
        AxisPoint { label: label.into(), patches: patches.collect() }
    }
}
