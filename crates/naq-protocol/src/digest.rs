//! Whether two envelopes are the same, by their bytes or by their meaning, and digests of texts.

use serde_json::Value;

use crate::envelope::Envelope;

impl Envelope {
    /// The digest of an envelope's bytes without surrounding white space: the first eight bytes of
    /// their SHA-256, in hexadecimal.
    #[must_use]
    pub fn digest(bytes: &[u8]) -> String {
        use sha2::Digest;
        let digest = sha2::Sha256::digest(bytes.trim_ascii());
        let mut text = String::with_capacity(16);
        for byte in &digest[..8] {
            text.push_str(&format!("{byte:02x}"));
        }
        text
    }
}

/// The first 16 bytes of the SHA-256 of a text. Nobody can choose two texts that have the same.
pub type ShortDigest = [u8; 16];

/// The short digest of a text, to keep in place of the text.
#[must_use]
pub fn short_digest(text: &str) -> ShortDigest {
    use sha2::Digest;
    let mut short = ShortDigest::default();
    let length = short.len();
    short.copy_from_slice(&sha2::Sha256::digest(text)[..length]);
    short
}

/// Whether two envelopes are equivalent: their JSON values are equal, or they describe the same job
/// with durations, sizes or dependencies in different notations. Arguments have to have the same text,
/// which is what the program receives: `1.5` and `1.50` differ.
#[must_use]
pub fn is_equivalent(one: &[u8], other: &[u8]) -> bool {
    if one == other {
        return true;
    }
    let values = |bytes| serde_json::from_slice::<Value>(bytes).ok();
    let meanings = |bytes| serde_json::to_value(Envelope::parse(bytes).ok()?).ok();
    let both_are = |one: Option<Value>, other| one.is_some() && one == other;
    let args = |bytes| Some(Envelope::parse(bytes).ok()?.command_args());
    (both_are(values(one), values(other)) || both_are(meanings(one), meanings(other)))
        && args(one) == args(other)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn envelopes_in_different_notations_are_equivalent() {
        let one = br#"{"command":"a","timeout":"300ms","depends_on":[{"job":"b","on":"success"}]}"#;
        let other = br#"{"depends_on":["b"],"timeout":0.3,"command":"a","args":[]}"#;
        let another = br#"{"command":"a","timeout":"301ms","depends_on":["b"]}"#;
        assert!(is_equivalent(one, other));
        assert!(!is_equivalent(one, another));
        assert!(is_equivalent(b"{\"command\": 7}", b"{\"command\":7}"));
        // These are the same number to a parser that reads doubles.
        let long = br#"{"command":"a","args":[12345678901234567890123]}"#;
        let longer = br#"{"command":"a","args":[12345678901234567890124]}"#;
        assert!(!is_equivalent(long, longer));
        let spaced = br#"{ "command":"a","args":[ 12345678901234567890123 ]}"#;
        assert!(is_equivalent(long, spaced));
        let later = br#"{"command":"a","colour":1}"#;
        assert!(!is_equivalent(later, br#"{"command":"a","colour":2}"#));
    }
}
