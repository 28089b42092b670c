//! Names of things that an instance's name is made of: stages, axes, and the labels of axis values. Knows no stage.

use super::tree::{Data, Node};
use ablate_core::base::Hash;

/// Longer labels are cut: instance names become names of folders.
const MAX_LABEL: usize = 48;

/// What is wrong with a name of a stage, an axis or a report; `None` when nothing is.
pub(crate) fn name_problem(name: &str) -> Option<String> {
    let allowed = |letter: char| letter.is_alphanumeric() || letter == '-' || letter == '_';
    (name.is_empty() || name.len() > MAX_LABEL || !name.chars().all(allowed))
        .then(|| format!("`{name}` is not a name: use letters, digits, `-` and `_`, {MAX_LABEL} bytes at most"))
}

/// What is wrong with a label that the user gave; `None` when nothing is.
pub(crate) fn label_problem(label: &str) -> Option<String> {
    (label != clean(label) || label.is_empty())
        .then(|| format!("`{label}` is not a label: no spaces and none of `, : / \\ *`, {MAX_LABEL} bytes at most"))
}

/// The label of a value: its text; a table's `name`, or else its keys and values as `words=90`; a list's elements.
pub(crate) fn label_of(node: &Node) -> String {
    let text = text_of(node);
    let cleaned = clean(&text);
    if cleaned.is_empty() { format!("value-{}", Hash::of_bytes(text.as_bytes()).short()) } else { cleaned }
}

fn text_of(node: &Node) -> String {
    match &node.data {
        Data::String(text) => text.clone(),
        Data::Number(number) => number.to_string(),
        Data::Boolean(flag) => flag.to_string(),
        Data::List(nodes) => nodes.iter().map(text_of).collect::<Vec<_>>().join("+"),
        Data::Table(table) => {
            if let Some(name) = table.get("name").and_then(Node::as_str) {
                return name.to_string();
            }
            let pairs = table.0.iter().map(|(key, entry)| format!("{key}={}", text_of(&entry.node)));
            pairs.collect::<Vec<_>>().join("+")
        }
    }
}

/// The text as a label: without what no name may have, and no longer than one may be.
pub(crate) fn clean(text: &str) -> String {
    let cleaned: String = text
        .trim()
        .chars()
        .map(|letter| match letter {
            ',' | ':' | '/' | '\\' | '*' => '-',
            letter if letter.is_whitespace() || letter.is_control() => '-',
            letter => letter,
        })
        .collect();
    if cleaned.len() <= MAX_LABEL {
        return cleaned;
    }
    let hash = Hash::of_bytes(text.as_bytes()).short();
    let mut end = MAX_LABEL.saturating_sub(hash.len() + 1);
    while !cleaned.is_char_boundary(end) {
        end -= 1;
    }
    format!("{}-{hash}", &cleaned[..end])
}
