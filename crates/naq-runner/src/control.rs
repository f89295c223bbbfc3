//! The control channel, descriptor 3: one JSON object per line.

use std::collections::{BTreeMap, HashSet, VecDeque};

use super::mask::Mask;
use serde_json::Value;
use serde_json::value::RawValue;

/// One message of the control channel. The runner does not interpret it.
#[derive(Clone, Debug)]
pub struct ControlMessage {
    /// The fields of the JSON object. Each value is as the job wrote it, so that no number loses digits.
    pub fields: BTreeMap<String, Box<RawValue>>,
}

impl ControlMessage {
    /// Parses a line.
    ///
    /// # Errors
    /// Returns the parser's error if the line is no JSON object, or is nested too deeply for readers
    /// of the values.
    pub fn parse(line: &[u8]) -> Result<ControlMessage, serde_json::Error> {
        let fields: BTreeMap<String, Box<RawValue>> = serde_json::from_slice(line)?;
        for value in fields.values() {
            serde_json::from_str::<Value>(value.get())?;
        }
        Ok(ControlMessage { fields })
    }

    /// The value of a field. `None` if there is no such field.
    #[must_use]
    pub fn value(&self, name: &str) -> Option<Value> {
        serde_json::from_str(self.fields.get(name)?.get()).ok()
    }
}

/// Maximum number of queued messages.
const QUEUED_MESSAGES_MAX: usize = 1024;

/// Maximum total length of the lines of queued messages, in bytes.
const QUEUED_BYTES_MAX: usize = 4 * 1024 * 1024;

/// Maximum number of warnings kept for a job.
const WARNINGS_MAX: usize = 16;

/// How much of an invalid line a warning quotes, in bytes.
const QUOTED_BYTES_MAX: usize = 120;

/// Messages that wait for their reader, in the order in which the job wrote them. Bounded: in a
/// full queue, a value gives way to a later value of the same key, so that the last value of each
/// key always arrives.
#[derive(Debug, Default)]
pub(super) struct ControlQueue {
    messages: VecDeque<QueuedMessage>,
    /// Total length of the messages.
    bytes: usize,
    /// Messages that were dropped although no later one replaces them.
    dropped: u64,
}

#[derive(Debug)]
struct QueuedMessage {
    message: ControlMessage,
    /// Its length as a line, in bytes.
    bytes: usize,
}

impl ControlQueue {
    pub(super) fn is_empty(&self) -> bool {
        self.messages.is_empty()
    }

    fn push(&mut self, queued: QueuedMessage) {
        self.bytes += queued.bytes;
        self.messages.push_back(queued);
        if self.exceeds(QUEUED_MESSAGES_MAX, QUEUED_BYTES_MAX) {
            self.drop_superseded();
        }
    }

    /// Moves the messages of another queue to the end of this one.
    pub(super) fn append(&mut self, later: ControlQueue) {
        self.dropped += later.dropped;
        for queued in later.messages {
            self.push(queued);
        }
    }

    /// Removes and returns the oldest message.
    pub(super) fn pop(&mut self) -> Option<ControlMessage> {
        let queued = self.messages.pop_front()?;
        self.bytes -= queued.bytes;
        Some(queued.message)
    }

    /// Ends the queue. Returns its messages, and a warning if some were dropped.
    pub(super) fn finish(self) -> (Vec<ControlMessage>, Option<String>) {
        let warning = (self.dropped > 0).then(|| {
            format!(
                "control messages came faster than they were read: {} were dropped",
                self.dropped
            )
        });
        let messages = self.messages.into_iter().map(|queued| queued.message);
        (messages.collect(), warning)
    }

    fn exceeds(&self, messages: usize, bytes: usize) -> bool {
        self.messages.len() > messages || self.bytes > bytes
    }

    /// Removes every value that has a later one of the same key. The order of what remains is
    /// unchanged, so a reader ends with the same values. If all keys differ, the oldest messages
    /// are dropped, half of the queue at once: this walk must not follow on every message.
    fn drop_superseded(&mut self) {
        let mut seen = HashSet::new();
        let mut kept = VecDeque::new();
        self.bytes = 0;
        for mut queued in std::mem::take(&mut self.messages).into_iter().rev() {
            let fields = &mut queued.message.fields;
            let keys_before = fields.len();
            fields.retain(|key, _| !seen.contains(key));
            if fields.is_empty() {
                continue;
            }
            seen.extend(fields.keys().cloned());
            if fields.len() < keys_before {
                queued.bytes = serde_json::to_string(fields).map_or(0, |line| line.len());
            }
            self.bytes += queued.bytes;
            kept.push_front(queued);
        }
        self.messages = kept;
        // the last one stays, however long its line is
        while self.messages.len() > 1 && self.exceeds(QUEUED_MESSAGES_MAX / 2, QUEUED_BYTES_MAX / 2)
        {
            if self.pop().is_none() {
                return;
            }
            self.dropped += 1;
        }
    }
}

/// Splits the stream into lines and parses them.
#[derive(Debug)]
pub(super) struct ControlReader {
    line: Vec<u8>,
    line_bytes_max: usize,
    /// What to hide. It is applied to decoded messages, in which no escape can hide a secret from it.
    mask: Mask,
    /// Whether the rest of an over-long line is being skipped.
    skipping: bool,
    messages: ControlQueue,
    warnings: Vec<String>,
    warnings_dropped: u64,
}

impl ControlReader {
    pub(super) fn new(line_bytes_max: usize, mask: Mask) -> ControlReader {
        ControlReader {
            line: Vec::new(),
            line_bytes_max,
            mask,
            skipping: false,
            messages: ControlQueue::default(),
            warnings: Vec::new(),
            warnings_dropped: 0,
        }
    }

    /// Adds a piece of the stream. Returns true if messages are queued.
    pub(super) fn push(&mut self, mut piece: &[u8]) -> bool {
        while let Some(end) = piece.iter().position(|b| *b == b'\n') {
            self.append_to_line(&piece[..end]);
            self.end_line();
            piece = &piece[end + 1..];
        }
        self.append_to_line(piece);
        !self.messages.is_empty()
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
    pub(super) fn take_messages(&mut self) -> ControlQueue {
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
            let mut start = std::mem::take(&mut self.line);
            start.extend_from_slice(&part[..part.len().min(self.line_bytes_max)]);
            let start = quoted(&self.mask.beginning(&start));
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
        match ControlMessage::parse(&line) {
            Ok(mut message) => {
                self.mask.fields(&mut message.fields);
                self.messages.push(QueuedMessage {
                    message,
                    bytes: line.len(),
                });
            }
            Err(e) => {
                let line = String::from_utf8_lossy(&line);
                let line = quoted(self.mask.text(&line).as_bytes());
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
    use proptest::prelude::*;

    type Fields = BTreeMap<String, String>;

    fn objects(queue: ControlQueue) -> Vec<Fields> {
        let (messages, _) = queue.finish();
        let texts = |message: ControlMessage| {
            let fields = message.fields.into_iter();
            fields
                .map(|(key, value)| (key, value.get().to_owned()))
                .collect()
        };
        messages.into_iter().map(texts).collect()
    }

    #[test]
    fn control_values_keep_their_text_and_are_not_nested_too_deeply() {
        let line = br#"{"result": {"b":12345678901234567890123, "a":1.50}}"#;
        let message = ControlMessage::parse(line).unwrap();
        assert_eq!(
            message.fields["result"].get(),
            r#"{"b":12345678901234567890123, "a":1.50}"#
        );
        let deep = format!("{{\"result\":{}1{}}}", "[".repeat(200), "]".repeat(200));
        assert!(ControlMessage::parse(deep.as_bytes()).is_err());
    }

    #[test]
    fn a_control_line_is_a_message_or_a_warning() {
        let mut reader = ControlReader::new(64, Mask::default());
        assert!(!reader.push(b"{\"progress\""));
        assert!(reader.push(b": 40}\nnot json\n[1]\n\n  \n{\"a\": 1}"));
        assert_eq!(objects(reader.take_messages()).len(), 1);
        reader.push(&[b'x'; 100]);
        reader.push(b"tail\n{\"b\": 2}");
        reader.finish();
        let objects = objects(reader.take_messages());
        assert_eq!(objects.len(), 1);
        assert_eq!(objects[0]["b"], "2");
        let warnings = reader.take_warnings();
        assert_eq!(warnings.len(), 3, "{warnings:?}");
        assert!(warnings[2].contains("more than 64 bytes"), "{warnings:?}");
    }

    #[test]
    fn queued_messages_and_warnings_are_bounded() {
        let mut reader = ControlReader::new(QUEUED_BYTES_MAX, Mask::default());
        for number in 0..10_000 {
            reader.push(format!("bad\n{{\"key{number}\":1}}\n").as_bytes());
        }
        reader.finish();
        assert!(reader.take_warnings().len() <= WARNINGS_MAX + 1);
        let (messages, warning) = reader.take_messages().finish();
        assert!(messages.len() <= QUEUED_MESSAGES_MAX);
        let dropped = 10_000 - messages.len();
        assert!(
            warning
                .unwrap()
                .contains(&format!("{dropped} were dropped"))
        );
        // values that fill the queue long before their number does
        let value = "x".repeat(QUEUED_BYTES_MAX / 5);
        for key in 0..20 {
            reader.push(format!("{{\"key{key}\":\"{value}\"}}\n").as_bytes());
        }
        let queue = reader.take_messages();
        assert!(queue.bytes <= QUEUED_BYTES_MAX);
        assert_eq!(
            objects(queue).last().unwrap().keys().next().unwrap(),
            "key19"
        );
    }

    proptest! {
        /// A key's last value arrives, and keys arrive in the order of their last values.
        #[test]
        fn the_last_value_of_each_key_survives_a_flood(
            lines in prop::collection::vec(
                prop::collection::btree_map("[abc]", 0_u32..1000, 1..3),
                1..40,
            ),
            repeats in prop::collection::vec(1_usize..400, 40),
        ) {
            let mut queue = ControlQueue::default();
            let mut every = Vec::new();
            for (line, repeat) in lines.iter().zip(repeats) {
                let object: Fields =
                    line.iter().map(|(key, value)| (key.clone(), value.to_string())).collect();
                let parsed = ControlMessage::parse(&serde_json::to_vec(line).unwrap()).unwrap();
                for _ in 0..repeat {
                    every.push(object.clone());
                    queue.push(QueuedMessage { message: parsed.clone(), bytes: 10 });
                    prop_assert!(queue.messages.len() <= QUEUED_MESSAGES_MAX);
                }
            }
            let last_values = |objects: &[Fields]| -> Vec<(String, String)> {
                let mut last: Vec<(String, String)> = Vec::new();
                for (key, value) in objects.iter().flatten() {
                    last.retain(|(seen, _)| seen != key);
                    last.push((key.clone(), value.clone()));
                }
                last
            };
            prop_assert_eq!(queue.dropped, 0);
            prop_assert_eq!(last_values(&objects(queue)), last_values(&every));
        }
    }
}
