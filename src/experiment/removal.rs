//! The value `"remove"`: a key of what lies below is taken away. Knows no key of the language but the patches of variants,
//! which are removals of their own.

use super::keys;
use super::problems::Problems;
use super::tree::{Data, Entry, Table};
use ablate_core::base::diagnostic::nearest;
use ablate_core::base::{Diagnostic, Span};

/// The value that takes a key away.
pub(crate) const REMOVE: &str = "remove";

/// Takes what `over` removes out of `below`, and the removals out of `over`.
pub(crate) fn take(over: &mut Table, below: &mut Table, problems: &mut Problems) {
    walk(&mut Vec::new(), over, Some(below), problems);
}

fn walk(path: &mut Vec<String>, over: &mut Table, mut below: Option<&mut Table>, problems: &mut Problems) {
    if let [axis, _, variants, _] = path.as_slice()
        && (axis.as_str(), variants.as_str()) == ("axis", "variants")
    {
        return;
    }
    over.0.retain(|name, Entry { key, node }| {
        path.push(name.clone());
        let is_removal = matches!(&node.data, Data::String(text) if text == REMOVE);
        if is_removal && !below.as_mut().is_some_and(|below| below.remove(&[name.as_str()])) {
            let near = below.as_ref().and_then(|below| below.near(&[name.as_str()]));
            let near = near.map(|near| [&path[..path.len() - 1], &near[..]].concat());
            problems.push(refused(&keys::join(&*path), near, &node.origin, key));
        } else if let Data::Table(inner) = &mut node.data {
            let below = below.as_mut().and_then(|below| below.0.get_mut(name));
            let below = below.and_then(|entry| match &mut entry.node.data {
                Data::Table(table) => Some(table),
                _ => None,
            });
            walk(path, inner, below, problems);
        }
        path.pop();
        !is_removal
    });
}

/// Says that what is removed is not there; `near` is the path of a key with a similar name.
pub(crate) fn refused(path: &str, near: Option<Vec<String>>, value: &Span, key: &Span) -> Diagnostic {
    let message = format!("`{path}` cannot be removed: there is no such key");
    let diagnostic = Diagnostic::error(message).at(value.clone(), "");
    let diagnostic = if key == value { diagnostic } else { diagnostic.at(key.clone(), "") };
    match near {
        Some(near) => diagnostic.help(format!("a key of a similar name exists: `{}`", keys::join(near))),
        None => diagnostic,
    }
}

impl Table {
    /// The path that a key of a similar name has, where the one that is looked for is not there.
    pub(crate) fn near(&self, path: &[&str]) -> Option<Vec<String>> {
        let (first, rest) = path.split_first()?;
        let Some(entry) = self.0.get(*first) else {
            return nearest(first, self.0.keys().map(String::as_str)).map(|near| vec![near.to_string()]);
        };
        let below = entry.node.as_table()?.near(rest)?;
        Some([&[(*first).to_string()], &below[..]].concat())
    }
}
