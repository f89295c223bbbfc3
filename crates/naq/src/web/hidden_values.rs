//! Values of variables in envelopes: no page and no answer shows them, and what is edited keeps them.

use std::collections::BTreeMap;

use serde_json::value::{RawValue, to_raw_value};

use super::problem::{FieldProblem, pointer_token};

/// Stands for the value of a variable.
pub(super) const HIDDEN_VALUE: &str = "***";

/// An envelope with [`HIDDEN_VALUE`] instead of the values of variables. `None` if it is no JSON object.
pub(super) fn hide_values(envelope: &RawValue) -> Option<Box<RawValue>> {
    let mut fields: BTreeMap<String, Box<RawValue>> = serde_json::from_str(envelope.get()).ok()?;
    if let Some(env) = fields.get_mut("env") {
        let names: BTreeMap<String, Box<RawValue>> =
            serde_json::from_str(env.get()).unwrap_or_default();
        let hidden: BTreeMap<&str, &str> = names
            .keys()
            .map(|name| (name.as_str(), HIDDEN_VALUE))
            .collect();
        *env = to_raw_value(&hidden).ok()?;
    }
    to_raw_value(&fields).ok()
}

/// Puts the stored values of variables into those that were hidden when they were shown. `prefix` is the pointer to
/// the envelope in what the user sent.
///
/// # Errors
/// Returns the variables of which no value is stored.
pub(super) fn restore_values(
    env: &mut BTreeMap<String, String>,
    stored: &BTreeMap<String, String>,
    prefix: &str,
) -> Result<(), Vec<FieldProblem>> {
    let mut problems = Vec::new();
    for (name, value) in env.iter_mut().filter(|(_, value)| *value == HIDDEN_VALUE) {
        match stored.get(name) {
            Some(known) => known.clone_into(value),
            None => problems.push(FieldProblem {
                pointer: format!("{prefix}/env/{}", pointer_token(name)),
                detail: format!(
                    "`{HIDDEN_VALUE}` stands for the stored value, and none is stored; enter the value"
                ),
            }),
        }
    }
    match problems.is_empty() {
        true => Ok(()),
        false => Err(problems),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_of_variables_are_hidden_and_the_rest_is_as_written() {
        let envelope =
            r#"{"command":"a","args":[12345678901234567890123],"env":{"TOKEN":"hunter2","N":1}}"#;
        let envelope = RawValue::from_string(envelope.to_owned()).unwrap();
        let shown = hide_values(&envelope).unwrap();
        let shown = shown.get();
        assert!(!shown.contains("hunter2"), "{shown}");
        assert!(shown.contains(r#""TOKEN":"***""#), "{shown}");
        assert!(shown.contains("12345678901234567890123"), "{shown}");
        // a variable that is no object is no place for a value either
        let odd = RawValue::from_string(r#"{"env":"hunter2"}"#.to_owned()).unwrap();
        assert_eq!(hide_values(&odd).unwrap().get(), r#"{"env":{}}"#);
    }

    #[test]
    fn a_hidden_value_stands_for_the_stored_one_only() {
        let env = |pairs: &[(&str, &str)]| -> BTreeMap<String, String> {
            let pairs = pairs.iter();
            pairs
                .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
                .collect()
        };
        let stored = env(&[("TOKEN", "hunter2"), ("LEVEL", "1")]);
        let mut edited = env(&[("TOKEN", "***"), ("LEVEL", "2")]);
        restore_values(&mut edited, &stored, "").unwrap();
        assert_eq!(edited, env(&[("TOKEN", "hunter2"), ("LEVEL", "2")]));
        let mut unknown = env(&[("A/B", "***"), ("TOKEN", "***")]);
        let problems = restore_values(&mut unknown, &stored, "/envelope").unwrap_err();
        assert_eq!(problems.len(), 1);
        assert_eq!(problems[0].pointer, "/envelope/env/A~1B");
    }
}
