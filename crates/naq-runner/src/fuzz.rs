//! What the fuzz targets check of this crate, with any bytes. `fuzz/README.md` says how they are run;
//! the test replays the corpus.

use crate::control::ControlReader;
use crate::mask::Mask;

/// Longest line of the control channel, short enough for a fuzzer to exceed it.
const LINE_BYTES_MAX: usize = 256;

/// A secret of the job.
const SECRET: &str = "pa\"ss\\w\u{f6}rd";

/// What a job writes to the control channel. The first byte says in which pieces it arrives; the
/// messages must not depend on it.
pub fn control(bytes: &[u8]) {
    let Some((piece_bytes, stream)) = bytes.split_first() else {
        return;
    };
    let whole = read(stream, stream.len().max(1));
    let in_pieces = read(stream, usize::from(*piece_bytes).max(1));
    assert_eq!(whole, in_pieces, "the pieces change the messages");
    let (messages, _) = whole;
    for message in messages {
        let value: Result<serde_json::Value, _> = serde_json::from_str(&message);
        let shown = value.map(|value| strings(&value)).unwrap_or_default();
        assert!(!shown.contains(SECRET), "a secret shows: {message}");
    }
}

/// All strings and keys, each on its line.
fn strings(value: &serde_json::Value) -> String {
    use serde_json::Value;
    match value {
        Value::String(text) => format!("{text}\n"),
        Value::Array(items) => items.iter().map(strings).collect(),
        Value::Object(object) => {
            let texts = object
                .iter()
                .map(|(key, value)| format!("{key}\n{}", strings(value)));
            texts.collect()
        }
        Value::Null | Value::Bool(_) | Value::Number(_) => String::new(),
    }
}

/// The messages and the number of warnings.
fn read(stream: &[u8], piece_bytes: usize) -> (Vec<String>, usize) {
    let mut reader = ControlReader::new(LINE_BYTES_MAX, Mask::new([SECRET]));
    for piece in stream.chunks(piece_bytes) {
        reader.push(piece);
    }
    reader.finish();
    let (messages, _) = reader.take_messages().finish();
    let messages = messages
        .into_iter()
        .filter_map(|message| serde_json::to_string(&message.fields).ok())
        .collect();
    (messages, reader.take_warnings().len())
}

#[cfg(test)]
#[path = "../../../fuzz/replay.rs"]
mod corpus;

#[cfg(test)]
mod tests {
    use super::corpus::replay;

    #[test]
    fn the_fuzz_corpus_holds() {
        replay("control", super::control);
    }
}
