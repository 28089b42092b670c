//! The mistakes of one load, collected while it goes on. Knows nothing of what they are about.

use std::collections::BTreeSet;
use std::fmt;

use ablate_core::base::{Diagnostic, SourceId, Sources, Span};

/// An origin that can be ordered: its text, start and end.
type Spot = (SourceId, usize, usize);

/// Collects diagnostics; the same one is kept once.
#[derive(Debug, Default)]
pub(crate) struct Problems {
    diagnostics: Vec<Diagnostic>,
    seen: BTreeSet<(String, Option<Spot>)>,
    /// Values that are already known to be wrong: what follows from them is not said.
    poisoned: BTreeSet<Spot>,
}

impl Problems {
    pub(crate) fn push(&mut self, diagnostic: Diagnostic) {
        let place = diagnostic.labels.first().map(|(origin, _)| spot(origin));
        if place.is_some_and(|place| self.poisoned.contains(&place)) {
            return;
        }
        if self.seen.insert((diagnostic.message.clone(), place)) {
            self.diagnostics.push(diagnostic);
        }
    }

    /// Reports a value that stays in the tree, so that later checks say nothing more about it.
    pub(crate) fn poison(&mut self, diagnostic: Diagnostic) {
        let place = diagnostic.labels.first().map(|(origin, _)| spot(origin));
        self.push(diagnostic);
        self.poisoned.extend(place);
    }

    /// Says nothing more about the value at a place.
    pub(crate) fn mute(&mut self, origin: &Span) {
        self.poisoned.insert(spot(origin));
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.diagnostics.is_empty()
    }

    pub(crate) fn into_failure(mut self, sources: Sources) -> Failure {
        self.diagnostics.sort_by_key(|diagnostic| diagnostic.labels.first().map(|(origin, _)| spot(origin)));
        Failure { diagnostics: self.diagnostics, sources }
    }
}

fn spot(origin: &Span) -> Spot {
    (origin.source, origin.range.start, origin.range.end)
}

/// Why an experiment did not load: every mistake, in the order of the text, and the texts they point into.
#[derive(Clone, Debug)]
pub struct Failure {
    pub diagnostics: Vec<Diagnostic>,
    pub sources: Sources,
}

impl Failure {
    /// All diagnostics, an empty line between two. `color` is for terminals; the plain text is stable.
    pub fn render(&self, color: bool) -> String {
        let texts: Vec<String> =
            self.diagnostics.iter().map(|diagnostic| diagnostic.render(&self.sources, color)).collect();
        texts.join("\n\n")
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.render(false))
    }
}

impl std::error::Error for Failure {}
