//! Hides secrets in the output of a job, in the forms in which programs print them.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use serde_json::value::RawValue;
use serde_json::{Map, Value};

mod forms;

use forms::forms;

/// The text that replaces a secret.
pub const MASK: &[u8] = b"***";

/// A set of values to hide. Its `Debug` output hides them too.
#[derive(Clone, Default)]
pub struct Mask {
    inner: Option<Arc<Secrets>>,
}

struct Secrets {
    /// The forms of the values, by their first byte. The longest first, so that of two with a common
    /// prefix the longer wins.
    by_first_byte: [Vec<Vec<u8>>; 256],
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
        for value in &self.by_first_byte[usize::from(*first)] {
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
    /// A mask for these values, each also escaped for JSON, in base64 and percent-encoded, and of a
    /// value of several lines also each line of eight characters or more. Empty values are ignored.
    pub fn new<'a>(values: impl IntoIterator<Item = &'a str>) -> Mask {
        let forms: BTreeSet<Vec<u8>> = values.into_iter().flat_map(forms).collect();
        if forms.is_empty() {
            return Mask::default();
        }
        let mut by_first_byte = [const { Vec::new() }; 256];
        for form in forms {
            by_first_byte[usize::from(form[0])].push(form);
        }
        for forms in &mut by_first_byte {
            forms.sort_by_key(|form: &Vec<u8>| std::cmp::Reverse(form.len()));
        }
        Mask {
            inner: Some(Arc::new(Secrets { by_first_byte })),
        }
    }

    /// Whether there is nothing to mask.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.inner.is_none()
    }

    /// Masks a whole text.
    pub fn text(&self, text: &str) -> String {
        let mut stream = MaskStream::new(self.clone());
        let mut out = Vec::new();
        stream.push(text.as_bytes(), &mut out);
        stream.finish(&mut out);
        String::from_utf8_lossy(&out).into_owned()
    }

    /// Masks the beginning of a text that continues, without its end if that may be a part of a secret.
    pub(super) fn beginning(&self, bytes: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        MaskStream::new(self.clone()).push(bytes, &mut out);
        out
    }

    /// Masks the names, and the keys, strings and numbers of the values. A value without a secret keeps
    /// its text, and so the digits of its numbers.
    pub(super) fn fields(&self, fields: &mut BTreeMap<String, Box<RawValue>>) {
        if self.is_empty() {
            return;
        }
        let masked = std::mem::take(fields).into_iter().map(|(name, raw)| {
            let raw = self.json(raw.get()).unwrap_or(raw);
            (self.text(&name), raw)
        });
        fields.extend(masked);
    }

    /// Masks a JSON text. `None` if it has no secret.
    fn json(&self, text: &str) -> Option<Box<RawValue>> {
        let value: Value = serde_json::from_str(text).ok()?;
        let mut masked = value.clone();
        self.value(&mut masked);
        let changed = (masked != value).then(|| masked.to_string());
        // digits of a number that were lost in `value`, or a secret that looks like JSON
        let written = changed.as_deref().unwrap_or(text);
        let without = self.text(written);
        if without != written {
            let whole = RawValue::from_string(without.clone());
            return whole
                .or_else(|_| RawValue::from_string(Value::String(without).to_string()))
                .ok();
        }
        RawValue::from_string(changed?).ok()
    }

    fn object(&self, object: &mut Map<String, Value>) {
        let masked = std::mem::take(object).into_iter().map(|(key, mut value)| {
            self.value(&mut value);
            (self.text(&key), value)
        });
        object.extend(masked);
    }

    fn value(&self, value: &mut Value) {
        match value {
            Value::String(text) => *text = self.text(text),
            Value::Number(number) => {
                let text = number.to_string();
                let masked = self.text(&text);
                if masked != text {
                    *value = Value::String(masked);
                }
            }
            Value::Array(items) => items.iter_mut().for_each(|item| self.value(item)),
            Value::Object(object) => self.object(object),
            Value::Null | Value::Bool(_) => {}
        }
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
        self.mask.is_empty()
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
    use proptest::prelude::*;

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
    fn each_long_line_of_a_secret_is_masked() {
        let key = "-----BEGIN KEY-----\nMIIEvQIBADANBg\n{\nshort\n-----END KEY-----\n";
        assert_eq!(masked(&[key], &["x", key, "y"]), "x***y");
        assert_eq!(
            masked(&[key], &["> MIIEvQIBADANBg\n> {\n> short\n"]),
            "> ***\n> {\n> short\n"
        );
    }

    #[test]
    fn encoded_secrets_are_masked() {
        for (secret, printed, expected) in [
            (
                r#"pa"ss\word"#,
                r#"{"token":"pa\"ss\\word"}"#,
                r#"{"token":"***"}"#,
            ),
            (
                "päß/wort",
                r#"{"token":"p\u00e4\u00df\/wort"}"#,
                r#"{"token":"***"}"#,
            ),
            ("hunter2 ß&x", "token=hunter2%20%C3%9F%26x;", "token=***;"),
            ("hunter2 ß&x", "token=hunter2+%c3%9f%26x;", "token=***;"),
            ("hunter2-hunter2", "aHVudGVyMi1odW50ZXIy", "***"),
            // user:hunter2-hunter2, of which the characters at the edges have bits of others too
            (
                "hunter2-hunter2",
                "dXNlcjpodW50ZXIyLWh1bnRlcjI=",
                "dXNlcjp***I=",
            ),
        ] {
            assert_eq!(masked(&[secret], &[printed]), expected);
        }
    }

    #[test]
    fn numbers_of_a_masked_message_keep_their_digits() {
        let shown = |json: &str| {
            let raw = RawValue::from_string(json.to_owned()).unwrap();
            let mut fields = BTreeMap::from([("a".to_owned(), raw)]);
            Mask::new(["12345678901234567890123", "4711"]).fields(&mut fields);
            fields["a"].get().to_owned()
        };
        assert_eq!(
            shown("[98765432109876543210987, 1.50]"),
            "[98765432109876543210987, 1.50]"
        );
        assert_eq!(shown("{\"pin\":4711}"), "{\"pin\":\"***\"}");
        assert_eq!(shown("12345678901234567890123"), "\"***\"");
    }

    proptest! {
        #[test]
        fn base64_of_a_secret_is_masked_within_any_bytes(
            secret in "[!-~äß]{8,40}",
            before in prop::collection::vec(any::<u8>(), 0..7),
            after in prop::collection::vec(any::<u8>(), 0..7),
        ) {
            let whole = [&before, secret.as_bytes(), &after].concat();
            for alphabet in [&base64::alphabet::STANDARD, &base64::alphabet::URL_SAFE] {
                let engine = base64::engine::GeneralPurpose::new(
                    alphabet,
                    base64::engine::general_purpose::PAD,
                );
                let encoded = base64::Engine::encode(&engine, &whole);
                let shown = Mask::new([secret.as_str()]).text(&encoded);
                // at most one character on each side has bits of the secret
                let rest = shown.replacen("***", "", 1).len();
                let hidden = encoded.len() - rest;
                prop_assert!(hidden * 6 + 24 >= secret.len() * 8, "{encoded} -> {shown}");
            }
        }

        #[test]
        fn no_string_of_a_masked_object_has_the_secret(
            secret in "[a-z\"\\\\ä]{8,20}",
            before in "[a-z]{0,4}",
        ) {
            let text = format!("{before}{secret}");
            let value = serde_json::json!([{ text.clone(): text.clone() }, 12]);
            let raw = RawValue::from_string(value.to_string()).unwrap();
            let mut fields = BTreeMap::from([(text, raw)]);
            Mask::new([secret.as_str()]).fields(&mut fields);
            let shown: String = fields
                .iter()
                .map(|(name, raw)| {
                    let value: Value = serde_json::from_str(raw.get()).unwrap();
                    format!("{name} {} {}", value[0], value[1])
                })
                .collect();
            prop_assert!(shown.ends_with(" 12"), "{shown}");
            let escaped = Value::String(secret.clone()).to_string();
            prop_assert!(!shown.contains(escaped.trim_matches('"')), "{shown}");
            prop_assert!(!shown.contains(&secret), "{shown}");
        }
    }

    #[test]
    fn without_secrets_the_output_is_unchanged() {
        assert_eq!(masked(&["", ""], &["ab", "c"]), "abc");
        assert!(!format!("{:?}", Mask::new(["pw"])).contains("pw"));
    }
}
