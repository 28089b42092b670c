//! Names of stages and axes, and labels of axis values. The names of instances are made of them.

use super::spanned_toml::{Data, Node};
use ablate_core::base::Hash;

/// The longest label in bytes. Instance names are used as folder names, so longer labels are truncated.
const MAX_LABEL: usize = 48;

/// The error in a name of a stage, an axis or a report; `None` if it is valid.
pub(crate) fn name_error(name: &str) -> Option<String> {
    let allowed = |letter: char| letter.is_alphanumeric() || letter == '-' || letter == '_';
    (name.is_empty() || name.len() > MAX_LABEL || !name.chars().all(allowed))
        .then(|| format!("`{name}` is not a name: use letters, digits, `-` and `_`, {MAX_LABEL} bytes at most"))
}

/// The error in a label from the file; `None` if it is valid.
pub(crate) fn label_error(label: &str) -> Option<String> {
    (label != sanitize(label) || label.is_empty())
        .then(|| format!("`{label}` is not a label: no spaces and none of `, : / \\ *`, {MAX_LABEL} bytes at most"))
}

/// The label of a value: its text. For a table its `name` or `baseline`, or else its keys and values as `words=90+...`; for a list
/// its elements joined by `+`.
pub(crate) fn label_of(node: &Node) -> String {
    let text = text_of(node);
    let label = sanitize(&text);
    if label.is_empty() { format!("value-{}", Hash::of_bytes(text.as_bytes()).short()) } else { label }
}

fn text_of(node: &Node) -> String {
    match &node.data {
        Data::String(text) => text.clone(),
        Data::Number(number) => number.to_string(),
        Data::Boolean(flag) => flag.to_string(),
        Data::List(nodes) => nodes.iter().map(text_of).collect::<Vec<_>>().join("+"),
        Data::Table(table) => {
            if let Some(name) = ["name", "baseline"].into_iter().find_map(|key| table.get(key)).and_then(Node::as_str) {
                return name.to_string();
            }
            let pairs = table.0.iter().map(|(key, entry)| format!("{key}={}", text_of(&entry.node)));
            pairs.collect::<Vec<_>>().join("+")
        }
    }
}

/// The text as a label: forbidden characters become `-`, and a long text is truncated and ends with its hash.
pub(crate) fn sanitize(text: &str) -> String {
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
