//! Deserializes a table of the file into a struct, and reports errors at their places in the file.

use serde::de::DeserializeOwned;

use super::diagnostics::Diagnostics;
use super::foreign_keys;
use super::key_path;
use super::spanned_toml::{Data, Node, Table};
use ablate_core::base::{Diagnostic, Span};
use ablate_core::stage::config;
use ablate_core::stage::{ConfigError, ConfigErrorKind};

/// A table of the file with its name in messages.
#[derive(Clone, Copy)]
pub(crate) struct Section<'a> {
    /// Dotted path of the table, for example `stage.dpo`; empty for the whole file.
    pub(crate) path: &'a str,
    pub(crate) table: &'a Table,
    pub(crate) header: &'a Span,
}

impl<'a> Section<'a> {
    /// The section of a table. `None` after reporting that the value is not a table.
    pub(crate) fn of(path: &'a str, node: &'a Node, diagnostics: &mut Diagnostics) -> Option<Section<'a>> {
        let Some(table) = node.as_table() else {
            let message = format!("`{path}`: wrong type: {}, expected a table", node.type_name());
            diagnostics.error(&node.span, message, None);
            return None;
        };
        Some(Section { path, table, header: &node.span })
    }

    /// Deserializes the table. `None` after reporting its errors.
    pub(crate) fn read<T: DeserializeOwned>(&self, diagnostics: &mut Diagnostics) -> Option<T> {
        match config::parse(&self.table.to_json()) {
            Ok(value) => Some(value),
            Err(errors) => {
                for error in &foreign_keys::explain(errors) {
                    self.report(error, diagnostics);
                }
                None
            }
        }
    }

    /// Reports an error: at the key if the key is unknown, at the table's header if a key is missing, otherwise at the
    /// value.
    pub(crate) fn report(&self, error: &ConfigError, diagnostics: &mut Diagnostics) {
        let (key, value) = self.locate(&error.path);
        // The path of an unknown key ends with the key, which the message names.
        let (named, span) = match error.kind {
            ConfigErrorKind::UnknownKey { .. } => (error.path.split_last().map_or(&[][..], |(_, table)| table), key),
            ConfigErrorKind::MissingKey { .. } | ConfigErrorKind::InvalidValue => (&error.path[..], value),
        };
        let named = key_path::join(self.table.keys_on_path(named));
        let path: Vec<&str> = [self.path, &named].into_iter().filter(|part| !part.is_empty()).collect();
        let message =
            if path.is_empty() { error.message.clone() } else { format!("`{}`: {}", path.join("."), error.message) };
        self.report_at(&span, message, error.help.clone(), diagnostics);
    }

    /// Reports an error about the key at a path.
    pub(crate) fn wrong_key(
        &self,
        path: &[&str],
        message: String,
        help: Option<String>,
        diagnostics: &mut Diagnostics,
    ) {
        self.report_at(&self.locate(&to_strings(path)).0, message, help, diagnostics);
    }

    fn report_at(&self, span: &Span, message: String, help: Option<String>, diagnostics: &mut Diagnostics) {
        let mut diagnostic = Diagnostic::error(message).at(span.clone(), "");
        if span != self.header && !self.path.is_empty() {
            let part = self.path.split('.').next().unwrap_or_default();
            let what = if ["stage", "axis", "report"].contains(&part) { part } else { "table" };
            diagnostic = diagnostic.at(self.header.clone(), format!("in this {what}"));
        }
        diagnostic.help.extend(help);
        diagnostics.push(diagnostic);
    }

    /// Reports an error about the value at a path.
    pub(crate) fn wrong(
        &self,
        path: &[&str],
        message: impl Into<String>,
        help: Option<String>,
        diagnostics: &mut Diagnostics,
    ) {
        let (path, kind) = (to_strings(path), ConfigErrorKind::InvalidValue);
        self.report(&ConfigError { kind, path, message: message.into(), help }, diagnostics);
    }

    /// Like [`Section::wrong`], for a table that cannot be read: always `None`.
    pub(crate) fn refuse<T>(
        &self,
        path: &[&str],
        message: impl Into<String>,
        help: Option<String>,
        diagnostics: &mut Diagnostics,
    ) -> Option<T> {
        self.wrong(path, message, help, diagnostics);
        None
    }

    /// The places of the key and of the value at a path, or at its longest prefix that exists.
    pub(crate) fn locate(&self, path: &[String]) -> (Span, Span) {
        let mut key = self.header.clone();
        let mut value = self.header.clone();
        let mut table = Some(self.table);
        let mut list: Option<&[Node]> = None;
        let mut rest = path;
        while let Some((part, below)) = rest.split_first() {
            rest = below;
            let node = if let Some((entry, used)) = table.and_then(|table| table.entry_for(part, below)) {
                rest = &below[used..];
                key = entry.key.clone();
                &entry.node
            } else if let Some(node) = list.and_then(|list| list.get(part.parse::<usize>().ok()?)) {
                key = node.span.clone();
                node
            } else {
                break;
            };
            value = node.span.clone();
            table = node.as_table();
            list = match &node.data {
                Data::List(nodes) => Some(nodes),
                _ => None,
            };
        }
        (key, value)
    }
}

fn to_strings(path: &[&str]) -> Vec<String> {
    path.iter().map(|part| (*part).to_string()).collect()
}
