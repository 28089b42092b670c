//! `--set stage.sft.lr=1e-4,1e-5`: an override with several values is an axis.

use std::ops::Range;

use super::key_path;
use super::spanned_toml::{Data, Entry, Node, Table};
use ablate_core::base::{Diagnostic, Span};

/// The parts of a text between commas outside of quotes and brackets, without white space around them. One part
/// without such a comma, or if a quote or bracket is not closed.
pub(crate) fn parts(text: &str) -> Vec<Range<usize>> {
    let (mut found, mut start, mut depth, mut quote) = (Vec::new(), 0, 0usize, None);
    let mut escaped = false;
    for (at, letter) in text.char_indices() {
        match (quote, letter) {
            (Some('"'), '\\') if !escaped => {
                escaped = true;
                continue;
            }
            (Some(open), letter) if letter == open && !escaped => quote = None,
            (None, '"' | '\'') => quote = Some(letter),
            (None, '[' | '{') => depth += 1,
            (None, ']' | '}') => depth = depth.saturating_sub(1),
            (None, ',') if depth == 0 => {
                found.push(start..at);
                start = at + 1;
            }
            _ => {}
        }
        escaped = false;
    }
    found.push(start..text.len());
    if quote.is_some() || depth > 0 {
        found.clear();
        found.push(0..text.len());
    }
    found.into_iter().map(|range| trim(text, range)).collect()
}

fn trim(text: &str, range: Range<usize>) -> Range<usize> {
    let part = &text[range.clone()];
    let start = range.start + (part.len() - part.trim_start().len());
    start..start + part.trim().len()
}

/// The error in the values of a sweep, if it has one: an empty value, or a text that may be one value with a comma.
pub(crate) fn ambiguity(values: &[Node]) -> Option<(&Node, &'static str)> {
    let text = |node: &&Node| node.as_str().map(str::to_string);
    values.iter().find_map(|node| match text(&node) {
        Some(text) if text.is_empty() => Some((node, "a value is empty: several values are separated by commas")),
        Some(text) if text.contains(char::is_whitespace) => {
            Some((node, "it is not clear whether this is one text or several values, which commas separate"))
        }
        _ => None,
    })
}

/// Adds the axis of a sweep over the key at `parts`, or replaces the values of the axis that has this key.
pub(crate) fn add_axis(tree: &mut Table, parts: &[&str], key: &Span, values: Vec<Node>) -> Result<(), Box<Diagnostic>> {
    let path = key_path::join(parts);
    let string = |text: &str| Node { data: Data::String(text.to_string()), span: key.clone() };
    let values = Node { data: Data::List(values), span: key.clone() };
    let axes = tree.get("axis").and_then(Node::as_table).cloned().unwrap_or_default();
    let has_key = |entry: &Entry| entry.node.as_table().and_then(|axis| axis.get("key")?.as_str()) == Some(&path);
    let name = match axes.0.iter().find(|(_, entry)| has_key(entry)) {
        Some((name, _)) => name.clone(),
        None => new_name(&axes, parts),
    };
    tree.remove(&["axis", &name]);
    let axis = [("key", string(&path)), ("values", values)];
    for (name_of_key, node) in axis {
        tree.set(&["axis", &name, name_of_key], key, node).map_err(|blocker| {
            Box::new(
                Diagnostic::error(format!("`{blocker}` is not a table, so no axis can be added")).at(key.clone(), ""),
            )
        })?;
    }
    Ok(())
}

/// The last part of the path that makes a free name, with the parts before it if it is taken.
fn new_name(axes: &Table, parts: &[&str]) -> String {
    let clean = |text: String| -> String {
        text.chars().map(|letter| if letter.is_alphanumeric() || letter == '_' { letter } else { '-' }).collect()
    };
    let suffixes = (1..parts.len()).rev().map(|start| clean(parts[start..].join("-")));
    let is_free = |name: &String| !axes.0.contains_key(name) && name != "seed" && name != "dataset";
    suffixes.into_iter().find(is_free).unwrap_or_else(|| clean(parts.join("-")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commas_separate_values_outside_of_quotes_and_brackets() {
        let split = |text: &str| parts(text).into_iter().map(|range| text[range].to_string()).collect::<Vec<_>>();
        assert_eq!(split("1e-4, 2"), ["1e-4", "2"]);
        assert_eq!(split("[1, 2],[3]"), ["[1, 2]", "[3]"]);
        assert_eq!(split(r#""a,b",'c,d',{ e = 1, f = 2 }"#), [r#""a,b""#, "'c,d'", "{ e = 1, f = 2 }"]);
        assert_eq!(split(r#""a\",b",c"#), [r#""a\",b""#, "c"]);
        assert_eq!(split("it's a, b"), ["it's a, b"]);
        assert_eq!(split("1,,2,"), ["1", "", "2", ""]);
        assert_eq!(split(""), [""]);
    }
}
