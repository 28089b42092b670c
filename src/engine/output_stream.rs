//! Reads the stdout of a child process: lines that are events go to the engine, all other bytes to the log. Lines can
//! have any length, because only the first bytes of a line are buffered, until they show where the line goes.

use std::io::{PipeReader, Read};

use super::capped_log::CappedLog;

/// The first bytes of a line that is an event.
const EVENT_PREFIX: &[u8] = b"{\"event\"";

/// A pipe that is read without blocking.
pub(super) struct OutputStream {
    pub(super) pipe: PipeReader,
    pub(super) closed: bool,
    line: Line,
}

/// The destination of the current line.
enum Line {
    /// Not known yet: these are the first bytes.
    Undecided(Vec<u8>),
    Event,
    Log,
}

impl OutputStream {
    pub(super) fn new(pipe: PipeReader) -> OutputStream {
        let flags = rustix::fs::fcntl_getfl(&pipe).unwrap_or(rustix::fs::OFlags::empty());
        rustix::fs::fcntl_setfl(&pipe, flags | rustix::fs::OFlags::NONBLOCK).ok();
        OutputStream { pipe, closed: false, line: Line::Undecided(Vec::new()) }
    }

    /// Reads what is available.
    pub(super) fn drain(&mut self, take: &mut dyn FnMut(&[u8])) {
        let mut buffer = [0; 1 << 14];
        // A limit, so that the caller regularly checks other conditions while a program writes without pause.
        for _ in 0..256 {
            match self.pipe.read(&mut buffer) {
                Ok(0) => self.closed = true,
                Ok(count) => {
                    take(&buffer[..count]);
                    continue;
                }
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
                Err(error) => self.closed = error.kind() != std::io::ErrorKind::WouldBlock,
            }
            return;
        }
    }

    /// Reads what is available. Events go to `send`, all other bytes to the log.
    pub(super) fn drain_lines(&mut self, log: &mut CappedLog, send: &mut dyn FnMut(&[u8])) {
        let mut line = std::mem::replace(&mut self.line, Line::Undecided(Vec::new()));
        self.drain(&mut |bytes| {
            for piece in bytes.split_inclusive(|byte| *byte == b'\n') {
                line.take(piece, log, send);
                if piece.ends_with(b"\n") {
                    line = Line::Undecided(Vec::new());
                }
            }
        });
        self.line = line;
    }

    /// Ends an incomplete last line, so that later output does not become a part of it.
    pub(super) fn flush(&mut self, log: &mut CappedLog, send: &mut dyn FnMut(&[u8])) {
        let mut line = std::mem::replace(&mut self.line, Line::Undecided(Vec::new()));
        if !matches!(&line, Line::Undecided(start) if start.is_empty()) {
            line.take(b"\n", log, send);
        }
    }
}

impl Line {
    /// Takes the next bytes of the line.
    fn take(&mut self, piece: &[u8], log: &mut CappedLog, send: &mut dyn FnMut(&[u8])) {
        let mut start = Vec::new();
        let bytes = if let Line::Undecided(before) = self {
            start.append(before);
            start.extend_from_slice(piece);
            if start.len() < EVENT_PREFIX.len() && !start.ends_with(b"\n") {
                *self = Line::Undecided(start);
                return;
            }
            *self = if start.starts_with(EVENT_PREFIX) { Line::Event } else { Line::Log };
            &start
        } else {
            piece
        };
        if matches!(self, Line::Event) { send(bytes) } else { log.write(bytes) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ablate_core::base::files;
    use std::io::Write;

    /// What the engine and the log receive if a program writes these pieces and then ends.
    fn split(pieces: &[&[u8]]) -> (String, String) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        let (mut log, mut sent) = (CappedLog::new(path.clone()), Vec::new());
        let (reader, mut writer) = std::io::pipe().unwrap();
        let mut stream = OutputStream::new(reader);
        for piece in pieces {
            writer.write_all(piece).unwrap();
            stream.drain_lines(&mut log, &mut |bytes| sent.extend_from_slice(bytes));
        }
        stream.flush(&mut log, &mut |bytes| sent.extend_from_slice(bytes));
        (String::from_utf8(sent).unwrap(), files::read_text(&path).unwrap_or_default())
    }

    #[test]
    fn events_and_log_are_split_at_any_cut() {
        let text = b"words\n{\"event\":1}\n{\"ev\n\n{\"event\" 2\nend";
        let expected = ("{\"event\":1}\n{\"event\" 2\n".to_string(), "words\n{\"ev\n\nend\n".to_string());
        assert_eq!(split(&[text]), expected);
        for cut in 0..text.len() {
            assert_eq!(split(&[&text[..cut], &text[cut..]]), expected, "cut at {cut}");
        }
        let single: Vec<&[u8]> = text.chunks(1).collect();
        assert_eq!(split(&single), expected);
    }

    #[test]
    fn long_and_truncated_events_are_passed_on() {
        let long = format!("{{\"event\":\"{}\"}}\n", "x".repeat(5 << 20));
        let pieces: Vec<&[u8]> = long.as_bytes().chunks(1 << 15).collect();
        assert!(split(&pieces) == (long.clone(), String::new()));
        assert!(split(&pieces[..7]) == (long[..7 << 15].to_string() + "\n", String::new()));
    }
}
