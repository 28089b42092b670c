//! Replaces `${name}` in strings with the values of `[vars]`.

use std::collections::BTreeMap;

use super::diagnostics::{Diagnostics, known_names};
use super::spanned_toml::{Data, Entry, MAX_DEPTH, Node, Table};

/// The most bytes that are copied out of variables: 64 MiB. Variables may use variables, so a small file could grow
/// exponentially.
const MAX_SIZE: usize = 1 << 26;

/// The longest chain of variables that use each other.
const MAX_CHAIN: usize = 16;

/// Replaces every `${name}` in the tree, and removes `[vars]` from it.
pub(crate) fn interpolate(tree: &mut Table, diagnostics: &mut Diagnostics) {
    let vars = match tree.0.remove("vars").map(|entry| entry.node) {
        None => Table::default(),
        Some(Node { data: Data::Table(table), .. }) => table,
        Some(node) => {
            let message = format!("`vars`: wrong type: {}, expected a table", node.type_name());
            return diagnostics.error(&node.span, message, None);
        }
    };
    let mut vars = Vars { table: &vars, values: BTreeMap::new(), open: Vec::new(), copied: 0, failures: 0 };
    for (name, entry) in &vars.table.0 {
        vars.resolve(name, &entry.node, diagnostics);
    }
    let table = std::mem::take(tree);
    *tree = vars.table_of(&table, diagnostics);
}

struct Vars<'a> {
    table: &'a Table,
    /// Resolved variables with their size and depth; `None` for a variable with an error.
    values: BTreeMap<&'a str, Option<(Node, usize, usize)>>,
    /// Variables that are being resolved, outermost first.
    open: Vec<&'a str>,
    /// The bytes that were copied out of variables, as counted by [`measure`].
    copied: usize,
    /// The number of strings with an error.
    failures: usize,
}

/// A part of a string.
enum Piece<'a> {
    Text(&'a str),
    /// `$${`, which escapes `${`.
    Escape,
    Variable(&'a str),
    /// `${` without `}`.
    Unclosed,
}

impl<'a> Vars<'a> {
    fn table_of(&mut self, table: &Table, diagnostics: &mut Diagnostics) -> Table {
        let entries = table.0.iter().map(|(key, entry)| {
            (key.clone(), Entry { key: entry.key.clone(), node: self.node_of(&entry.node, diagnostics) })
        });
        Table(entries.collect())
    }

    fn node_of(&mut self, node: &Node, diagnostics: &mut Diagnostics) -> Node {
        let data = match &node.data {
            Data::String(text) if text.contains("${") => return self.string_of(text, node, diagnostics),
            Data::List(nodes) => Data::List(nodes.iter().map(|node| self.node_of(node, diagnostics)).collect()),
            Data::Table(table) => Data::Table(self.table_of(table, diagnostics)),
            data => data.clone(),
        };
        Node { data, span: node.span.clone() }
    }

    fn string_of(&mut self, text: &str, node: &Node, diagnostics: &mut Diagnostics) -> Node {
        let pieces = pieces(text);
        let mut replaced = String::new();
        for piece in &pieces {
            match *piece {
                Piece::Text(text) => replaced.push_str(text),
                Piece::Escape => replaced.push_str("${"),
                Piece::Unclosed => {
                    let help = "close it with `}`, or write `$${` for the characters themselves";
                    return self.refuse(node, "a `${` is not closed", Some(help.to_string()), diagnostics);
                }
                Piece::Variable(name) => {
                    let value = match self.variable(name, diagnostics) {
                        Ok(value) => value,
                        Err(Some((message, help))) => return self.refuse(node, &message, help, diagnostics),
                        Err(None) => {
                            // The error is already reported at the variable.
                            self.failures += 1;
                            diagnostics.silence(&node.span);
                            return node.clone();
                        }
                    };
                    if pieces.len() == 1 {
                        return Node { data: value.data, span: node.span.clone() };
                    }
                    match &value.data {
                        Data::String(text) => replaced.push_str(text),
                        Data::Number(number) => replaced.push_str(&number.to_string()),
                        Data::Boolean(flag) => replaced.push_str(&flag.to_string()),
                        Data::List(_) | Data::Table(_) => {
                            let what = value.type_name();
                            let message = format!("the variable `{name}` is {what}, which cannot be part of a string");
                            return self.refuse(node, &message, None, diagnostics);
                        }
                    }
                }
            }
        }
        Node { data: Data::String(replaced), span: node.span.clone() }
    }

    fn refuse(&mut self, node: &Node, message: &str, help: Option<String>, diagnostics: &mut Diagnostics) -> Node {
        self.failures += 1;
        diagnostics.last_error(&node.span, message, help);
        node.clone()
    }

    /// A copy of a variable's value. The error is a message and a help, or `None` if it is already reported.
    fn variable(
        &mut self,
        name: &str,
        diagnostics: &mut Diagnostics,
    ) -> Result<Node, Option<(String, Option<String>)>> {
        let table = self.table;
        let Some((name, entry)) = table.0.get_key_value(name) else {
            let help = if table.0.is_empty() {
                "the experiment has no `[vars]`".to_string()
            } else {
                known_names("variable", name, table.0.keys().map(String::as_str))
            };
            return Err(Some((format!("the variable `{name}` is not defined"), Some(help))));
        };
        if let Some(start) = self.open.iter().position(|open| open == name) {
            let path: Vec<&str> = self.open[start..].iter().copied().chain([name.as_str()]).collect();
            return Err(Some((format!("variables use each other in a circle: `{}`", path.join(" -> ")), None)));
        }
        if self.open.len() >= MAX_CHAIN {
            return Err(Some(("the chain of variables is too long".to_string(), None)));
        }
        self.resolve(name, &entry.node, diagnostics);
        let (value, size, depth) = self.values.get(name.as_str()).and_then(Option::as_ref).ok_or(None)?;
        self.copied = self.copied.saturating_add(*size);
        if self.copied > MAX_SIZE || *depth >= MAX_DEPTH - 1 {
            return Err(Some(("the values of the variables are too large".to_string(), None)));
        }
        Ok(value.clone())
    }

    fn resolve(&mut self, name: &'a str, node: &Node, diagnostics: &mut Diagnostics) {
        if self.values.contains_key(name) {
            return;
        }
        self.open.push(name);
        let before = self.failures;
        let value = self.node_of(node, diagnostics);
        self.open.pop();
        let (size, depth) = measure(&value);
        self.values.insert(name, (self.failures == before).then_some((value, size, depth)));
    }
}

/// The approximate size of a value in bytes, and its nesting depth.
fn measure(node: &Node) -> (usize, usize) {
    let below: Vec<(usize, usize)> = match &node.data {
        Data::String(text) => return (text.len() + 64, 1),
        Data::List(nodes) => nodes.iter().map(measure).collect(),
        Data::Table(table) => table.0.values().map(|entry| measure(&entry.node)).collect(),
        Data::Number(_) | Data::Boolean(_) => Vec::new(),
    };
    let size = below.iter().map(|(size, _)| size).sum::<usize>() + 64;
    (size, below.iter().map(|(_, depth)| depth).max().unwrap_or(&0) + 1)
}

fn pieces(text: &str) -> Vec<Piece<'_>> {
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
