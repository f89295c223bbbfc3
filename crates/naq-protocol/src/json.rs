//! The first check of bytes that should be JSON.
//!
//! `serde_json` accepts duplicate keys in a map and nests to 128 levels. An envelope may do neither,
//! since two readers could then disagree on its meaning. This pass reads the text once, keeps
//! nothing, and reports the path and position of an error.

use std::cell::RefCell;
use std::collections::HashSet;
use std::fmt;
use std::rc::Rc;

use serde::de::{self, DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};

use crate::error::{EnvelopeError, RejectReason};
use crate::text::excerpt;

/// The most levels of nesting in an envelope. The envelope itself is level 1.
pub const DEPTH_MAX: usize = 64;

/// Checks that `bytes` are one JSON object in UTF-8, without duplicate keys, nested at most
/// [`DEPTH_MAX`] levels deep. Returns it as text.
///
/// # Errors
/// Returns [`EnvelopeError`] with the path and the position of the first error.
pub(crate) fn check_object(bytes: &[u8]) -> Result<&str, EnvelopeError> {
    let text = std::str::from_utf8(bytes).map_err(|error| {
        EnvelopeError::new(
            RejectReason::Invalid,
            "",
            format!("not UTF-8 at byte {}", error.valid_up_to()),
        )
    })?;
    if text.trim().is_empty() {
        return Err(EnvelopeError::new(RejectReason::Invalid, "", "empty"));
    }
    let path = Rc::new(RefCell::new(Vec::new()));
    let mut deserializer = serde_json::Deserializer::from_str(text);
    // The limit of serde_json does not name the path; ours is lower, so it applies first.
    let checked = JsonVisitor {
        path: &path,
        depth: 0,
    }
    .deserialize(&mut deserializer)
    .and_then(|()| deserializer.end());
    if let Err(error) = checked {
        return Err(EnvelopeError::new(
            RejectReason::Invalid,
            render(&path.borrow()),
            error.to_string(),
        ));
    }
    if !text.trim_start().starts_with('{') {
        return Err(EnvelopeError::new(
            RejectReason::Invalid,
            "",
            "not a JSON object",
        ));
    }
    Ok(text)
}

enum PathSegment {
    Key(String),
    Index(usize),
}

fn render(path: &[PathSegment]) -> String {
    let mut text = String::new();
    for step in path {
        match step {
            PathSegment::Key(key) if text.is_empty() => text.push_str(&excerpt(key)),
            PathSegment::Key(key) => {
                text.push('.');
                text.push_str(&excerpt(key));
            }
            PathSegment::Index(index) => text.push_str(&format!("[{index}]")),
        }
        if text.len() > 200 {
            text.push('…');
            break;
        }
    }
    text
}

/// Visits one value. After a valid value the path is as before; after an invalid one it points to
/// the error.
#[derive(Clone, Copy)]
struct JsonVisitor<'p> {
    path: &'p Rc<RefCell<Vec<PathSegment>>>,
    depth: usize,
}

impl JsonVisitor<'_> {
    fn deeper<E: de::Error>(self) -> Result<Self, E> {
        if self.depth == DEPTH_MAX {
            return Err(E::custom(format!("nested deeper than {DEPTH_MAX} levels")));
        }
        Ok(JsonVisitor {
            path: self.path,
            depth: self.depth + 1,
        })
    }
}

impl<'de> DeserializeSeed<'de> for JsonVisitor<'_> {
    type Value = ();
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for JsonVisitor<'_> {
    type Value = ();
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }
    fn visit_bool<E>(self, _: bool) -> Result<(), E> {
        Ok(())
    }
    fn visit_i64<E>(self, _: i64) -> Result<(), E> {
        Ok(())
    }
    fn visit_u64<E>(self, _: u64) -> Result<(), E> {
        Ok(())
    }
    fn visit_f64<E>(self, _: f64) -> Result<(), E> {
        Ok(())
    }
    fn visit_str<E>(self, _: &str) -> Result<(), E> {
        Ok(())
    }
    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<(), A::Error> {
        let inner = self.deeper()?;
        let mut index = 0;
        loop {
            self.path.borrow_mut().push(PathSegment::Index(index));
            let more = items.next_element_seed(inner)?;
            self.path.borrow_mut().pop();
            if more.is_none() {
                return Ok(());
            }
            index += 1;
        }
    }
    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<(), A::Error> {
        let inner = self.deeper()?;
        // Most objects have few keys, for which a linear search is faster than hashing.
        let mut few: Vec<String> = Vec::new();
        let mut many: HashSet<String> = HashSet::new();
        while let Some(key) = entries.next_key::<String>()? {
            let duplicate = if many.is_empty() && few.len() < 16 {
                few.contains(&key)
            } else {
                many.extend(few.drain(..));
                !many.insert(key.clone())
            };
            self.path.borrow_mut().push(PathSegment::Key(key.clone()));
            if duplicate {
                return Err(de::Error::custom("the key is listed twice"));
            }
            if many.is_empty() {
                few.push(key);
            }
            entries.next_value_seed(inner)?;
            self.path.borrow_mut().pop();
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn error_of(text: &str) -> (String, String) {
        let invalid = check_object(text.as_bytes()).unwrap_err();
        (invalid.path, invalid.message)
    }

    #[test]
    fn json_error_names_path_and_position() {
        assert_eq!(error_of("").1, "empty");
        assert_eq!(error_of("[1]").1, "not a JSON object");
        let (path, message) = error_of(r#"{"env":{"A":"1","A":"2"}}"#);
        assert_eq!(path, "env.A");
        assert!(
            message.contains("twice") && message.contains("line 1"),
            "{message}"
        );
        let (path, message) = error_of("{\"args\":[1,\n2,}");
        assert_eq!(path, "args[2]");
        assert!(message.contains("line 2"), "{message}");
        assert!(error_of(r#"{"command":"x""#).1.contains("EOF"));
        assert!(error_of(r#"{"command":"x"} x"#).1.contains("trailing"));
    }

    #[test]
    fn json_nesting_is_limited() {
        let nested = |levels: usize| {
            format!(
                "{{\"meta\":{}{}}}",
                "[".repeat(levels - 1),
                "]".repeat(levels - 1)
            )
        };
        assert!(check_object(nested(DEPTH_MAX).as_bytes()).is_ok());
        assert!(error_of(&nested(DEPTH_MAX + 1)).1.contains("64 levels"));
        assert!(error_of(&nested(10_000)).1.contains("64 levels"));
    }

    #[test]
    fn duplicate_key_is_found_among_many() {
        let mut text = String::from("{");
        for index in 0..100 {
            text.push_str(&format!("\"k{index}\":1,"));
        }
        text.push_str("\"k3\":2}");
        assert_eq!(error_of(&text).0, "k3");
    }

    proptest! {
        #[test]
        fn checking_json_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = check_object(&bytes);
        }
    }
}
