//! The control channel, descriptor 3: one JSON object per line.

use serde_json::{Map, Value};

/// One message of the control channel. The runner does not interpret it.
#[derive(Clone, Debug, PartialEq)]
pub struct ControlMessage {
    /// The JSON object.
    pub object: Map<String, Value>,
}

/// Maximum number of queued messages.
const QUEUED_MESSAGES_MAX: usize = 1024;

/// Maximum total length of the lines of queued messages, in bytes.
const QUEUED_BYTES_MAX: usize = 4 * 1024 * 1024;

/// Maximum number of warnings kept for a job.
const WARNINGS_MAX: usize = 16;

/// How much of an invalid line a warning quotes, in bytes.
const QUOTED_BYTES_MAX: usize = 120;

/// Splits the stream into lines and parses them.
#[derive(Debug)]
pub(super) struct ControlReader {
    line: Vec<u8>,
    line_bytes_max: usize,
    /// Whether the rest of an over-long line is being skipped.
    skipping: bool,
    messages: Vec<ControlMessage>,
    messages_bytes: usize,
    warnings: Vec<String>,
    warnings_dropped: u64,
}

impl ControlReader {
    pub(super) fn new(line_bytes_max: usize) -> ControlReader {
        ControlReader {
            line: Vec::new(),
            line_bytes_max,
            skipping: false,
            messages: Vec::new(),
            messages_bytes: 0,
            warnings: Vec::new(),
            warnings_dropped: 0,
        }
    }

    /// Adds a piece of the stream. Returns true if it completed a message.
    pub(super) fn push(&mut self, mut piece: &[u8]) -> bool {
        let before = self.messages.len();
        while let Some(end) = piece.iter().position(|b| *b == b'\n') {
            self.append_to_line(&piece[..end]);
            self.end_line();
            piece = &piece[end + 1..];
        }
        self.append_to_line(piece);
        self.messages.len() > before
    }

    /// Ends the stream. The last line needs no line break.
    pub(super) fn finish(&mut self) {
        self.end_line();
        if self.warnings_dropped > 0 {
            let more = format!("and {} more warnings", self.warnings_dropped);
            self.warnings.push(more);
            self.warnings_dropped = 0;
        }
    }

    /// Removes and returns the queued messages.
    pub(super) fn take_messages(&mut self) -> Vec<ControlMessage> {
        self.messages_bytes = 0;
        std::mem::take(&mut self.messages)
    }

    /// Removes and returns the warnings.
    pub(super) fn take_warnings(&mut self) -> Vec<String> {
        std::mem::take(&mut self.warnings)
    }

    fn append_to_line(&mut self, part: &[u8]) {
        if self.skipping {
            return;
        }
        if self.line.len() + part.len() > self.line_bytes_max {
            self.skipping = true;
            let start = quoted(if self.line.is_empty() {
                part
            } else {
                &self.line
            });
            self.line = Vec::new();
            let max = self.line_bytes_max;
            self.warn(format!(
                "a control line of more than {max} bytes was dropped: {start}"
            ));
            return;
        }
        self.line.extend_from_slice(part);
    }

    fn end_line(&mut self) {
        if std::mem::take(&mut self.skipping) {
            return;
        }
        let mut line = std::mem::take(&mut self.line);
        if line.iter().all(u8::is_ascii_whitespace) {
            return;
        }
        match serde_json::from_slice::<Map<String, Value>>(&line) {
            Ok(object) => {
                let fits = self.messages.len() < QUEUED_MESSAGES_MAX
                    && self.messages_bytes + line.len() <= QUEUED_BYTES_MAX;
                if fits {
                    self.messages_bytes += line.len();
                    self.messages.push(ControlMessage { object });
                } else {
                    self.warn(
                        "control messages came faster than they were taken: one was dropped"
                            .to_owned(),
                    );
                }
            }
            Err(e) => {
                let line = quoted(&line);
                self.warn(format!("a control line is not a JSON object ({e}): {line}"));
            }
        }
        line.clear();
        self.line = line;
    }

    fn warn(&mut self, warning: String) {
        if self.warnings.len() < WARNINGS_MAX {
            self.warnings.push(warning);
        } else {
            self.warnings_dropped += 1;
        }
    }
}

fn quoted(line: &[u8]) -> String {
    let cut = &line[..line.len().min(QUOTED_BYTES_MAX)];
    String::from_utf8_lossy(cut).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_control_line_is_a_message_or_a_warning() {
        let mut reader = ControlReader::new(64);
        assert!(!reader.push(b"{\"progress\""));
        assert!(reader.push(b": 40}\nnot json\n[1]\n\n  \n{\"a\": 1}"));
        assert_eq!(reader.take_messages().len(), 1);
        reader.push(&[b'x'; 100]);
        reader.push(b"tail\n{\"b\": 2}");
        reader.finish();
        let objects: Vec<_> = reader
            .take_messages()
            .into_iter()
            .map(|m| m.object)
            .collect();
        assert_eq!(objects.len(), 1);
        assert_eq!(objects[0]["b"], 2);
        let warnings = reader.take_warnings();
        assert_eq!(warnings.len(), 3, "{warnings:?}");
        assert!(warnings[2].contains("more than 64 bytes"), "{warnings:?}");
    }

    #[test]
    fn queued_messages_and_warnings_are_bounded() {
        let mut reader = ControlReader::new(64);
        for _ in 0..10_000 {
            reader.push(b"bad\n{\"a\":1}\n");
        }
        reader.finish();
        assert!(reader.take_messages().len() <= QUEUED_MESSAGES_MAX);
        assert!(reader.take_warnings().len() <= WARNINGS_MAX + 1);
    }
}
