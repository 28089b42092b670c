//! `${name}` in strings: each takes its value from `[vars]`. Knows no other part of the language.

use std::collections::BTreeMap;

use super::problems::Problems;
use super::text::list;
use super::tree::{Data, Entry, MAX_DEPTH, Node, Table};
use ablate_core::base::Diagnostic;
use ablate_core::base::diagnostic::nearest;

/// Variables may lean on variables, so a small file could ask for any amount of memory: about 64 MiB is enough.
const MAX_SIZE: usize = 1 << 26;

/// A variable may lean on one that leans on another, this often.
const MAX_CHAIN: usize = 16;

/// Replaces every `${name}` in the tree, and takes `[vars]` out of it.
pub(crate) fn interpolate(tree: &mut Table, problems: &mut Problems) {
    let vars = match tree.0.remove("vars").map(|entry| entry.node) {
        None => Table::default(),
        Some(Node { data: Data::Table(table), .. }) => table,
        Some(node) => {
            let message = format!("`vars`: wrong type: {}, expected a table", node.type_name());
            problems.push(Diagnostic::error(message).at(node.origin, ""));
            return;
        }
    };
    let mut vars = Vars { table: &vars, values: BTreeMap::new(), open: Vec::new(), spent: 0, failures: 0 };
    for (name, entry) in &vars.table.0 {
        vars.resolve(name, &entry.node, problems);
    }
    let table = std::mem::take(tree);
    *tree = vars.table_of(&table, problems);
}

struct Vars<'a> {
    table: &'a Table,
    /// Variables with everything in them replaced; `None` for one that cannot be.
    values: BTreeMap<&'a str, Option<(Node, usize, usize)>>,
    /// Variables that are being replaced, outermost first.
    open: Vec<&'a str>,
    /// What was copied out of variables so far, in the unit of [`measure`].
    spent: usize,
    /// Strings that could not be replaced so far.
    failures: usize,
}

/// A stretch of a string.
enum Piece<'a> {
    Text(&'a str),
    /// `$${`, which stands for `${`.
    Escape,
    Variable(&'a str),
    Unclosed,
}

impl<'a> Vars<'a> {
    fn table_of(&mut self, table: &Table, problems: &mut Problems) -> Table {
        let entries = table.0.iter().map(|(key, entry)| {
            (key.clone(), Entry { key: entry.key.clone(), node: self.node_of(&entry.node, problems) })
        });
        Table(entries.collect())
    }

    fn node_of(&mut self, node: &Node, problems: &mut Problems) -> Node {
        let data = match &node.data {
            Data::String(text) if text.contains("${") => return self.string_of(text, node, problems),
            Data::List(nodes) => Data::List(nodes.iter().map(|node| self.node_of(node, problems)).collect()),
            Data::Table(table) => Data::Table(self.table_of(table, problems)),
            data => data.clone(),
        };
        Node { data, origin: node.origin.clone() }
    }

    fn string_of(&mut self, text: &str, node: &Node, problems: &mut Problems) -> Node {
        let pieces = pieces(text);
        let mut whole = String::new();
        for piece in &pieces {
            match *piece {
                Piece::Text(text) => whole.push_str(text),
                Piece::Escape => whole.push_str("${"),
                Piece::Unclosed => {
                    let help = "close it with `}`, or write `$${` for the characters themselves";
                    return self.wrong(node, "a `${` is not closed", Some(help.to_string()), problems);
                }
                Piece::Variable(name) => {
                    let value = match self.variable(name, problems) {
                        Ok(value) => value,
                        Err(Some((message, help))) => return self.wrong(node, &message, help, problems),
                        Err(None) => {
                            // Said at the variable; what would follow from it here is not said again.
                            self.failures += 1;
                            problems.mute(&node.origin);
                            return node.clone();
                        }
                    };
                    if pieces.len() == 1 {
                        return Node { data: value.data, origin: node.origin.clone() };
                    }
                    match &value.data {
                        Data::String(text) => whole.push_str(text),
                        Data::Number(number) => whole.push_str(&number.to_string()),
                        Data::Boolean(flag) => whole.push_str(&flag.to_string()),
                        Data::List(_) | Data::Table(_) => {
                            let what = value.type_name();
                            let message =
                                format!("the variable `{name}` is {what}, which cannot stand inside a string");
                            return self.wrong(node, &message, None, problems);
                        }
                    }
                }
            }
        }
        Node { data: Data::String(whole), origin: node.origin.clone() }
    }

    fn wrong(&mut self, node: &Node, message: &str, help: Option<String>, problems: &mut Problems) -> Node {
        self.failures += 1;
        let diagnostic = Diagnostic::error(message).at(node.origin.clone(), "");
        problems.poison(match help {
            Some(help) => diagnostic.help(help),
            None => diagnostic,
        });
        node.clone()
    }

    /// A copy of a variable's value; else what is wrong with using it, or `None` when that was said already.
    fn variable(&mut self, name: &str, problems: &mut Problems) -> Result<Node, Option<(String, Option<String>)>> {
        let table = self.table;
        let Some((name, entry)) = table.0.get_key_value(name) else {
            let help = match nearest(name, table.0.keys().map(String::as_str)) {
                Some(near) => format!("a variable of a similar name exists: `{near}`"),
                None if table.0.is_empty() => "the experiment has no `[vars]`".to_string(),
                None => format!("the known variables are {}", list(table.0.keys())),
            };
            return Err(Some((format!("the variable `{name}` is not defined"), Some(help))));
        };
        if let Some(start) = self.open.iter().position(|open| open == name) {
            let path: Vec<&str> = self.open[start..].iter().copied().chain([name.as_str()]).collect();
            return Err(Some((format!("variables need each other: `{}`", path.join(" -> ")), None)));
        }
        if self.open.len() >= MAX_CHAIN {
            return Err(Some(("variables lean on each other too deep".to_string(), None)));
        }
        self.resolve(name, &entry.node, problems);
        let (value, size, depth) = self.values.get(name.as_str()).and_then(Option::as_ref).ok_or(None)?;
        self.spent = self.spent.saturating_add(*size);
        if self.spent > MAX_SIZE || *depth >= MAX_DEPTH - 1 {
            return Err(Some(("variables grow too large here".to_string(), None)));
        }
        Ok(value.clone())
    }

    fn resolve(&mut self, name: &'a str, node: &Node, problems: &mut Problems) {
        if self.values.contains_key(name) {
            return;
        }
        self.open.push(name);
        let before = self.failures;
        let value = self.node_of(node, problems);
        self.open.pop();
        let (size, depth) = measure(&value);
        self.values.insert(name, (self.failures == before).then_some((value, size, depth)));
    }
}

/// About the bytes that a value takes in memory, and its levels.
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
