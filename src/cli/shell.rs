//! The only place that prints: results on stdout, everything else on stderr. Whatever the text is made of, no character of
//! it speaks to the terminal but the colors that were asked for.

use std::borrow::Cow;
use std::io::{self, ErrorKind, IsTerminal, Write};
use std::sync::OnceLock;

use anyhow::Result;
use serde::Serialize;

use super::args::{ColorChoice, Global};
use super::{DONE, NOT_WRITTEN};
use ablate_core::base::escape;

/// The first error of writing to stdout. A reader that went away is one of them.
static LOST: OnceLock<io::Error> = OnceLock::new();

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
    pub(super) fn result(self, text: &str) {
        let newline = if text.ends_with('\n') { "" } else { "\n" };
        let text = if self.json { escape::escape_json(text) } else { escape::escape_controls(text) };
        print(&[&text, newline]);
    }

    /// A result whose colors are ours, and whose other pieces were made [`escape::escape_controls`] before they got them.
    pub(super) fn styled(self, text: &str) {
        let newline = if text.ends_with('\n') { "" } else { "\n" };
        print(&[&styled(text, self.color), newline]);
    }

    /// A piece of a result that comes little by little.
    #[expect(clippy::unused_self, reason = "printing is an act of the shell")]
    pub(super) fn piece(self, text: &str) {
        print(&[&escape::escape_controls(text)]);
    }

    /// What a program has said.
    #[expect(clippy::unused_self, reason = "printing is an act of the shell")]
    pub(super) fn log(self, text: &str) {
        let newline = if text.is_empty() || text.ends_with('\n') { "" } else { "\n" };
        print(&[&escape::clean_log(text), newline]);
    }

    /// Whether nobody reads stdout any more.
    #[expect(clippy::unused_self, reason = "printing is an act of the shell")]
    pub(super) fn is_closed(self) -> bool {
        LOST.get().is_some_and(|error| error.kind() == ErrorKind::BrokenPipe)
    }

    /// The exit code, given that of the command: a result that could not be written is a failure. A reader that went away
    /// is none.
    pub(super) fn settle(self, code: u8) -> u8 {
        match LOST.get() {
            Some(error) if error.kind() != ErrorKind::BrokenPipe => {
                self.error(&format!("the result could not be written to stdout: {error}"));
                if code == DONE { NOT_WRITTEN } else { code }
            }
            _ => code,
        }
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
        self.styled_status(&escape::escape_controls(text));
    }

    /// The same with colors of ours, as in [`Shell::styled`].
    pub(super) fn styled_status(self, text: &str) {
        if !self.quiet {
            writeln!(io::stderr().lock(), "{}", styled(text, self.error_color)).ok();
        }
    }

    /// Diagnostics, already rendered.
    pub(super) fn diagnostics(self, text: &str) {
        writeln!(io::stderr().lock(), "{}", styled(text, self.error_color)).ok();
    }

    /// Something that is not as the user will expect, and that fails nothing.
    pub(super) fn warning(self, text: &str) {
        let label = if self.error_color { "\u{1b}[1;33mwarning\u{1b}[0m" } else { "warning" };
        writeln!(io::stderr().lock(), "{label}: {}", escape::escape_controls(text)).ok();
    }

    /// An error of the world: `error: ` and the chain of causes.
    pub(super) fn error(self, text: &str) {
        let label = if self.error_color { "\u{1b}[1;31merror\u{1b}[0m" } else { "error" };
        writeln!(io::stderr().lock(), "{label}: {}", escape::escape_controls(text)).ok();
    }
}

fn print(pieces: &[&str]) {
    let mut out = io::stdout().lock();
    let written = pieces.iter().try_for_each(|piece| out.write_all(piece.as_bytes())).and_then(|()| out.flush());
    if let Err(error) = written {
        LOST.set(error).ok();
    }
}

fn styled(text: &str, color: bool) -> Cow<'_, str> {
    if color { escape::escape_except_colors(text) } else { escape::escape_controls(text) }
}
