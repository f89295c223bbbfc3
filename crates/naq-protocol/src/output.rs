//! The captured output of a job.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::lenient;
use crate::unknown_fields::{UnknownFields, keeps_unknown_fields};

/// One captured output stream. If it was longer than its limit, `text` or `base64` holds its head
/// and `tail` its end in the same form. If what was kept does not fit into the record, `object` names
/// it, and `text` or `base64` holds only its beginning.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(remote = "Self")]
pub struct CapturedOutput {
    /// The bytes as text, if they are UTF-8.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
    /// The bytes in base64, if they are not UTF-8.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub base64: Option<String>,
    /// The end of a truncated output, as text or base64 like the head.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tail: Option<String>,
    /// The number of bytes that the job wrote.
    #[serde(deserialize_with = "lenient::integer")]
    pub bytes: u64,
    /// Whether bytes between head and tail are missing.
    #[serde(
        default,
        deserialize_with = "lenient::or_default",
        skip_serializing_if = "std::ops::Not::not"
    )]
    pub truncated: bool,
    /// The number of bytes between head and tail that are missing. Absent if none are, and in a
    /// record of an earlier version.
    #[serde(
        default,
        deserialize_with = "lenient::optional_integer",
        skip_serializing_if = "Option::is_none"
    )]
    pub missing_bytes: Option<u64>,
    /// The object in the bucket `naq_files` that holds everything that was kept.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub object: Option<String>,
    /// The length of the head in the object, in bytes; the tail follows. Absent unless the output is
    /// truncated and in an object.
    #[serde(
        default,
        deserialize_with = "lenient::optional_integer",
        skip_serializing_if = "Option::is_none"
    )]
    pub object_head_bytes: Option<u64>,
    /// The fields that this version of naq does not define.
    #[serde(
        flatten,
        skip_deserializing,
        skip_serializing_if = "UnknownFields::is_empty"
    )]
    #[schemars(skip)]
    pub unknown: UnknownFields,
}

keeps_unknown_fields!(CapturedOutput);

impl CapturedOutput {
    /// Builds it from the captured head and tail of a stream. `bytes` is the length of the whole
    /// stream, and `missing_bytes` the number of bytes between head and tail that were not captured.
    #[must_use]
    pub fn new(
        mut head: Vec<u8>,
        mut tail: Vec<u8>,
        bytes: u64,
        missing_bytes: u64,
    ) -> CapturedOutput {
        let truncated = missing_bytes > 0;
        let captured = head.len() + tail.len();
        if truncated {
            // A cut in the middle of a character would make text invalid UTF-8.
            trim_to_characters(&mut head, &mut tail);
        } else {
            head.append(&mut tail);
        }
        let trimmed = captured - head.len() - tail.len();
        let mut output = CapturedOutput {
            bytes,
            truncated,
            missing_bytes: truncated.then_some(missing_bytes + trimmed as u64),
            ..CapturedOutput::default()
        };
        match (String::from_utf8(head), String::from_utf8(tail)) {
            (Ok(head), Ok(tail)) => {
                output.text = Some(head);
                output.tail = truncated.then_some(tail);
            }
            (head, tail) => {
                let raw = |part: Result<String, std::string::FromUtf8Error>| match part {
                    Ok(text) => STANDARD.encode(text),
                    Err(error) => STANDARD.encode(error.as_bytes()),
                };
                output.base64 = Some(raw(head));
                output.tail = truncated.then(|| raw(tail));
            }
        }
        output
    }

    /// The last characters of what was captured, in at most this number of bytes. Bytes that are no UTF-8
    /// become replacement characters.
    #[must_use]
    pub fn last_text(&self, bytes_max: usize) -> String {
        let mut end = self.tail_bytes();
        if end.len() < bytes_max && !self.truncated {
            end = self.head_bytes();
        }
        let start = end.len().saturating_sub(bytes_max);
        let mut end = &end[start..];
        // the rest of a character that the cut has split
        while start > 0
            && end
                .first()
                .is_some_and(|byte| byte & 0b1100_0000 == 0b1000_0000)
        {
            end = &end[1..];
        }
        let text = String::from_utf8_lossy(end);
        // a replacement character is longer than the byte that it replaces
        let surplus = text.len().saturating_sub(bytes_max);
        let cut = (surplus..=text.len()).find(|at| text.is_char_boundary(*at));
        text[cut.unwrap_or(text.len())..].to_owned()
    }

    /// The bytes of the head; all bytes if the output is not truncated.
    #[must_use]
    pub fn head_bytes(&self) -> Vec<u8> {
        match (&self.text, &self.base64) {
            (Some(text), _) => text.as_bytes().to_vec(),
            (None, Some(base64)) => STANDARD.decode(base64).unwrap_or_default(),
            (None, None) => Vec::new(),
        }
    }

    /// The bytes of the tail; empty if the output is not truncated.
    #[must_use]
    pub fn tail_bytes(&self) -> Vec<u8> {
        match (&self.tail, &self.text) {
            (None, _) => Vec::new(),
            (Some(tail), Some(_)) => tail.as_bytes().to_vec(),
            (Some(tail), None) => STANDARD.decode(tail).unwrap_or_default(),
        }
    }
}

/// Removes a partial character at either side of a cut: at most three bytes each.
fn trim_to_characters(head: &mut Vec<u8>, tail: &mut Vec<u8>) {
    if let Err(error) = std::str::from_utf8(head)
        && error.error_len().is_none()
    {
        head.truncate(error.valid_up_to());
    }
    let continuation = tail
        .iter()
        .take(3)
        .take_while(|byte| **byte & 0b1100_0000 == 0b1000_0000)
        .count();
    tail.drain(..continuation);
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn output_that_is_not_text_reads_back() {
        let bytes = vec![0xff, 0, 1, 0xfe];
        let output = CapturedOutput::new(bytes.clone(), Vec::new(), 4, 0);
        assert!(output.text.is_none());
        assert_eq!(output.head_bytes(), bytes);
    }

    #[test]
    fn output_cut_inside_a_character_stays_text() {
        let text = "äöü".as_bytes();
        let output = CapturedOutput::new(text[..3].to_vec(), text[3..].to_vec(), 106, 100);
        assert_eq!(output.text.as_deref(), Some("ä"));
        assert_eq!(output.tail.as_deref(), Some("ü"));
        // the halves of the character in the middle are missing too
        assert_eq!(output.missing_bytes, Some(102));
    }

    #[test]
    fn the_last_text_of_an_output_begins_with_a_whole_character() {
        let whole = CapturedOutput::new("aäöü".into(), Vec::new(), 7, 0);
        assert_eq!(whole.last_text(100), "aäöü");
        assert_eq!(whole.last_text(5), "öü");
        let cut = CapturedOutput::new(b"head".to_vec(), b"tail".to_vec(), 100, 92);
        assert_eq!(cut.last_text(100), "tail");
        let binary = CapturedOutput::new(vec![b'x', 0xff], Vec::new(), 2, 0);
        assert_eq!(binary.last_text(100), "x\u{fffd}");
    }

    proptest! {
        #[test]
        fn the_last_text_of_an_output_is_bounded(bytes in proptest::collection::vec(any::<u8>(), 0..300), bytes_max in 0_usize..300) {
            let output = CapturedOutput::new(bytes.clone(), Vec::new(), bytes.len() as u64, 0);
            prop_assert!(output.last_text(bytes_max).len() <= bytes_max);
        }

        #[test]
        fn whole_output_is_kept_byte_for_byte(bytes in proptest::collection::vec(any::<u8>(), 0..300), cut in 0_usize..300) {
            let cut = cut.min(bytes.len());
            let output = CapturedOutput::new(bytes[..cut].to_vec(), bytes[cut..].to_vec(), bytes.len() as u64, 0);
            prop_assert_eq!(output.head_bytes(), bytes);
        }
    }
}
