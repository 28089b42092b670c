//! Collects the diagnostics of one load.

use std::collections::BTreeSet;
use std::fmt;

use ablate_core::base::diagnostic::nearest;
use ablate_core::base::{Diagnostic, SourceId, Sources, Span};

/// A [`Span`] that implements `Ord`: source, start and end.
pub(crate) type SpanKey = (SourceId, usize, usize);

/// Collects diagnostics; equal ones at the same place are kept once.
#[derive(Debug, Default)]
pub(crate) struct Diagnostics {
    list: Vec<Diagnostic>,
    seen: BTreeSet<(String, Option<SpanKey>)>,
    /// Places whose value is already reported as wrong. Later diagnostics about them are dropped.
    silenced: BTreeSet<SpanKey>,
}

impl Diagnostics {
    pub(crate) fn push(&mut self, diagnostic: Diagnostic) {
        let place = diagnostic.labels.first().map(|(span, _)| span_key(span));
        if place.is_some_and(|place| self.silenced.contains(&place)) {
            return;
        }
        if self.seen.insert((diagnostic.message.clone(), place)) {
            self.list.push(diagnostic);
        }
    }

    /// Adds an error at one place.
    pub(crate) fn error(&mut self, span: &Span, message: impl Into<String>, help: Option<String>) {
        let mut diagnostic = Diagnostic::error(message).at(span.clone(), "");
        diagnostic.help.extend(help);
        self.push(diagnostic);
    }

    /// Adds the last error about a place: later ones would only follow from it.
    pub(crate) fn last_error(&mut self, span: &Span, message: impl Into<String>, help: Option<String>) {
        self.error(span, message, help);
        self.silence(span);
    }

    /// Drops later diagnostics about a place.
    pub(crate) fn silence(&mut self, span: &Span) {
        self.silenced.insert(span_key(span));
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    pub(crate) fn into_error(mut self, sources: Sources) -> LoadError {
        self.list.sort_by_key(|diagnostic| diagnostic.labels.first().map(|(span, _)| span_key(span)));
        LoadError { diagnostics: self.list, sources }
    }
}

pub(crate) fn span_key(span: &Span) -> SpanKey {
    (span.source, span.range.start, span.range.end)
}

/// All errors of an experiment in the order of the text, and the texts that they point into.
#[derive(Clone, Debug)]
pub struct LoadError {
    pub diagnostics: Vec<Diagnostic>,
    pub sources: Sources,
}

impl LoadError {
    /// All diagnostics, separated by empty lines. `color` adds ANSI colors.
    pub fn render(&self, color: bool) -> String {
        let texts: Vec<String> =
            self.diagnostics.iter().map(|diagnostic| diagnostic.render(&self.sources, color)).collect();
        texts.join("\n\n")
    }
}

impl fmt::Display for LoadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.render(false))
    }
}

impl std::error::Error for LoadError {}

/// Names in backticks, ten at most.
pub(crate) fn list<T: AsRef<str>>(names: impl IntoIterator<Item = T>) -> String {
    let names: Vec<String> = names.into_iter().map(|name| format!("`{}`", name.as_ref())).collect();
    match names.get(10..) {
        Some(more) if !more.is_empty() => format!("{} and {} more", names[..10].join(", "), more.len()),
        _ => names.join(", "),
    }
}

/// The help for an unknown name: the most similar known name, or all known names. `what` is what the names are of.
pub(crate) fn known_names<'a>(what: &str, name: &str, known: impl Iterator<Item = &'a str> + Clone) -> String {
    match nearest(name, known.clone()) {
        Some(near) if what == "axis" => format!("an axis of a similar name exists: `{near}`"),
        Some(near) => format!("a {what} of a similar name exists: `{near}`"),
        None if what == "axis" => format!("the axes are {}", list(known)),
        None => format!("the {what}s are {}", list(known)),
    }
}
