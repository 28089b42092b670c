//! From files and `--set` arguments to one merged tree. Knows `extends`, and no other key of the language.

use std::path::{Path, PathBuf};

use super::problems::Problems;
use super::tree::{Data, Node, Table, parse_document, parse_value};
use crate::base::diagnostic::nearest;
use crate::base::{Diagnostic, Hash, Origin, SourceId, Sources, files};

/// Parts of the file that a `--set` may only name what is already there: a new stage or variable is a typing mistake.
const NAMED: [&str; 5] = ["stage", "vars", "axis", "report", "settings"];

/// Reads a file and all that it extends, and merges them, the extended one below. Gives the file's own text too, and
/// notes in `texts` what was read. `None` when a text cannot be read or is not TOML.
pub(crate) fn read_files(
    path: &Path,
    texts: &mut Vec<(PathBuf, Hash)>,
    sources: &mut Sources,
    problems: &mut Problems,
) -> Option<(SourceId, Table)> {
    let mut root = None;
    let mut layers: Vec<Table> = Vec::new();
    let mut chain: Vec<(PathBuf, String)> = Vec::new();
    let mut places: Vec<Origin> = Vec::new();
    let mut sound = true;
    let mut next = Some(path.to_path_buf());
    while let Some(path) = next.take() {
        let shown = path.display().to_string();
        let identity = path.canonicalize().unwrap_or_else(|_| path.clone());
        if let Some(start) = chain.iter().position(|(known, _)| *known == identity) {
            problems.push(cycle(&chain[start..], &shown, &places[start..]));
            return None;
        }
        let text = read(&path, places.last(), problems)?;
        texts.push((std::path::absolute(&path).unwrap_or_else(|_| path.clone()), Hash::of_bytes(text.as_bytes())));
        let source = sources.add(shown.clone(), text);
        root.get_or_insert(source);
        chain.push((identity, shown));
        let layer = parse_document(source, sources, problems);
        sound &= layer.is_some();
        let mut layer = layer.unwrap_or_default();
        if let Some(entry) = layer.0.remove("extends") {
            match entry.node.as_str() {
                Some(base) => {
                    next = Some(path.parent().unwrap_or(Path::new("")).join(base));
                    places.push(entry.node.origin);
                }
                None => problems.push(
                    Diagnostic::error(format!("`extends`: wrong type: {}, expected a string", entry.node.type_name()))
                        .at(entry.node.origin, ""),
                ),
            }
        }
        layers.push(layer);
    }
    let mut merged = Table::default();
    for layer in layers.into_iter().rev() {
        merged.merge(layer);
    }
    root.filter(|_| sound).map(|root| (root, merged))
}

/// Lays the `--set` arguments on top, in order. Each is a source of its own, so that mistakes point into it.
pub(crate) fn apply_overrides(tree: &mut Table, overrides: &[String], sources: &mut Sources, problems: &mut Problems) {
    for argument in overrides {
        let source = sources.add(format!("--set {argument}"), argument.clone());
        let Some((path, _)) = argument.split_once('=') else {
            let origin = Origin { source, range: 0..argument.len() };
            problems.push(
                Diagnostic::error("an override needs a key and a value")
                    .at(origin, "")
                    .help("write `--set stage.dpo.beta=0.2`"),
            );
            continue;
        };
        let key = Origin { source, range: 0..path.len() };
        let node = parse_value(source, sources, path.len() + 1..argument.len(), problems);
        if let Err(diagnostic) = apply(tree, path, &key, node) {
            problems.push(*diagnostic);
        }
    }
}

fn apply(tree: &mut Table, path: &str, key: &Origin, node: Node) -> Result<(), Box<Diagnostic>> {
    let refuse = |message: String, help: Option<String>| {
        let diagnostic = Diagnostic::error(message).at(key.clone(), "");
        Err(Box::new(match help {
            Some(help) => diagnostic.help(help),
            None => diagnostic,
        }))
    };
    let parts: Vec<&str> = path.split('.').map(str::trim).collect();
    if parts.iter().any(|part| part.is_empty()) {
        return refuse(format!("`{path}` is not a key path"), Some("write `--set stage.dpo.beta=0.2`".to_string()));
    }
    if parts[0] == "extends" {
        return refuse("`extends` cannot be overridden".to_string(), None);
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
            let help = match nearest(name, known.iter().copied()) {
                Some(near) => format!("a name like it exists: `{section}.{near}`"),
                None if known.is_empty() => format!("the experiment has no `{section}` at all"),
                None => format!("the experiment has {}", list(known.iter().map(|name| format!("{section}.{name}")))),
            };
            return refuse(format!("there is no `{section}.{name}` to override"), Some(help));
        }
        if parts.len() == 2 && parts[0] != "vars" && !matches!(node.data, Data::Table(_)) {
            return refuse(format!("`{path}` is a whole table: name a key in it"), None);
        }
    }
    match tree.set(&parts, key, node) {
        Ok(()) => Ok(()),
        Err(blocker) => refuse(format!("`{blocker}` is not a table, so it has no key to override"), None),
    }
}

/// Names in backticks, ten at most.
pub(crate) fn list<T: AsRef<str>>(names: impl IntoIterator<Item = T>) -> String {
    let names: Vec<String> = names.into_iter().map(|name| format!("`{}`", name.as_ref())).collect();
    match names.get(10..) {
        Some(more) if !more.is_empty() => format!("{} and {} more", names[..10].join(", "), more.len()),
        _ => names.join(", "),
    }
}

fn read(path: &Path, asked: Option<&Origin>, problems: &mut Problems) -> Option<String> {
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

fn cycle(chain: &[(PathBuf, String)], again: &str, places: &[Origin]) -> Diagnostic {
    let mut names: Vec<&str> = chain.iter().map(|(_, shown)| shown.as_str()).collect();
    names.push(again);
    let path = names.join(" -> ");
    let mut diagnostic = Diagnostic::error(format!("files extend each other: `{path}`"));
    for origin in places.iter().rev() {
        diagnostic = diagnostic.at(origin.clone(), "");
    }
    diagnostic
}
