//! A JSON object that keeps the order of its fields and the text of each value, so that naq can
//! change some fields of an envelope and leave the others as the producer wrote them.

use std::fmt;

use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::value::RawValue;

use crate::error::{EnvelopeError, RejectReason};

/// The fields of an object in their order, each value as it was written.
#[derive(Clone, Debug, Default)]
pub(crate) struct OrderedObject(Vec<(String, Box<RawValue>)>);

impl OrderedObject {
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&str, &RawValue)> {
        self.0
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_ref()))
    }

    pub(crate) fn get(&self, name: &str) -> Option<&RawValue> {
        self.iter()
            .find(|(known, _)| *known == name)
            .map(|(_, value)| value)
    }

    pub(crate) fn remove(&mut self, name: &str) {
        self.0.retain(|(known, _)| known != name);
    }

    /// Sets the value of a field. A new field becomes the last one.
    pub(crate) fn set<T: Serialize + ?Sized>(
        &mut self,
        name: &str,
        value: &T,
    ) -> Result<(), EnvelopeError> {
        let value = serde_json::value::to_raw_value(value).map_err(cannot_serialize)?;
        match self.0.iter_mut().find(|(known, _)| known == name) {
            Some((_, present)) => *present = value,
            None => self.0.push((name.to_owned(), value)),
        }
        Ok(())
    }

    /// The object as one line of JSON.
    pub(crate) fn to_json(&self) -> Result<String, EnvelopeError> {
        let mut text = String::from("{");
        for (name, value) in &self.0 {
            if text.len() > 1 {
                text.push(',');
            }
            text.push_str(&serde_json::to_string(name).map_err(cannot_serialize)?);
            text.push(':');
            text.push_str(value.get());
        }
        text.push('}');
        Ok(text)
    }
}

fn cannot_serialize(error: serde_json::Error) -> EnvelopeError {
    EnvelopeError::new(RejectReason::Invalid, "", error.to_string())
}

impl<'de> Deserialize<'de> for OrderedObject {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<OrderedObject, D::Error> {
        struct FieldsVisitor;
        impl<'de> Visitor<'de> for FieldsVisitor {
            type Value = OrderedObject;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<OrderedObject, A::Error> {
                let mut fields = Vec::new();
                while let Some(field) = map.next_entry()? {
                    fields.push(field);
                }
                Ok(OrderedObject(fields))
            }
        }
        deserializer.deserialize_map(FieldsVisitor)
    }
}
