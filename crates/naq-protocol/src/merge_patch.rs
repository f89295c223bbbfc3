//! Changes to an envelope, as a JSON merge patch (RFC 7396).

use serde_json::value::RawValue;

use crate::error::{EnvelopeError, RejectReason};
use crate::ordered_object::OrderedObject;

/// Maximum number of objects within each other that are merged.
const DEPTH_MAX: usize = 32;

/// The envelope with these changes: a field of `changes` replaces the one of the same name, an object is merged
/// into an object, and `null` removes a field. What is not changed keeps its order and text. The result is not
/// checked.
///
/// # Errors
/// Returns [`EnvelopeError`] if one of the two is no JSON object, or if the changes contain more than 32
/// objects within each other.
pub fn merge_patch(envelope: &[u8], changes: &[u8]) -> Result<Vec<u8>, EnvelopeError> {
    let mut fields: OrderedObject = parse(envelope)?;
    merge(&mut fields, &parse(changes)?, 1)?;
    fields.to_json().map(String::into_bytes)
}

fn parse(bytes: &[u8]) -> Result<OrderedObject, EnvelopeError> {
    serde_json::from_slice(bytes)
        .map_err(|error| EnvelopeError::new(RejectReason::Invalid, "", error.to_string()))
}

fn merge(
    fields: &mut OrderedObject,
    changes: &OrderedObject,
    depth: usize,
) -> Result<(), EnvelopeError> {
    if depth > DEPTH_MAX {
        let text = format!("more than {DEPTH_MAX} objects are within each other");
        return Err(EnvelopeError::new(RejectReason::Invalid, "", text));
    }
    for (name, change) in changes.iter() {
        if change.get() == "null" {
            fields.remove(name);
            continue;
        }
        let Some(change) = object(change) else {
            fields.set(name, change)?;
            continue;
        };
        // an object that replaces another value, or nothing, loses its nulls too
        let mut merged = fields.get(name).and_then(object).unwrap_or_default();
        merge(&mut merged, &change, depth + 1)?;
        fields.set(name, &raw(&merged)?)?;
    }
    Ok(())
}

fn object(value: &RawValue) -> Option<OrderedObject> {
    serde_json::from_str(value.get()).ok()
}

fn raw(object: &OrderedObject) -> Result<Box<RawValue>, EnvelopeError> {
    RawValue::from_string(object.to_json()?)
        .map_err(|error| EnvelopeError::new(RejectReason::Invalid, "", error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::{Map, Value, json};

    fn merged(envelope: &str, changes: &str) -> String {
        let merged = merge_patch(envelope.as_bytes(), changes.as_bytes());
        String::from_utf8(merged.unwrap()).unwrap()
    }

    #[test]
    fn a_change_replaces_merges_and_removes_fields() {
        let envelope =
            r#"{"command":"x","args":[1.50,"a"],"env":{"A":"1","B":"2"},"timeout":"5m"}"#;
        assert_eq!(
            merged(
                envelope,
                r#"{"args":["b"],"env":{"B":null,"C":"3"},"timeout":null,"labels":{"team":"x","no":null}}"#
            ),
            r#"{"command":"x","args":["b"],"env":{"A":"1","C":"3"},"labels":{"team":"x"}}"#
        );
        // what is not changed keeps its text
        assert_eq!(
            merged(r#"{"n":1.50,"big":12345678901234567890123}"#, "{}"),
            r#"{"n":1.50,"big":12345678901234567890123}"#
        );
        assert!(merge_patch(b"[]", b"{}").is_err());
        assert!(merge_patch(b"{}", b"[1]").is_err());
        assert!(merge_patch(b"{}", b"").is_err());
        let deep = |depth: usize| format!("{}1{}", "{\"a\":".repeat(depth), "}".repeat(depth));
        assert_eq!(merged("{}", &deep(32)), deep(32));
        assert!(merge_patch(b"{}", deep(33).as_bytes()).is_err());
        assert!(merge_patch(b"{}", deep(100_000).as_bytes()).is_err());
    }

    /// The algorithm of RFC 7396, section 2.
    fn reference(target: &mut Value, patch: &Value) {
        let Value::Object(patch) = patch else {
            *target = patch.clone();
            return;
        };
        if !target.is_object() {
            *target = json!({});
        }
        let Value::Object(target) = target else {
            return;
        };
        for (name, value) in patch {
            match value {
                Value::Null => drop(target.remove(name)),
                _ => reference(target.entry(name.clone()).or_insert(Value::Null), value),
            }
        }
    }

    fn any_object() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<i32>().prop_map(Value::from),
            "[a-c]{0,3}".prop_map(Value::from),
            Just(json!([1, null])),
        ];
        let value = leaf.prop_recursive(3, 20, 4, |inner| {
            proptest::collection::btree_map("[a-d]", inner, 0..4)
                .prop_map(|fields| Value::Object(fields.into_iter().collect()))
        });
        proptest::collection::btree_map("[a-d]", value, 0..5)
            .prop_map(|fields| Value::Object(fields.into_iter().collect::<Map<_, _>>()))
    }

    proptest! {
        #[test]
        fn changes_are_merged_as_rfc_7396_says(envelope in any_object(), changes in any_object()) {
            let found = merged(&envelope.to_string(), &changes.to_string());
            let mut expected = envelope;
            reference(&mut expected, &changes);
            prop_assert_eq!(serde_json::from_str::<Value>(&found).unwrap(), expected);
        }
    }
}
