//! The first check of bytes that should be JSON.
//!
//! `serde_json` accepts duplicate keys in a map and nests to 128 levels. An envelope may do neither,
//! since two readers could then disagree on its meaning. This pass reads the text once, keeps
//! nothing but a hash of each key, and reports the path and position of an error.
//!
//! It also bounds what the next pass allocates: a value of two bytes may take fifty in memory.

use std::borrow::Cow;
use std::cell::{Cell, RefCell};
use std::collections::HashSet;
use std::fmt;
use std::hash::{BuildHasher, RandomState};

use serde::de::{self, DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};

use crate::error::{EnvelopeError, RejectReason};
use crate::text::excerpt;
use crate::unknown_fields::FieldName;

/// The most values in an envelope besides those in `input`, in `meta` and in unknown fields: arguments,
/// variables, dependencies and so on, and the fields themselves. No job needs as many, and so many take
/// an acceptable amount of memory.
pub const VALUES_MAX: usize = 100_000;

/// Fields whose value naq keeps as text, however many values it consists of.
const RAW_FIELDS: [&str; 2] = ["input", "meta"];

/// The most levels of nesting in an envelope. The envelope itself is level 1.
pub const DEPTH_MAX: usize = 64;

/// Checks that `bytes` are one JSON object in UTF-8, without duplicate keys, nested at most
/// [`DEPTH_MAX`] levels deep, with at most [`VALUES_MAX`] values. `fields` are the names of the fields
/// whose values count; of others only the name does. Returns the object as text.
///
/// # Errors
/// Returns [`EnvelopeError`] with the path and the position of the first error.
pub(crate) fn check_object<'b>(bytes: &'b [u8], fields: &[&str]) -> Result<&'b str, EnvelopeError> {
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
    let check = Check {
        path: RefCell::default(),
        values: Cell::new(0),
        fields,
        hasher: RandomState::new(),
    };
    let mut deserializer = serde_json::Deserializer::from_str(text);
    // The limit of serde_json does not name the path; ours is lower, so it applies first.
    let checked = JsonVisitor {
        check: &check,
        depth: 0,
        counts: true,
    }
    .deserialize(&mut deserializer)
    .and_then(|()| deserializer.end());
    if let Err(error) = checked {
        return Err(EnvelopeError::new(
            RejectReason::Invalid,
            render(&check.path.borrow()),
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

enum PathSegment<'t> {
    Key(Cow<'t, str>),
    Index(usize),
}

/// What the visitors of one text share.
struct Check<'t, 'f> {
    path: RefCell<Vec<PathSegment<'t>>>,
    /// Number of values that count, so far.
    values: Cell<usize>,
    fields: &'f [&'f str],
    /// Hashes with a key of its own, so that nobody can find two keys with one hash.
    hasher: RandomState,
}

fn render(path: &[PathSegment<'_>]) -> String {
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
struct JsonVisitor<'c, 't, 'f> {
    check: &'c Check<'t, 'f>,
    depth: usize,
    /// Whether the value and those within it count.
    counts: bool,
}

impl<'t> JsonVisitor<'_, 't, '_> {
    fn deeper<E: de::Error>(self) -> Result<Self, E> {
        if self.depth == DEPTH_MAX {
            return Err(E::custom(format!("nested deeper than {DEPTH_MAX} levels")));
        }
        Ok(JsonVisitor {
            depth: self.depth + 1,
            ..self
        })
    }

    fn push(self, segment: PathSegment<'t>) {
        self.check.path.borrow_mut().push(segment);
    }

    fn pop(self) {
        self.check.path.borrow_mut().pop();
    }

    fn count<E: de::Error>(self) -> Result<(), E> {
        let values = self.check.values.get() + usize::from(self.counts);
        self.check.values.set(values);
        if values > VALUES_MAX {
            return Err(E::custom(format!("more than {VALUES_MAX} values")));
        }
        Ok(())
    }

    /// The visitor of a field's value.
    fn of_field(self, name: &str) -> Self {
        let counts =
            self.depth > 1 || (self.check.fields.contains(&name) && !RAW_FIELDS.contains(&name));
        JsonVisitor {
            counts: self.counts && counts,
            ..self
        }
    }
}

impl<'de> DeserializeSeed<'de> for JsonVisitor<'_, 'de, '_> {
    type Value = ();
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for JsonVisitor<'_, 'de, '_> {
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
            inner.push(PathSegment::Index(index));
            let more = items.next_element_seed(inner)?;
            if more.is_some() {
                inner.count()?;
            }
            inner.pop();
            if more.is_none() {
                return Ok(());
            }
            index += 1;
        }
    }
    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<(), A::Error> {
        let inner = self.deeper()?;
        // Most objects have few keys, for which a linear search is faster than hashing. Of many only
        // the hashes are kept: an object may consist of keys.
        let mut few: Vec<Cow<'de, str>> = Vec::new();
        let mut many: HashSet<u64> = HashSet::new();
        let hash = |key: &str| self.check.hasher.hash_one(key);
        while let Some(key) = entries.next_key_seed(FieldName)? {
            let is_duplicate = if many.is_empty() && few.len() < 16 {
                few.contains(&key)
            } else {
                many.extend(few.drain(..).map(|key| hash(&key)));
                !many.insert(hash(&key))
            };
            inner.push(PathSegment::Key(key.clone()));
            if is_duplicate {
                return Err(de::Error::custom("the key is listed twice"));
            }
            // The field itself counts, whether its values do or not.
            inner.count()?;
            entries.next_value_seed(inner.of_field(&key))?;
            if many.is_empty() {
                few.push(key);
            }
            inner.pop();
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn error_of(text: &str) -> (String, String) {
        let invalid = check_object(text.as_bytes(), &["args"]).unwrap_err();
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
        assert!(check_object(nested(DEPTH_MAX).as_bytes(), &[]).is_ok());
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

    #[test]
    fn number_of_values_is_limited_except_in_raw_and_unknown_fields() {
        let list =
            |field: &str, values: usize| format!("{{\"{field}\":[{}0]}}", "0,".repeat(values - 1));
        let check = |text: &str| check_object(text.as_bytes(), &["args", "input"]).map(|_| ());
        // The field itself is one of them.
        assert!(check(&list("args", VALUES_MAX - 1)).is_ok());
        let error = check(&list("args", VALUES_MAX)).unwrap_err();
        assert_eq!(error.path, format!("args[{}]", VALUES_MAX - 1));
        assert!(error.message.contains("more than 100000 values"), "{error}");
        for field in ["input", "colour"] {
            assert!(check(&list(field, VALUES_MAX * 2)).is_ok(), "{field}");
        }
        // Names of unknown fields are kept one by one.
        let names: Vec<String> = (0..=VALUES_MAX).map(|at| format!("\"k{at}\":0")).collect();
        assert!(check(&format!("{{{}}}", names.join(","))).is_err());
        // Nested in a field that counts.
        let nested = format!("{{\"args\":[{{\"a\":[{}0]}}]}}", "0,".repeat(VALUES_MAX));
        assert!(check(&nested).is_err());
    }

    proptest! {
        #[test]
        fn checking_json_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = check_object(&bytes, &["args"]);
        }
    }
}
