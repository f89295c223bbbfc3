//! Fields of wire objects that this version does not define: kept as they were written, and written
//! back with the object. So an older naq that changes a record or a schedule erases nothing of a newer
//! one.

use std::borrow::Cow;
use std::fmt;

use serde::de::value::{BorrowedStrDeserializer, CowStrDeserializer};
use serde::de::{self, DeserializeSeed, Deserializer, MapAccess, Visitor};
use serde::ser::SerializeMap;
use serde::{Serialize, Serializer};
use serde_json::value::RawValue;

/// The fields of an object that this version of naq does not define, in their order, each value as it
/// was written.
#[derive(Clone, Debug, Default)]
pub struct UnknownFields(Vec<(String, Box<RawValue>)>);

impl UnknownFields {
    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The names and the values, which are JSON. A value may be `null`.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &RawValue)> {
        self.0
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_ref()))
    }

    /// The names of the fields that are set, so that their value is not `null`.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.iter()
            .filter(|(_, value)| value.get() != "null")
            .map(|(name, _)| name)
    }
}

/// Values are compared by their text.
impl PartialEq for UnknownFields {
    fn eq(&self, other: &UnknownFields) -> bool {
        let texts = |fields: &UnknownFields| -> Vec<(String, String)> {
            fields
                .iter()
                .map(|(name, value)| (name.to_owned(), value.get().to_owned()))
                .collect()
        };
        texts(self) == texts(other)
    }
}

impl Eq for UnknownFields {}

impl Serialize for UnknownFields {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.0.len()))?;
        for (name, value) in &self.0 {
            map.serialize_entry(name, value)?;
        }
        map.end()
    }
}

/// Implements `Serialize` and `Deserialize` for a struct with a field `unknown: UnknownFields` and the
/// attribute `#[serde(remote = "Self")]`, by which the derived code is in functions of the type itself.
/// On `unknown` belongs `#[serde(flatten, skip_deserializing)]`: serde could read the other fields into
/// it, but only as values, which lose the text of a number.
macro_rules! keeps_unknown_fields {
    ($($type:ident),+ $(,)?) => {$(
        impl serde::Serialize for $type {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                $type::serialize(self, serializer)
            }
        }

        impl<'de> serde::Deserialize<'de> for $type {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<$type, D::Error> {
                let mut unknown = $crate::unknown_fields::UnknownFields::default();
                let keeping = $crate::unknown_fields::KeepUnknown::new(deserializer, &mut unknown);
                let mut value = $type::deserialize(keeping)?;
                value.unknown = unknown;
                Ok(value)
            }
        }
    )+};
}

pub(crate) use keeps_unknown_fields;

/// A deserializer of one struct, which collects the fields that the struct lacks. It reads the struct
/// from an object only; derived code would accept an array as well.
pub(crate) struct KeepUnknown<'u, D> {
    inner: D,
    unknown: &'u mut UnknownFields,
}

impl<'u, D> KeepUnknown<'u, D> {
    pub(crate) fn new(inner: D, unknown: &'u mut UnknownFields) -> KeepUnknown<'u, D> {
        KeepUnknown { inner, unknown }
    }
}

impl<'de, D: Deserializer<'de>> Deserializer<'de> for KeepUnknown<'_, D> {
    type Error = D::Error;

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, D::Error> {
        self.inner.deserialize_map(KnownFieldsVisitor {
            visitor,
            fields,
            unknown: self.unknown,
        })
    }

    // Derived code for a struct calls nothing else.
    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, D::Error> {
        self.inner.deserialize_any(visitor)
    }

    serde::forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option
        unit unit_struct newtype_struct seq tuple tuple_struct map enum identifier ignored_any
    }
}

struct KnownFieldsVisitor<'u, V> {
    visitor: V,
    fields: &'static [&'static str],
    unknown: &'u mut UnknownFields,
}

impl<'de, V: Visitor<'de>> Visitor<'de> for KnownFieldsVisitor<'_, V> {
    type Value = V::Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<V::Value, A::Error> {
        self.visitor.visit_map(KnownFields {
            map,
            fields: self.fields,
            unknown: self.unknown,
        })
    }
}

/// The fields of an object that a struct has.
struct KnownFields<'u, A> {
    map: A,
    fields: &'static [&'static str],
    unknown: &'u mut UnknownFields,
}

impl<'de, A: MapAccess<'de>> MapAccess<'de> for KnownFields<'_, A> {
    type Error = A::Error;

    fn next_key_seed<K: DeserializeSeed<'de>>(
        &mut self,
        seed: K,
    ) -> Result<Option<K::Value>, A::Error> {
        while let Some(key) = self.map.next_key_seed(FieldName)? {
            if self.fields.contains(&key.as_ref()) {
                return match key {
                    Cow::Borrowed(key) => seed.deserialize(BorrowedStrDeserializer::new(key)),
                    key @ Cow::Owned(_) => seed.deserialize(CowStrDeserializer::new(key)),
                }
                .map(Some);
            }
            let value = self.map.next_value()?;
            self.unknown.0.push((key.into_owned(), value));
        }
        Ok(None)
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, A::Error> {
        self.map.next_value_seed(seed)
    }
}

/// Reads a key, and copies it only if it has to.
pub(crate) struct FieldName;

impl<'de> DeserializeSeed<'de> for FieldName {
    type Value = Cow<'de, str>;
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl<'de> Visitor<'de> for FieldName {
    type Value = Cow<'de, str>;
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a name")
    }
    fn visit_borrowed_str<E: de::Error>(self, name: &'de str) -> Result<Self::Value, E> {
        Ok(Cow::Borrowed(name))
    }
    fn visit_str<E: de::Error>(self, name: &str) -> Result<Self::Value, E> {
        Ok(Cow::Owned(name.to_owned()))
    }
}

/// A deserializer that reads nothing: it only notes the names of the fields of a struct.
pub(crate) struct FieldNames<'n>(pub(crate) &'n mut &'static [&'static str]);

impl<'de> Deserializer<'de> for FieldNames<'_> {
    type Error = de::value::Error;

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        fields: &'static [&'static str],
        _: V,
    ) -> Result<V::Value, Self::Error> {
        *self.0 = fields;
        Err(de::Error::custom("only the names were asked for"))
    }

    fn deserialize_any<V: Visitor<'de>>(self, _: V) -> Result<V::Value, Self::Error> {
        Err(de::Error::custom("not a struct"))
    }

    serde::forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option
        unit unit_struct newtype_struct seq tuple tuple_struct map enum identifier ignored_any
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde::Deserialize;

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    #[serde(remote = "Self")]
    struct Inner {
        a: u32,
        #[serde(flatten, skip_deserializing)]
        unknown: UnknownFields,
    }

    #[derive(Debug, Serialize, Deserialize)]
    #[serde(remote = "Self")]
    struct Outer {
        inner: Inner,
        raw: Option<Box<RawValue>>,
        #[serde(flatten, skip_deserializing)]
        unknown: UnknownFields,
    }

    keeps_unknown_fields!(Inner, Outer);

    #[test]
    fn unknown_fields_are_kept_as_written_at_every_level() {
        let text = r#"{"inner":{"a":1,"later":12345678901234567890123},"raw":1.50,"b":{"c":[1.0, null]},"d":null}"#;
        let read: Outer = serde_json::from_str(text).unwrap();
        assert_eq!(serde_json::to_string(&read).unwrap(), text);
        assert_eq!(read.unknown.names().collect::<Vec<_>>(), ["b"]);
        let read: Outer = serde_json::from_reader(text.as_bytes()).unwrap();
        assert_eq!(serde_json::to_string(&read).unwrap(), text);
        // The known fields come first when they are written.
        let read: Inner = serde_json::from_str(r#"{"\u0062":2,"a":1}"#).unwrap();
        assert_eq!(serde_json::to_string(&read).unwrap(), r#"{"a":1,"b":2}"#);
    }

    #[test]
    fn known_field_twice_is_refused() {
        assert!(serde_json::from_str::<Inner>(r#"{"a":1,"a":2}"#).is_err());
        assert!(serde_json::from_str::<Inner>("[1]").is_err());
        assert!(serde_json::from_str::<Inner>(r#"{"b":1}"#).is_err());
    }
}
