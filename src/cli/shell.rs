//! The only place that prints: results on stdout, everything else on stderr.

use std::io::{self, IsTerminal, Write};

use anyhow::Result;
use serde::Serialize;

use super::args::{ColorChoice, Global};

/// How to talk to the user.
#[expect(clippy::struct_excessive_bools, reason = "each is a switch of its own")]
#[derive(Clone, Copy, Debug)]
pub(super) struct Shell {
    /// Color on stdout.
    pub(super) color: bool,
    /// Color on stderr.
    pub(super) error_color: bool,
    /// Whether stderr is a terminal that bars may be drawn on.
    pub(super) live: bool,
    pub(super) quiet: bool,
    pub(super) verbose: u8,
    pub(super) json: bool,
    /// Columns for tables.
    pub(super) width: usize,
}

/// Width of tables where there is no terminal.
const PLAIN_WIDTH: usize = 120;

impl Shell {
    pub(super) fn new(global: &Global) -> Shell {
        let no_color = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        let wanted = |terminal: bool| match global.color {
            ColorChoice::Always => true,
            ColorChoice::Never => false,
            ColorChoice::Auto => terminal && !no_color,
        };
        let (out, error) = (io::stdout().is_terminal(), io::stderr().is_terminal());
        let width = if out { usize::from(console::Term::stdout().size().1).max(60) } else { PLAIN_WIDTH };
        Shell {
            color: wanted(out),
            error_color: wanted(error),
            live: error && !global.json && !global.quiet,
            quiet: global.quiet,
            verbose: global.verbose,
            json: global.json,
            width,
        }
    }

    /// A result. A reader that went away (`| head`) is no error.
    #[expect(clippy::unused_self, reason = "printing is an act of the shell")]
    pub(super) fn result(self, text: &str) {
        let mut out = io::stdout().lock();
        let newline = if text.ends_with('\n') { "" } else { "\n" };
        write!(out, "{text}{newline}").and_then(|()| out.flush()).ok();
    }

    /// A piece of a result that comes little by little.
    #[expect(clippy::unused_self, reason = "printing is an act of the shell")]
    pub(super) fn piece(self, text: &str) {
        let mut out = io::stdout().lock();
        write!(out, "{text}").and_then(|()| out.flush()).ok();
    }

    /// A result as one indented JSON document.
    pub(super) fn json<T: Serialize>(self, value: &T) -> Result<()> {
        self.result(&serde_json::to_string_pretty(value)?);
        Ok(())
    }

    /// One JSON line of a stream of events.
    pub(super) fn json_line<T: Serialize>(self, value: &T) {
        match serde_json::to_string(value) {
            Ok(line) => self.result(&line),
            Err(error) => self.error(&format!("cannot print an event: {error}")),
        }
    }

    /// Progress and hints: silent with `--quiet`.
    pub(super) fn status(self, text: &str) {
        if !self.quiet {
            writeln!(io::stderr().lock(), "{text}").ok();
        }
    }

    /// Diagnostics, already rendered.
    #[expect(clippy::unused_self, reason = "printing is an act of the shell")]
    pub(super) fn diagnostics(self, text: &str) {
        writeln!(io::stderr().lock(), "{text}").ok();
    }

    /// An error of the world: `error: ` and the chain of causes.
    pub(super) fn error(self, text: &str) {
        let label = if self.error_color { "\u{1b}[1;31merror\u{1b}[0m" } else { "error" };
        writeln!(io::stderr().lock(), "{label}: {text}").ok();
    }
}
