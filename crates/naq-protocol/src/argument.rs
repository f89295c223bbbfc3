//! An argument of a job.

use std::borrow::Cow;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use serde_json::value::RawValue;

/// An argument of a job: a string, a number or a boolean for a command or a script, any JSON for a
/// function. It keeps its text, so that a number reaches the program as the producer wrote it.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Argument(Box<RawValue>);

impl Argument {
    /// The argument as JSON.
    #[must_use]
    pub fn as_json(&self) -> &str {
        self.0.get()
    }

    /// The argument as a command receives it: a string as its content, anything else as its JSON.
    #[must_use]
    pub fn text(&self) -> Cow<'_, str> {
        match self.string() {
            Some(text) => Cow::Owned(text),
            None => Cow::Borrowed(self.as_json()),
        }
    }

    /// The content of a string. `None` for anything else.
    fn string(&self) -> Option<String> {
        // A number or a boolean cannot fail to be a string later on.
        self.as_json()
            .starts_with('"')
            .then(|| serde_json::from_str(self.as_json()).ok())
            .flatten()
    }

    /// Whether a command can receive it: it is a string, a number or a boolean.
    pub(crate) fn is_scalar(&self) -> bool {
        !self.as_json().starts_with(['{', '[', 'n'])
    }
}

impl From<&str> for Argument {
    fn from(text: &str) -> Argument {
        let json = Value::from(text).to_string();
        // The text of a JSON string is JSON, so the default, `null`, is never used.
        Argument(RawValue::from_string(json).unwrap_or_default())
    }
}

impl From<String> for Argument {
    fn from(text: String) -> Argument {
        Argument::from(text.as_str())
    }
}

impl JsonSchema for Argument {
    fn inline_schema() -> bool {
        true
    }
    fn schema_name() -> Cow<'static, str> {
        "Argument".into()
    }
    fn json_schema(generator: &mut schemars::SchemaGenerator) -> schemars::Schema {
        generator.subschema_for::<Value>()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_keep_the_text_of_a_number() {
        let args: Vec<Argument> =
            serde_json::from_str(r#"["a\u00e4\"", 12345678901234567890123, 1.50, 1e3, -0, true]"#)
                .unwrap();
        let texts: Vec<_> = args.iter().map(|arg| arg.text().into_owned()).collect();
        assert_eq!(
            texts,
            [
                "aä\"",
                "12345678901234567890123",
                "1.50",
                "1e3",
                "-0",
                "true"
            ]
        );
        assert!(args.iter().all(Argument::is_scalar));
        for text in ["null", "[1]", "{}"] {
            assert!(!serde_json::from_str::<Argument>(text).unwrap().is_scalar());
        }
        assert_eq!(Argument::from("a\"b").as_json(), r#""a\"b""#);
    }
}
