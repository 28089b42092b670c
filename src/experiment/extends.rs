//! `extends`: reads a file and all files that it extends, and merges them into one table.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::diagnostics::Diagnostics;
use super::removal;
use super::spanned_toml::{Data, Node, Table, parse_document};
use ablate_core::base::{Diagnostic, Hash, SourceId, Sources, Span, files};

/// The longest chain of files that extend each other.
const MAX_FILES: usize = 64;

/// Reads a file and all files that it extends, and merges them; a file overrides the files that it extends. Returns the
/// file's own source too, and adds every file to `texts`. `None` if a file cannot be read or is not TOML.
pub(crate) fn read_files(
    path: &Path,
    texts: &mut Vec<(PathBuf, Hash)>,
    sources: &mut Sources,
    diagnostics: &mut Diagnostics,
) -> Option<(SourceId, Table)> {
    let (layers, chain, merged) = (BTreeMap::new(), Vec::new(), Table::default());
    let mut reader = Reader { texts, sources, diagnostics, layers, chain, is_first: true, merged };
    let root = reader.merge_file(path, None);
    root.filter(|_| reader.layers.values().all(|valid| *valid)).map(|root| (root, reader.merged))
}

/// Merges files depth first, each file once: where it is reached first.
struct Reader<'a> {
    texts: &'a mut Vec<(PathBuf, Hash)>,
    sources: &'a mut Sources,
    diagnostics: &'a mut Diagnostics,
    /// Files that were read, and whether they are valid TOML.
    layers: BTreeMap<PathBuf, bool>,
    /// The files on the current path: each is extended by the one before it.
    chain: Vec<Link>,
    /// Whether no file was merged yet.
    is_first: bool,
    merged: Table,
}

struct Link {
    /// The canonical path.
    identity: PathBuf,
    shown: String,
    /// The place of the `extends` that names the file.
    extends: Option<Span>,
}

impl Reader<'_> {
    /// Merges a file on top of the files that it extends. `None` if a file cannot be read, or if files extend each
    /// other in a circle.
    fn merge_file(&mut self, path: &Path, extends: Option<Span>) -> Option<SourceId> {
        let shown = path.display().to_string();
        let identity = path.canonicalize().unwrap_or_else(|_| path.to_path_buf());
        if let Some(start) = self.chain.iter().position(|link| link.identity == identity) {
            self.diagnostics.push(cycle(&self.chain[start..], &shown, extends));
            return None;
        }
        if self.chain.len() >= MAX_FILES {
            self.diagnostics.error(&extends?, format!("more than {MAX_FILES} files extend each other"), None);
            return None;
        }
        let text = read(path, extends.as_ref(), self.diagnostics)?;
        self.texts.push((absolute(path), Hash::of_bytes(text.as_bytes())));
        let source = self.sources.add(shown.clone(), text);
        let layer = parse_document(source, self.sources, self.diagnostics);
        self.layers.insert(identity.clone(), layer.is_some());
        let mut layer = layer.unwrap_or_default();
        let bases = layer.0.remove("extends").map(|entry| self.bases(entry.node)).unwrap_or_default();
        self.chain.push(Link { identity, shown, extends });
        for (base, span) in bases {
            let base = path.parent().unwrap_or(Path::new("")).join(base);
            let known = base.canonicalize().is_ok_and(|base| self.layers.contains_key(&base) && !self.is_open(&base));
            if !known {
                self.merge_file(&base, Some(span))?;
            }
        }
        self.chain.pop();
        // In the first file there is nothing to remove. After a syntax error it is unknown which keys exist.
        if !self.is_first && self.layers.values().all(|valid| *valid) {
            removal::apply_removals(&mut layer, &mut self.merged, self.diagnostics);
        }
        self.is_first = false;
        self.merged.merge(layer);
        Some(source)
    }

    fn is_open(&self, identity: &Path) -> bool {
        self.chain.iter().any(|link| link.identity == identity)
    }

    /// The files that `extends` names.
    fn bases(&mut self, node: Node) -> Vec<(String, Span)> {
        let nodes = match node.data {
            Data::List(nodes) => nodes,
            data => vec![Node { data, span: node.span }],
        };
        let mut bases = Vec::new();
        for node in nodes {
            if let Some(base) = node.as_str() {
                bases.push((base.to_string(), node.span));
                continue;
            }
            let message =
                format!("`extends`: wrong type: {}, expected a string or a list of strings", node.type_name());
            self.diagnostics.error(&node.span, message, None);
        }
        bases
    }
}

fn read(path: &Path, extends: Option<&Span>, diagnostics: &mut Diagnostics) -> Option<String> {
    let text = files::read_bytes(path).map_err(|error| format!("{error:#}")).and_then(|bytes| {
        String::from_utf8(bytes).map_err(|error| {
            let byte = error.utf8_error().valid_up_to();
            format!("`{}` is not UTF-8 text: byte {byte}", path.display())
        })
    });
    let report = |message: String| {
        let mut diagnostic = Diagnostic::error(message);
        diagnostic.labels.extend(extends.map(|span| (span.clone(), String::new())));
        diagnostics.push(diagnostic);
    };
    text.map_err(report).ok()
}

fn cycle(chain: &[Link], again: &str, extends: Option<Span>) -> Diagnostic {
    let mut names: Vec<&str> = chain.iter().map(|link| link.shown.as_str()).collect();
    names.push(again);
    let mut diagnostic = Diagnostic::error(format!("files extend each other in a circle: `{}`", names.join(" -> ")));
    for span in extends.into_iter().chain(chain[1..].iter().rev().filter_map(|link| link.extends.clone())) {
        diagnostic = diagnostic.at(span, "");
    }
    diagnostic
}

/// The absolute path. Symbolic links are not resolved.
pub(crate) fn absolute(path: &Path) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.to_path_buf())
}
