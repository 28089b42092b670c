//! Prints results to stdout and everything else to stderr; no other file of `src` prints. Control characters are
//! escaped, except colors that the program adds itself.

use std::borrow::Cow;
use std::io::{self, ErrorKind, IsTerminal, Write};
use std::sync::OnceLock;

use anyhow::Result;
use serde::Serialize;

use super::args::{ColorChoice, Global};
use super::{OUTPUT_FAILED, SUCCESS};
use ablate_core::base::escape;

/// The first error of writing to stdout, including a closed pipe.
static STDOUT_ERROR: OnceLock<io::Error> = OnceLock::new();

/// Output settings.
#[expect(clippy::struct_excessive_bools, reason = "independent switches")]
#[derive(Clone, Copy, Debug)]
pub(super) struct Shell {
    /// Color on stdout.
    pub(super) color: bool,
    /// Color on stderr.
    pub(super) error_color: bool,
    /// Whether to draw progress bars on stderr.
    pub(super) live: bool,
    pub(super) quiet: bool,
    pub(super) verbose: u8,
    pub(super) json: bool,
    /// Width of tables in columns.
    pub(super) width: usize,
}

/// Width of tables without a terminal.
const PLAIN_WIDTH: usize = 120;

impl Shell {
    pub(super) fn new(global: &Global) -> Shell {
        let no_color = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        let use_color = |terminal: bool| match global.color {
            ColorChoice::Always => true,
            ColorChoice::Never => false,
            ColorChoice::Auto => terminal && !no_color,
        };
        let (out, error) = (io::stdout().is_terminal(), io::stderr().is_terminal());
        let width = if out { usize::from(console::Term::stdout().size().1).max(60) } else { PLAIN_WIDTH };
        Shell {
            color: use_color(out),
            error_color: use_color(error),
            live: error && !global.json && !global.quiet,
            quiet: global.quiet,
            verbose: global.verbose,
            json: global.json,
            width,
        }
    }

    /// Prints a result. A closed pipe (`| head`) is not an error.
    pub(super) fn result(self, text: &str) {
        let newline = if text.ends_with('\n') { "" } else { "\n" };
        let text = if self.json { escape::escape_json(text) } else { escape::escape_controls(text) };
        print(&[&text, newline]);
    }

    /// Prints a result that contains the program's own colors; its other pieces are already escaped with
    /// [`escape::escape_controls`].
    pub(super) fn styled(self, text: &str) {
        let newline = if text.ends_with('\n') { "" } else { "\n" };
        print(&[&styled(text, self.color), newline]);
    }

    /// Prints a piece of a result that arrives in pieces.
    #[expect(clippy::unused_self, reason = "a method, as all printing")]
    pub(super) fn piece(self, text: &str) {
        print(&[&escape::escape_controls(text)]);
    }

    /// Prints the log of a program.
    #[expect(clippy::unused_self, reason = "a method, as all printing")]
    pub(super) fn log(self, text: &str) {
        let newline = if text.is_empty() || text.ends_with('\n') { "" } else { "\n" };
        print(&[&escape::clean_log(text), newline]);
    }

    /// Whether the reader of stdout has closed the pipe.
    #[expect(clippy::unused_self, reason = "a method, as all printing")]
    pub(super) fn is_closed(self) -> bool {
        STDOUT_ERROR.get().is_some_and(|error| error.kind() == ErrorKind::BrokenPipe)
    }

    /// The exit code of the process, given that of the command. A result that could not be written is a failure,
    /// except for a closed pipe.
    pub(super) fn exit_code(self, code: u8) -> u8 {
        match STDOUT_ERROR.get() {
            Some(error) if error.kind() != ErrorKind::BrokenPipe => {
                self.error(&format!("the result could not be written to stdout: {error}"));
                if code == SUCCESS { OUTPUT_FAILED } else { code }
            }
            _ => code,
        }
    }

    /// Prints a result as one indented JSON document.
    pub(super) fn json<T: Serialize>(self, value: &T) -> Result<()> {
        self.result(&serde_json::to_string_pretty(value)?);
        Ok(())
    }

    /// Prints one line of a JSON stream.
    pub(super) fn json_line<T: Serialize>(self, value: &T) {
        match serde_json::to_string(value) {
            Ok(line) => self.result(&line),
            Err(error) => self.error(&format!("cannot print an event: {error}")),
        }
    }

    /// Prints progress and hints. Silent with `--quiet`.
    pub(super) fn status(self, text: &str) {
        self.styled_status(&escape::escape_controls(text));
    }

    /// As [`Shell::status`], with the program's own colors as in [`Shell::styled`].
    pub(super) fn styled_status(self, text: &str) {
        if !self.quiet {
            writeln!(io::stderr().lock(), "{}", styled(text, self.error_color)).ok();
        }
    }

    /// Prints rendered diagnostics.
    pub(super) fn diagnostics(self, text: &str) {
        writeln!(io::stderr().lock(), "{}", styled(text, self.error_color)).ok();
    }

    /// Prints a warning.
    pub(super) fn warning(self, text: &str) {
        let label = if self.error_color { "\u{1b}[1;33mwarning\u{1b}[0m" } else { "warning" };
        writeln!(io::stderr().lock(), "{label}: {}", escape::escape_controls(text)).ok();
    }

    /// Prints an error and its causes.
    pub(super) fn error(self, text: &str) {
        let label = if self.error_color { "\u{1b}[1;31merror\u{1b}[0m" } else { "error" };
        writeln!(io::stderr().lock(), "{label}: {}", escape::escape_controls(text)).ok();
    }
}

fn print(pieces: &[&str]) {
    let mut out = io::stdout().lock();
    let written = pieces.iter().try_for_each(|piece| out.write_all(piece.as_bytes())).and_then(|()| out.flush());
    if let Err(error) = written {
        STDOUT_ERROR.set(error).ok();
    }
}

fn styled(text: &str, color: bool) -> Cow<'_, str> {
    if color { escape::escape_except_colors(text) } else { escape::escape_controls(text) }
}
