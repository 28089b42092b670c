//! What a string with `${name}` depends on: the axes that it names, and the variables that axes change.

use std::collections::BTreeSet;

use super::key_path;
use super::spanned_toml::{Node, Table};

/// What `${axis.NAME}` begins with.
pub(crate) const AXIS: &str = "axis.";

/// A part of a string.
pub(crate) enum Piece<'a> {
    Text(&'a str),
    /// `$${`, which escapes `${`.
    Escape,
    Variable(&'a str),
    /// `${` without `}`.
    Unclosed,
}

/// What a string depends on.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Dependencies {
    pub(crate) axes: BTreeSet<String>,
    pub(crate) variables: BTreeSet<String>,
}

/// The names that have another value at every point of an axis.
#[derive(Debug, Default)]
pub(crate) struct Varying {
    pub(crate) axes: BTreeSet<String>,
    /// Variables that an axis changes.
    pub(crate) variables: BTreeSet<String>,
}

impl Varying {
    pub(crate) fn of(tree: &Table, vars: &Table) -> Varying {
        let axes = tree.get("axis").and_then(Node::as_table).cloned().unwrap_or_default();
        let mut variables = BTreeSet::new();
        for axis in axes.0.values().filter_map(|entry| entry.node.as_table()) {
            for (key, entry) in &axis.0 {
                match (key.as_str(), entry.node.as_table()) {
                    ("key" | "simplex" | "random", _) => entry.node.each_string(&mut |text| {
                        variables.extend(variable_of_path(text));
                    }),
                    ("variants", Some(variants)) => {
                        let patches = variants.0.values().filter_map(|variant| variant.node.as_table());
                        variables
                            .extend(patches.flat_map(|table| table.0.keys()).filter_map(|key| variable_of_path(key)));
                    }
                    _ => {}
                }
            }
        }
        variables.retain(|name| vars.0.contains_key(name));
        Varying { axes: axes.0.into_keys().collect(), variables }
    }

    /// Adds what a string depends on, also through variables.
    pub(crate) fn dependencies(&self, text: &str, vars: &Table, found: &mut Dependencies) {
        let mut visited: BTreeSet<&str> = BTreeSet::new();
        let mut open: Vec<String> = names_in(text);
        while let Some(name) = open.pop() {
            if let Some((name, entry)) = vars.0.get_key_value(&name) {
                if self.variables.contains(name) {
                    found.variables.insert(name.clone());
                }
                if visited.insert(name) {
                    entry.node.each_string(&mut |text| open.extend(names_in(text)));
                }
            } else if let Some(axis) = name.strip_prefix(AXIS)
                && self.axes.contains(axis)
            {
                found.axes.insert(axis.to_string());
            }
        }
    }
}

/// The names in the `${name}` of a text.
fn names_in(text: &str) -> Vec<String> {
    let names = pieces(text).into_iter().filter_map(|piece| match piece {
        Piece::Variable(name) => Some(name.to_string()),
        Piece::Text(_) | Piece::Escape | Piece::Unclosed => None,
    });
    names.collect()
}

/// The variable in the path of a key such as `vars.lr`.
fn variable_of_path(text: &str) -> Option<String> {
    let (parts, end) = key_path::parse(text)?;
    (end == text.len() && parts.len() > 1 && parts[0] == "vars").then(|| parts[1].clone())
}

pub(crate) fn pieces(text: &str) -> Vec<Piece<'_>> {
    let mut pieces = Vec::new();
    let mut rest = text;
    while let Some(at) = rest.find("${") {
        let escaped = rest[..at].ends_with('$');
        let before = if escaped { &rest[..at - 1] } else { &rest[..at] };
        if !before.is_empty() {
            pieces.push(Piece::Text(before));
        }
        rest = &rest[at + 2..];
        if escaped {
            pieces.push(Piece::Escape);
        } else if let Some(end) = rest.find('}') {
            let name = rest[..end].trim();
            let quoted = ['"', '\''].into_iter().find_map(|quote| name.strip_prefix(quote)?.strip_suffix(quote));
            pieces.push(Piece::Variable(quoted.unwrap_or(name)));
            rest = &rest[end + 1..];
        } else {
            pieces.push(Piece::Unclosed);
            return pieces;
        }
    }
    if !rest.is_empty() {
        pieces.push(Piece::Text(rest));
    }
    pieces
}
