//! `--set` arguments: each overrides one key of the merged file.

use super::diagnostics::{Diagnostics, list};
use super::key_path;
use super::removal::{self, REMOVE};
use super::spanned_toml::{Data, Node, Table, parse_value};
use super::sweep;
use ablate_core::base::diagnostic::nearest;
use ablate_core::base::{Diagnostic, Sources, Span};

/// Tables that cannot be overridden as a whole. In all except `settings` the named entry must exist, because a new name
/// is probably a typo.
const SECTIONS: [&str; 5] = ["stage", "vars", "axis", "report", "settings"];

/// Applies the `--set` arguments in order. Each argument is a source of its own, so that errors point into it.
pub(crate) fn apply_overrides(
    tree: &mut Table,
    overrides: &[String],
    sources: &mut Sources,
    diagnostics: &mut Diagnostics,
) {
    for argument in overrides {
        let source = sources.add(format!("--set {argument}"), argument.clone());
        let found = key_path::parse(argument).filter(|(_, end)| *end < argument.len());
        let Some((parts, end)) = found else {
            let (message, end) = match argument.split_once('=') {
                Some((path, _)) => (format!("`{path}` is not a key path"), path.len()),
                None => ("an override needs a key and a value".to_string(), argument.len()),
            };
            let span = Span { source, range: 0..end };
            diagnostics.error(&span, message, Some("write `--set stage.dpo.beta=0.2`".to_string()));
            continue;
        };
        let key = Span { source, range: 0..argument[..end].trim_end().len() };
        let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
        let text = &argument[end + 1..];
        let values = sweep::parts(text)
            .into_iter()
            .map(|range| parse_value(source, sources, end + 1 + range.start..end + 1 + range.end, diagnostics));
        let values: Vec<Node> = values.collect();
        let node = match (parts[0], values.as_slice()) {
            ("stage" | "vars" | "seeds" | "axis" | "targets", [_, _, ..]) => {
                if let Some((node, message)) = sweep::ambiguity(&values) {
                    let help = "quote a text with commas: `--set 'stage.a.run=\"one, two\"'`".to_string();
                    diagnostics.error(&node.span, message, Some(help));
                    continue;
                }
                Node { data: Data::List(values), span: Span { source, range: end + 1..argument.len() } }
            }
            _ => parse_value(source, sources, end + 1..argument.len(), diagnostics),
        };
        let sweeps = ["stage", "vars"].contains(&parts[0]) && sweep::parts(text).len() > 1;
        if let Err(diagnostic) = apply(tree, &parts, &key, node, sweeps) {
            diagnostics.push(*diagnostic);
        }
    }
}

/// Applies one override. With `sweeps` the node is the list of the values of an axis.
fn apply(tree: &mut Table, parts: &[&str], key: &Span, node: Node, sweeps: bool) -> Result<(), Box<Diagnostic>> {
    let refuse = |message: String, help: Option<String>| {
        let mut diagnostic = Diagnostic::error(message).at(key.clone(), "");
        diagnostic.help.extend(help);
        Err(Box::new(diagnostic))
    };
    let (path, removes) = (key_path::join(parts), node.as_str() == Some(REMOVE));
    if parts[0] == "extends" {
        return refuse("`extends` cannot be overridden".to_string(), None);
    }
    if let Some(quoted) = removal::quoted_path(tree, parts) {
        let message = format!("`{path}` does not exist, but a key with dots in its name does");
        return refuse(message, Some(format!("write `{quoted}`")));
    }
    if removes {
        if tree.remove(parts) {
            return Ok(());
        }
        let similar = tree.similar_path(parts);
        return Err(Box::new(removal::cannot_remove(&path, similar, &node.span, key)));
    }
    if parts.len() == 1 && SECTIONS.contains(&parts[0]) {
        return refuse(format!("`{path}` is a whole table: name a key in it"), None);
    }
    if parts.len() > 1 && SECTIONS[..4].contains(&parts[0]) {
        let known: Vec<&str> = match tree.get(parts[0]).and_then(Node::as_table) {
            Some(table) => table.0.keys().map(String::as_str).collect(),
            None => Vec::new(),
        };
        if !known.contains(&parts[1]) {
            let (section, name) = (parts[0], parts[1]);
            let shown = |name: &str| key_path::join([section, name]);
            let help = match nearest(name, known.iter().copied()) {
                Some(near) => format!("a key of a similar name exists: `{}`", shown(near)),
                None if known.is_empty() => format!("the experiment has no `{section}`"),
                None => format!("the experiment has {}", list(known.iter().map(|name| shown(name)))),
            };
            return refuse(format!("there is no `{}` to override", shown(name)), Some(help));
        }
        if parts.len() == 2 && parts[0] != "vars" && !sweeps && !matches!(node.data, Data::Table(_)) {
            return refuse(format!("`{path}` is a whole table: name a key in it"), None);
        }
    }
    if let (true, Data::List(values)) = (sweeps, &node.data) {
        return sweep::add_axis(tree, parts, key, values.clone());
    }
    if let Some(axis) = axis_of_key(tree, &path) {
        let message = format!("`{path}` takes its values from the axis `{axis}`, so this value would not be used");
        return refuse(
            message,
            Some(format!("override the values: `--set 'axis.{axis}.values=[...]'`, or give several")),
        );
    }
    match tree.set(parts, key, node) {
        Ok(()) => Ok(()),
        Err(blocker) => refuse(format!("`{blocker}` is not a table, so it has no key to override"), None),
    }
}

/// The axis that sets the key at `path` at all of its points.
fn axis_of_key<'t>(tree: &'t Table, path: &str) -> Option<&'t str> {
    let axes = tree.get("axis")?.as_table()?;
    let sets = |axis: &Node| {
        let axis = axis.as_table()?;
        let is_key = |node: &Node| node.as_str() == Some(path);
        let named = match &axis.get("key")?.data {
            Data::List(keys) => keys.iter().any(is_key),
            _ => is_key(axis.get("key")?),
        };
        let Data::List(values) = &axis.get("values")?.data else { return None };
        (named && !values.iter().any(|value| value.as_str() == Some(REMOVE))).then_some(())
    };
    axes.0.iter().find(|(_, entry)| sets(&entry.node).is_some()).map(|(name, _)| name.as_str())
}
