//! From files and `--set` arguments to one merged tree. Knows `extends`, and no other key of the language.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::keys;
use super::problems::Problems;
use super::removal::{self, REMOVE};
use super::tree::{Data, Node, Table, parse_document, parse_value};
use ablate_core::base::diagnostic::nearest;
use ablate_core::base::{Diagnostic, Hash, SourceId, Sources, Span, files};

/// Parts of the file that a `--set` may only name what is already there: a new stage or variable is a typing mistake.
const NAMED: [&str; 5] = ["stage", "vars", "axis", "report", "settings"];

/// Files that extend each other this deep are taken for a mistake.
const MAX_FILES: usize = 64;

/// Reads a file and all that it extends, and merges them, the extended ones below. Gives the file's own text too, and
/// notes in `texts` what was read. `None` when a text cannot be read or is not TOML.
pub(crate) fn read_files(
    path: &Path,
    texts: &mut Vec<(PathBuf, Hash)>,
    sources: &mut Sources,
    problems: &mut Problems,
) -> Option<(SourceId, Table)> {
    let (layers, chain, merged) = (BTreeMap::new(), Vec::new(), Table::default());
    let mut reader = Reader { texts, sources, problems, layers, chain, laid: false, merged };
    let root = reader.lay(path, None);
    root.filter(|_| reader.layers.values().all(|sound| *sound)).map(|root| (root, reader.merged))
}

/// Lays files over each other, each once: where it is reached first.
struct Reader<'a> {
    texts: &'a mut Vec<(PathBuf, Hash)>,
    sources: &'a mut Sources,
    problems: &'a mut Problems,
    /// Files that were read, and whether they are TOML.
    layers: BTreeMap<PathBuf, bool>,
    /// The files that are being read, each extended by the one before, with the place that asks for it.
    chain: Vec<Link>,
    /// Whether a file was laid already.
    laid: bool,
    merged: Table,
}

struct Link {
    identity: PathBuf,
    shown: String,
    asked: Option<Span>,
}

impl Reader<'_> {
    /// `None` when a text cannot be read or there is no end of files.
    fn lay(&mut self, path: &Path, asked: Option<Span>) -> Option<SourceId> {
        let shown = path.display().to_string();
        let identity = path.canonicalize().unwrap_or_else(|_| path.to_path_buf());
        if let Some(start) = self.chain.iter().position(|link| link.identity == identity) {
            self.problems.push(cycle(&self.chain[start..], &shown, asked));
            return None;
        }
        if self.chain.len() >= MAX_FILES {
            let message = format!("more than {MAX_FILES} files extend each other");
            self.problems.push(Diagnostic::error(message).at(asked?, ""));
            return None;
        }
        let text = read(path, asked.as_ref(), self.problems)?;
        self.texts.push((absolute(path), Hash::of_bytes(text.as_bytes())));
        let source = self.sources.add(shown.clone(), text);
        let layer = parse_document(source, self.sources, self.problems);
        self.layers.insert(identity.clone(), layer.is_some());
        let mut layer = layer.unwrap_or_default();
        let bases = layer.0.remove("extends").map(|entry| self.bases(entry.node)).unwrap_or_default();
        self.chain.push(Link { identity, shown, asked });
        for (base, place) in bases {
            let base = path.parent().unwrap_or(Path::new("")).join(base);
            let known = base.canonicalize().is_ok_and(|base| self.layers.contains_key(&base) && !self.is_open(&base));
            if !known {
                self.lay(&base, Some(place))?;
            }
        }
        self.chain.pop();
        // The lowest file has nothing below it, and below one that is no TOML nothing is known.
        if self.laid && self.layers.values().all(|sound| *sound) {
            removal::take(&mut layer, &mut self.merged, self.problems);
        }
        self.laid = true;
        self.merged.merge(layer);
        Some(source)
    }

    fn is_open(&self, identity: &Path) -> bool {
        self.chain.iter().any(|link| link.identity == identity)
    }

    /// The files that `extends` names, one or several.
    fn bases(&mut self, node: Node) -> Vec<(String, Span)> {
        let nodes = match node.data {
            Data::List(nodes) => nodes,
            data => vec![Node { data, origin: node.origin }],
        };
        let mut bases = Vec::new();
        for node in nodes {
            if let Some(base) = node.as_str() {
                bases.push((base.to_string(), node.origin));
                continue;
            }
            let message =
                format!("`extends`: wrong type: {}, expected a string or a list of strings", node.type_name());
            self.problems.push(Diagnostic::error(message).at(node.origin, ""));
        }
        bases
    }
}

/// Lays the `--set` arguments on top, in order. Each is a source of its own, so that mistakes point into it.
pub(crate) fn apply_overrides(tree: &mut Table, overrides: &[String], sources: &mut Sources, problems: &mut Problems) {
    for argument in overrides {
        let source = sources.add(format!("--set {argument}"), argument.clone());
        let found = keys::parse(argument).filter(|(_, end)| *end < argument.len());
        let Some((parts, end)) = found else {
            let (message, end) = match argument.split_once('=') {
                Some((path, _)) => (format!("`{path}` is not a key path"), path.len()),
                None => ("an override needs a key and a value".to_string(), argument.len()),
            };
            let origin = Span { source, range: 0..end };
            let help = "write `--set stage.dpo.beta=0.2`";
            problems.push(Diagnostic::error(message).at(origin, "").help(help));
            continue;
        };
        let key = Span { source, range: 0..argument[..end].trim_end().len() };
        let node = parse_value(source, sources, end + 1..argument.len(), problems);
        let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
        if let Err(diagnostic) = apply(tree, &parts, &key, node) {
            problems.push(*diagnostic);
        }
    }
}

fn apply(tree: &mut Table, parts: &[&str], key: &Span, node: Node) -> Result<(), Box<Diagnostic>> {
    let refuse = |message: String, help: Option<String>| {
        let diagnostic = Diagnostic::error(message).at(key.clone(), "");
        Err(Box::new(match help {
            Some(help) => diagnostic.help(help),
            None => diagnostic,
        }))
    };
    let (path, removes) = (keys::join(parts), node.as_str() == Some(REMOVE));
    if parts[0] == "extends" {
        return refuse("`extends` cannot be overridden".to_string(), None);
    }
    if let Some(meant) = quoted(tree, parts) {
        return refuse(
            format!("`{path}` is no key, but one with dots in its name is"),
            Some(format!("write `{meant}`")),
        );
    }
    if removes {
        if tree.remove(parts) {
            return Ok(());
        }
        let near = tree.near(parts);
        return Err(Box::new(removal::refused(&path, near, &node.origin, key)));
    }
    if parts.len() == 1 && NAMED.contains(&parts[0]) {
        return refuse(format!("`{path}` is a whole table: name a key in it"), None);
    }
    if parts.len() > 1 && NAMED[..4].contains(&parts[0]) {
        let known: Vec<&str> = match tree.get(parts[0]).and_then(Node::as_table) {
            Some(table) => table.0.keys().map(String::as_str).collect(),
            None => Vec::new(),
        };
        if !known.contains(&parts[1]) {
            let (section, name) = (parts[0], parts[1]);
            let shown = |name: &str| keys::join([section, name]);
            let help = match nearest(name, known.iter().copied()) {
                Some(near) => format!("a name like it exists: `{}`", shown(near)),
                None if known.is_empty() => format!("the experiment has no `{section}` at all"),
                None => format!("the experiment has {}", list(known.iter().map(|name| shown(name)))),
            };
            return refuse(format!("there is no `{}` to override", shown(name)), Some(help));
        }
        if parts.len() == 2 && parts[0] != "vars" && !matches!(node.data, Data::Table(_)) {
            return refuse(format!("`{path}` is a whole table: name a key in it"), None);
        }
    }
    match tree.set(parts, key, node) {
        Ok(()) => Ok(()),
        Err(blocker) => refuse(format!("`{blocker}` is not a table, so it has no key to override"), None),
    }
}

/// The path that is meant, where parts of a path without quotes are one key with dots.
pub(crate) fn quoted(table: &Table, parts: &[&str]) -> Option<String> {
    let keys = table.keys(parts);
    (keys.len() < parts.len()).then(|| keys::join(keys))
}

/// Names in backticks, ten at most.
pub(crate) fn list<T: AsRef<str>>(names: impl IntoIterator<Item = T>) -> String {
    let names: Vec<String> = names.into_iter().map(|name| format!("`{}`", name.as_ref())).collect();
    match names.get(10..) {
        Some(more) if !more.is_empty() => format!("{} and {} more", names[..10].join(", "), more.len()),
        _ => names.join(", "),
    }
}

fn read(path: &Path, asked: Option<&Span>, problems: &mut Problems) -> Option<String> {
    let at = |diagnostic: Diagnostic| match asked {
        Some(origin) => diagnostic.at(origin.clone(), ""),
        None => diagnostic,
    };
    let bytes = match files::read_bytes(path) {
        Ok(bytes) => bytes,
        Err(error) => {
            problems.push(at(Diagnostic::error(format!("{error:#}"))));
            return None;
        }
    };
    match String::from_utf8(bytes) {
        Ok(text) => Some(text),
        Err(error) => {
            let byte = error.utf8_error().valid_up_to();
            problems.push(at(Diagnostic::error(format!("`{}` is not UTF-8 text: byte {byte}", path.display()))));
            None
        }
    }
}

fn cycle(chain: &[Link], again: &str, asked: Option<Span>) -> Diagnostic {
    let mut names: Vec<&str> = chain.iter().map(|link| link.shown.as_str()).collect();
    names.push(again);
    let mut diagnostic = Diagnostic::error(format!("files extend each other: `{}`", names.join(" -> ")));
    for origin in asked.into_iter().chain(chain[1..].iter().rev().filter_map(|link| link.asked.clone())) {
        diagnostic = diagnostic.at(origin, "");
    }
    diagnostic
}

/// The path from the root, with `.` and `..` left as they are where they could lead through a link.
pub(crate) fn absolute(path: &Path) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.to_path_buf())
}
