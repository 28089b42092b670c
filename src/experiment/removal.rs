//! The value `"remove"`: it removes a key of the extended files, or of a stage at a point of an axis.

use super::diagnostics::Diagnostics;
use super::key_path;
use super::spanned_toml::{Data, Entry, Table};
use ablate_core::base::diagnostic::nearest;
use ablate_core::base::{Diagnostic, Span};

/// The value that removes a key.
pub(crate) const REMOVE: &str = "remove";

/// Removes from `below` the keys that `over` removes, and deletes the removals from `over`.
pub(crate) fn apply_removals(over: &mut Table, below: &mut Table, diagnostics: &mut Diagnostics) {
    walk(&mut Vec::new(), over, Some(below), diagnostics);
}

fn walk(path: &mut Vec<String>, over: &mut Table, mut below: Option<&mut Table>, diagnostics: &mut Diagnostics) {
    // The removals in the variants of an axis apply to stages.
    if let [axis, _, variants, _] = path.as_slice()
        && (axis.as_str(), variants.as_str()) == ("axis", "variants")
    {
        return;
    }
    over.0.retain(|name, Entry { key, node }| {
        path.push(name.clone());
        let is_removal = matches!(&node.data, Data::String(text) if text == REMOVE);
        if is_removal && !below.as_mut().is_some_and(|below| below.remove(&[name.as_str()])) {
            let similar = below.as_ref().and_then(|below| below.similar_path(&[name.as_str()]));
            let similar = similar.map(|similar| [&path[..path.len() - 1], &similar[..]].concat());
            diagnostics.push(cannot_remove(&key_path::join(&*path), similar, &node.span, key));
        } else if let Data::Table(inner) = &mut node.data {
            let below = below.as_mut().and_then(|below| below.0.get_mut(name));
            let below = below.and_then(|entry| match &mut entry.node.data {
                Data::Table(table) => Some(table),
                _ => None,
            });
            walk(path, inner, below, diagnostics);
        }
        path.pop();
        !is_removal
    });
}

/// The error that a key to remove does not exist. `similar` is the path of a key with a similar name.
pub(crate) fn cannot_remove(path: &str, similar: Option<Vec<String>>, value: &Span, key: &Span) -> Diagnostic {
    let message = format!("`{path}` cannot be removed: there is no such key");
    let mut diagnostic = Diagnostic::error(message).at(value.clone(), "");
    if key != value {
        diagnostic = diagnostic.at(key.clone(), "");
    }
    let help = similar.map(|similar| format!("a key of a similar name exists: `{}`", key_path::join(similar)));
    diagnostic.help.extend(help);
    diagnostic
}

/// The path with quotes, if some of its parts form one existing key with dots.
pub(crate) fn quoted_path(table: &Table, parts: &[&str]) -> Option<String> {
    let keys = table.keys_on_path(parts);
    (keys.len() < parts.len()).then(|| key_path::join(keys))
}

impl Table {
    /// The path of a key with a similar name, for a path that does not exist.
    pub(crate) fn similar_path(&self, path: &[&str]) -> Option<Vec<String>> {
        let (first, rest) = path.split_first()?;
        let Some(entry) = self.0.get(*first) else {
            return nearest(first, self.0.keys().map(String::as_str)).map(|near| vec![near.to_string()]);
        };
        let below = entry.node.as_table()?.similar_path(rest)?;
        Some([&[(*first).to_string()], &below[..]].concat())
    }
}
