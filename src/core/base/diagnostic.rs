//! Errors in the user's files, with source locations. They are collected and rendered together.

use std::borrow::Cow;
use std::ops::Range;

use annotate_snippets::{AnnotationKind, Group, Level, Renderer, Snippet};

use super::escape::{escape_controls, escape_line};

/// A text that a diagnostic can refer to: a file or a `--set` argument.
#[derive(Clone, Debug)]
pub struct Source {
    pub name: String,
    pub text: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SourceId(u32);

/// All texts of one load.
#[derive(Clone, Debug, Default)]
pub struct Sources(Vec<Source>);

impl Sources {
    pub fn add(&mut self, name: String, text: String) -> SourceId {
        self.0.push(Source { name, text });
        SourceId(self.0.len() as u32 - 1)
    }

    pub fn get(&self, id: SourceId) -> &Source {
        &self.0[id.0 as usize]
    }

    /// `file:line:column` of the start of an origin, counted from 1.
    pub fn location(&self, origin: &Span) -> String {
        let (line, column) = self.line_column(origin);
        format!("{}:{line}:{column}", self.get(origin.source).name)
    }

    /// Line and column of the start of an origin, counted from 1.
    pub fn line_column(&self, origin: &Span) -> (usize, usize) {
        let text = &self.get(origin.source).text;
        let before = &text[..origin.range.start.min(text.len())];
        let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
        (before.matches('\n').count() + 1, column)
    }
}

/// A range of a source that a value came from.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Span {
    pub source: SourceId,
    pub range: Range<usize>,
}

/// One error (or, for `why`, one fact) with its source locations.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Diagnostic {
    pub severity: Severity,
    pub message: String,
    /// The first label marks the error; the others give context.
    pub labels: Vec<(Span, String)>,
    pub help: Vec<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Severity {
    Error,
    Warning,
    Note,
}

impl Diagnostic {
    pub fn error(message: impl Into<String>) -> Diagnostic {
        Diagnostic { severity: Severity::Error, message: message.into(), labels: Vec::new(), help: Vec::new() }
    }

    pub fn warning(message: impl Into<String>) -> Diagnostic {
        Diagnostic { severity: Severity::Warning, ..Diagnostic::error(message) }
    }

    pub fn note(message: impl Into<String>) -> Diagnostic {
        Diagnostic { severity: Severity::Note, ..Diagnostic::error(message) }
    }

    #[must_use]
    pub fn at(mut self, origin: Span, label: impl Into<String>) -> Diagnostic {
        self.labels.push((origin, label.into()));
        self
    }

    #[must_use]
    pub fn help(mut self, help: impl Into<String>) -> Diagnostic {
        self.help.push(help.into());
        self
    }

    /// The full text of the diagnostic, with terminal colors if `color` is set. Tests compare the plain text.
    pub fn render(&self, sources: &Sources, color: bool) -> String {
        let level = match self.severity {
            Severity::Error => Level::ERROR,
            Severity::Warning => Level::WARNING,
            Severity::Note => Level::NOTE,
        };
        let message = escape_controls(&self.message);
        let labels: Vec<Cow<'_, str>> = self.labels.iter().map(|(_, label)| escape_controls(label)).collect();
        let names: Vec<Cow<'_, str>> =
            self.labels.iter().map(|(origin, _)| escape_line(&sources.get(origin.source).name)).collect();
        let help: Vec<Cow<'_, str>> = self.help.iter().map(|help| escape_controls(help)).collect();
        let mut group = Group::with_title(level.primary_title(&*message));
        let mut shown: Vec<SourceId> = Vec::new();
        for ((origin, _), name) in self.labels.iter().zip(&names) {
            if shown.contains(&origin.source) {
                continue;
            }
            shown.push(origin.source);
            let source = sources.get(origin.source);
            let mut snippet = Snippet::source(source.text.as_str()).path(&**name);
            for (index, ((place, _), label)) in self.labels.iter().zip(&labels).enumerate() {
                if place.source != origin.source {
                    continue;
                }
                let kind = if index == 0 { AnnotationKind::Primary } else { AnnotationKind::Context };
                let end = place.range.end.min(source.text.len());
                let annotation = kind.span(place.range.start.min(end)..end);
                snippet = snippet.annotation(if label.is_empty() { annotation } else { annotation.label(&**label) });
            }
            group = group.element(snippet);
        }
        for help in &help {
            group = group.element(Level::HELP.message(&**help));
        }
        let renderer = if color { Renderer::styled() } else { Renderer::plain() };
        renderer.render(&[group])
    }
}

/// The known name with the smallest edit distance to `name`, if it is close enough to be a likely typo.
pub fn nearest<'a>(name: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    known
        .into_iter()
        .map(|candidate| (strsim::damerau_levenshtein(name, candidate), candidate))
        .filter(|(distance, candidate)| *distance <= (candidate.len().max(name.len()) / 3).max(1))
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

#[cfg(test)]
mod tests {
    use super::*;
    use expect_test::expect;

    #[test]
    fn diagnostic_shows_location_and_help() {
        let mut sources = Sources::default();
        let source = sources.add("a.toml".into(), "[stage.dpo]\nfrom = \"stf\"\n".into());
        let diagnostic = Diagnostic::error("stage `stf` is not defined")
            .at(Span { source, range: 19..24 }, "no stage of this name")
            .at(Span { source, range: 0..11 }, "in this stage")
            .help("a stage of a similar name exists: `sft`");
        expect![[r#"
            error: stage `stf` is not defined
             --> a.toml:2:8
              |
            1 | [stage.dpo]
              | ----------- in this stage
            2 | from = "stf"
              |        ^^^^^ no stage of this name
              |
              = help: a stage of a similar name exists: `sft`"#]]
        .assert_eq(&diagnostic.render(&sources, false));
        assert_eq!(sources.location(&Span { source, range: 19..24 }), "a.toml:2:8");
    }

    #[test]
    fn control_characters_are_escaped() {
        let mut sources = Sources::default();
        let source = sources.add("a\u{1b}[2J.toml".into(), "x = \"\u{1b}[2J\"\n".into());
        let text = "\u{1b}]0;title\u{7}";
        let diagnostic = Diagnostic::error(text).at(Span { source, range: 0..1 }, text).help(text);
        let plain = diagnostic.render(&sources, false);
        assert!(plain.chars().all(|letter| letter == '\n' || !letter.is_control()), "{plain:?}");
        assert_eq!(plain.matches("\\u{1b}]0;title\\u{7}").count(), 3, "{plain}");
    }

    #[test]
    fn nearest_name_needs_a_small_distance() {
        assert_eq!(nearest("stf", ["sft", "dpo"]), Some("sft"));
        assert_eq!(nearest("bta", ["beta", "lr"]), Some("beta"));
        assert_eq!(nearest("xyz", ["beta", "lr"]), None);
    }
}
