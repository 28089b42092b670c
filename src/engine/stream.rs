//! What a program says, as far as it has said it: lines that are events go to the engine, all else to the log. A line
//! may be of any length: nothing is kept back but its first bytes, which decide where it goes.

use std::io::{PipeReader, Read};

use super::bounded::BoundedLog;

/// How a line begins that is an event.
const EVENT: &[u8] = b"{\"event\"";

/// A pipe that is read as far as it goes, without waiting.
pub(super) struct Stream {
    pub(super) pipe: PipeReader,
    pub(super) closed: bool,
    line: Line,
}

/// The line that is being read.
enum Line {
    /// Its first bytes do not tell yet what it is.
    Begun(Vec<u8>),
    StageEvent,
    Words,
}

impl Stream {
    pub(super) fn new(pipe: PipeReader) -> Stream {
        let flags = rustix::fs::fcntl_getfl(&pipe).unwrap_or(rustix::fs::OFlags::empty());
        rustix::fs::fcntl_setfl(&pipe, flags | rustix::fs::OFlags::NONBLOCK).ok();
        Stream { pipe, closed: false, line: Line::Begun(Vec::new()) }
    }

    pub(super) fn drain(&mut self, take: &mut dyn FnMut(&[u8])) {
        let mut buffer = [0; 1 << 14];
        // A bound, so that a program that never stops talking cannot keep its end from being noticed.
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

    /// Hands lines that are events to the engine, and everything else to the log.
    pub(super) fn drain_lines(&mut self, log: &mut BoundedLog, say: &mut dyn FnMut(&[u8])) {
        let mut line = std::mem::replace(&mut self.line, Line::Begun(Vec::new()));
        self.drain(&mut |bytes| {
            for piece in bytes.split_inclusive(|byte| *byte == b'\n') {
                line.take(piece, log, say);
                if piece.ends_with(b"\n") {
                    line = Line::Begun(Vec::new());
                }
            }
        });
        self.line = line;
    }

    /// Ends a line that its program has not ended, so that nothing that comes later is taken for a part of it.
    pub(super) fn flush(&mut self, log: &mut BoundedLog, say: &mut dyn FnMut(&[u8])) {
        let mut line = std::mem::replace(&mut self.line, Line::Begun(Vec::new()));
        if !matches!(&line, Line::Begun(begun) if begun.is_empty()) {
            line.take(b"\n", log, say);
        }
    }
}

impl Line {
    /// Takes the next bytes, up to the end of the line.
    fn take(&mut self, piece: &[u8], log: &mut BoundedLog, say: &mut dyn FnMut(&[u8])) {
        let mut begun = Vec::new();
        let bytes = if let Line::Begun(before) = self {
            begun.append(before);
            begun.extend_from_slice(piece);
            if begun.len() < EVENT.len() && !begun.ends_with(b"\n") {
                *self = Line::Begun(begun);
                return;
            }
            *self = if begun.starts_with(EVENT) { Line::StageEvent } else { Line::Words };
            &begun
        } else {
            piece
        };
        if matches!(self, Line::StageEvent) { say(bytes) } else { log.write(bytes) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ablate_core::base::files;
    use std::io::Write;

    /// What reaches the engine and the log when a program says these pieces one after another and then ends.
    fn heard(pieces: &[&[u8]]) -> (String, String) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        let (mut log, mut said) = (BoundedLog::new(path.clone()), Vec::new());
        let (reader, mut writer) = std::io::pipe().unwrap();
        let mut stream = Stream::new(reader);
        for piece in pieces {
            writer.write_all(piece).unwrap();
            stream.drain_lines(&mut log, &mut |bytes| said.extend_from_slice(bytes));
        }
        stream.flush(&mut log, &mut |bytes| said.extend_from_slice(bytes));
        (String::from_utf8(said).unwrap(), files::read_text(&path).unwrap_or_default())
    }

    #[test]
    fn lines_go_where_they_belong_however_they_are_cut() {
        let text = b"words\n{\"event\":1}\n{\"ev\n\n{\"event\" 2\nend";
        let expected = ("{\"event\":1}\n{\"event\" 2\n".to_string(), "words\n{\"ev\n\nend\n".to_string());
        assert_eq!(heard(&[text]), expected);
        for cut in 0..text.len() {
            assert_eq!(heard(&[&text[..cut], &text[cut..]]), expected, "cut at {cut}");
        }
        let single: Vec<&[u8]> = text.chunks(1).collect();
        assert_eq!(heard(&single), expected);
    }

    #[test]
    fn an_event_of_many_mebibytes_arrives_whole_and_one_that_is_cut_ends() {
        let long = format!("{{\"event\":\"{}\"}}\n", "x".repeat(5 << 20));
        let pieces: Vec<&[u8]> = long.as_bytes().chunks(1 << 15).collect();
        assert!(heard(&pieces) == (long.clone(), String::new()));
        assert!(heard(&pieces[..7]) == (long[..7 << 15].to_string() + "\n", String::new()));
    }
}
