//! Hides secrets in the output of a job.

use std::fmt;
use std::sync::Arc;

/// The text that replaces a secret.
pub const MASK: &[u8] = b"***";

/// A set of values to hide. Its `Debug` output hides them too.
#[derive(Clone, Default)]
pub struct Mask {
    inner: Option<Arc<Secrets>>,
}

struct Secrets {
    /// Longest first, so that of two values with a common prefix the longer wins.
    values: Vec<Vec<u8>>,
    /// Whether a byte is the first of some value.
    first: [bool; 256],
}

impl fmt::Debug for Mask {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Mask(…)")
    }
}

/// What starts at a position of the stream.
enum SecretMatch {
    NoMatch,
    Full(usize),
    /// A prefix of a value: more bytes decide.
    Partial,
}

impl Secrets {
    fn find(&self, bytes: &[u8], expect_more: bool) -> SecretMatch {
        let Some(first) = bytes.first() else {
            return SecretMatch::NoMatch;
        };
        if !self.first[usize::from(*first)] {
            return SecretMatch::NoMatch;
        }
        for value in &self.values {
            if bytes.starts_with(value) {
                return SecretMatch::Full(value.len());
            }
            // A longer value may still complete, so wait for it before a shorter one
            // is replaced.
            if expect_more && value.starts_with(bytes) {
                return SecretMatch::Partial;
            }
        }
        SecretMatch::NoMatch
    }
}

impl Mask {
    /// A mask for these values. Empty values are ignored.
    pub fn new<'a>(values: impl IntoIterator<Item = &'a str>) -> Mask {
        let mut values: Vec<Vec<u8>> = values
            .into_iter()
            .filter(|value| !value.is_empty())
            .map(|value| value.as_bytes().to_vec())
            .collect();
        if values.is_empty() {
            return Mask::default();
        }
        values.sort_by_key(|value| std::cmp::Reverse(value.len()));
        let mut first = [false; 256];
        for value in &values {
            first[usize::from(value[0])] = true;
        }
        Mask {
            inner: Some(Arc::new(Secrets { values, first })),
        }
    }

    /// Masks a whole text.
    pub fn text(&self, text: &str) -> String {
        let mut stream = MaskStream::new(self.clone());
        let mut out = Vec::new();
        stream.push(text.as_bytes(), &mut out);
        stream.finish(&mut out);
        String::from_utf8_lossy(&out).into_owned()
    }
}

/// Masks a stream that arrives in pieces. Bytes that may be the beginning of a
/// secret stay pending until more bytes decide.
#[derive(Debug)]
pub(super) struct MaskStream {
    mask: Mask,
    pending: Vec<u8>,
}

impl MaskStream {
    pub(super) fn new(mask: Mask) -> MaskStream {
        MaskStream {
            mask,
            pending: Vec::new(),
        }
    }

    /// Whether there is nothing to mask, so that pieces can be used as they are.
    pub(super) fn is_transparent(&self) -> bool {
        self.mask.inner.is_none()
    }

    /// Adds `piece` and appends to `out` what is decided.
    pub(super) fn push(&mut self, piece: &[u8], out: &mut Vec<u8>) {
        self.mask_chunk(piece, true, out);
    }

    /// Ends the stream and appends the pending bytes.
    pub(super) fn finish(&mut self, out: &mut Vec<u8>) {
        self.mask_chunk(&[], false, out);
    }

    fn mask_chunk(&mut self, piece: &[u8], expect_more: bool, out: &mut Vec<u8>) {
        let Some(secrets) = &self.mask.inner else {
            out.extend_from_slice(piece);
            return;
        };
        let joined;
        let bytes = if self.pending.is_empty() {
            piece
        } else {
            self.pending.extend_from_slice(piece);
            joined = std::mem::take(&mut self.pending);
            &joined
        };
        let mut at = 0;
        let mut plain = 0;
        while at < bytes.len() {
            match secrets.find(&bytes[at..], expect_more) {
                SecretMatch::NoMatch => at += 1,
                SecretMatch::Full(length) => {
                    out.extend_from_slice(&bytes[plain..at]);
                    out.extend_from_slice(MASK);
                    at += length;
                    plain = at;
                }
                SecretMatch::Partial => {
                    out.extend_from_slice(&bytes[plain..at]);
                    self.pending = bytes[at..].to_vec();
                    return;
                }
            }
        }
        out.extend_from_slice(&bytes[plain..]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn masked(values: &[&str], pieces: &[&str]) -> String {
        let mut stream = MaskStream::new(Mask::new(values.iter().copied()));
        let mut out = Vec::new();
        for piece in pieces {
            stream.push(piece.as_bytes(), &mut out);
        }
        stream.finish(&mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn secrets_are_masked_wherever_the_stream_is_cut() {
        let text = "a hunter2 b hunter hunter2hunter22 hunte";
        let whole = masked(&["hunter2"], &[text]);
        assert_eq!(whole, "a *** b hunter ******2 hunte");
        for cut in 0..text.len() {
            let (left, right) = text.split_at(cut);
            assert_eq!(masked(&["hunter2"], &[left, right]), whole, "cut at {cut}");
        }
        let bytes: Vec<String> = text.chars().map(String::from).collect();
        let bytes: Vec<&str> = bytes.iter().map(String::as_str).collect();
        assert_eq!(masked(&["hunter2"], &bytes), whole);
    }

    #[test]
    fn the_longer_of_two_secrets_with_a_common_prefix_wins() {
        assert_eq!(
            masked(&["abc", "abcdef"], &["abcd", "ef abc", "d"]),
            "*** ***d"
        );
    }

    #[test]
    fn without_secrets_the_output_is_unchanged() {
        assert_eq!(masked(&["", ""], &["ab", "c"]), "abc");
        assert!(!format!("{:?}", Mask::new(["pw"])).contains("pw"));
    }
}
