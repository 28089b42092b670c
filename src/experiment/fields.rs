//! From a table of the tree to a struct, and from its mistakes to their places. Knows no table of its own.

use serde::de::DeserializeOwned;

use super::keys;
use super::problems::Problems;
use super::tree::{Data, Node, Table};
use ablate_core::base::{Diagnostic, Span};
use ablate_core::stage::ConfigError;
use ablate_core::stage::config;

/// A table with the words that lead a reader to it.
#[derive(Clone, Copy)]
pub(crate) struct Section<'a> {
    /// Dotted path of the table, for example `stage.dpo`; empty for the whole file.
    pub(crate) path: &'a str,
    pub(crate) table: &'a Table,
    pub(crate) header: &'a Span,
}

impl Section<'_> {
    /// Deserializes the table; `None` after reporting all that is wrong with it.
    pub(crate) fn read<T: DeserializeOwned>(&self, problems: &mut Problems) -> Option<T> {
        match config::parse(&self.table.to_json()) {
            Ok(value) => Some(value),
            Err(errors) => {
                for error in &errors {
                    self.report(error, problems);
                }
                None
            }
        }
    }

    /// Reports a mistake at the key (when it is unknown), the value (when it is wrong) or the header (when it is missing).
    pub(crate) fn report(&self, error: &ConfigError, problems: &mut Problems) {
        let unknown = error.message.starts_with("unknown key");
        let (key, value) = self.locate(&error.path);
        let named = if unknown { error.path.split_last().map_or(&[][..], |(_, above)| above) } else { &error.path[..] };
        let named = keys::join(self.table.keys(named));
        let path: Vec<&str> = [self.path, &named].into_iter().filter(|part| !part.is_empty()).collect();
        let message =
            if path.is_empty() { error.message.clone() } else { format!("`{}`: {}", path.join("."), error.message) };
        self.report_at(&if unknown { key } else { value }, message, error.help.clone(), problems);
    }

    /// Reports one mistake at the key of a path, which is what is wrong.
    pub(crate) fn wrong_key(&self, path: &[&str], message: String, help: Option<String>, problems: &mut Problems) {
        let path: Vec<String> = path.iter().map(|part| (*part).to_string()).collect();
        self.report_at(&self.locate(&path).0, message, help, problems);
    }

    fn report_at(&self, place: &Span, message: String, help: Option<String>, problems: &mut Problems) {
        let mut diagnostic = Diagnostic::error(message).at(place.clone(), "");
        if place != self.header && !self.path.is_empty() {
            let part = self.path.split('.').next().unwrap_or_default();
            let what = if ["stage", "axis", "report"].contains(&part) { part } else { "table" };
            diagnostic = diagnostic.at(self.header.clone(), format!("in this {what}"));
        }
        if let Some(help) = help {
            diagnostic = diagnostic.help(help);
        }
        problems.push(diagnostic);
    }

    /// Reports one mistake at a path of the table.
    pub(crate) fn wrong(
        &self,
        path: &[&str],
        message: impl Into<String>,
        help: Option<String>,
        problems: &mut Problems,
    ) {
        let path = path.iter().map(|part| (*part).to_string()).collect();
        self.report(&ConfigError { path, message: message.into(), help }, problems);
    }

    /// Places of the key and of the value at a path, or of the deepest table on the way that is there.
    pub(crate) fn locate(&self, path: &[String]) -> (Span, Span) {
        let mut key = self.header.clone();
        let mut value = self.header.clone();
        let mut table = Some(self.table);
        let mut list: Option<&[Node]> = None;
        let mut rest = path;
        while let Some((part, below)) = rest.split_first() {
            rest = below;
            let node = if let Some((entry, used)) = table.and_then(|table| table.first_of(part, below)) {
                rest = &below[used..];
                key = entry.key.clone();
                &entry.node
            } else if let Some(node) = list.and_then(|list| list.get(part.parse::<usize>().ok()?)) {
                key = node.origin.clone();
                node
            } else {
                break;
            };
            value = node.origin.clone();
            table = node.as_table();
            list = match &node.data {
                Data::List(nodes) => Some(nodes),
                _ => None,
            };
        }
        (key, value)
    }
}
