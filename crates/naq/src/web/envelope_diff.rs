//! What was changed in an envelope, line by line.

use super::enqueue_form::Fields;
use super::line_diff::{DiffLine, line_diff};
use naq_protocol::{escape, escape_json};

/// The lines that differ between two envelopes, with some around them. Empty if nothing differs.
pub(super) fn envelope_diff(before: &Fields, after: &Fields) -> Vec<DiffLine> {
    line_diff(&lines(before), &lines(after))
}

/// An envelope in lines: one for each field, argument, variable and label, and for each line of a script.
fn lines(fields: &Fields) -> Vec<String> {
    let mut lines = Vec::new();
    for (name, value) in fields {
        let name = escape(name);
        let text = value.get();
        if let Ok(values) = serde_json::from_str::<Vec<&serde_json::value::RawValue>>(text) {
            lines.push(format!("{name}:"));
            let values = values.iter().map(|value| escape_json(value.get()));
            lines.extend(values.map(|value| format!("  - {value}")));
        } else if let Ok(values) = serde_json::from_str::<Fields>(text) {
            lines.push(format!("{name}:"));
            let values = values.iter();
            let values = values.map(|(key, value)| (escape(key), escape_json(value.get())));
            lines.extend(values.map(|(key, value)| format!("  {key}: {value}")));
        } else {
            match serde_json::from_str::<String>(text) {
                Ok(text) if text.contains('\n') => {
                    lines.push(format!("{name}:"));
                    lines.extend(text.split('\n').map(|line| format!("  | {}", escape(line))));
                }
                _ => lines.push(format!("{name}: {}", escape_json(text))),
            }
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    fn diff(before: &str, after: &str) -> Vec<String> {
        let fields = |text| serde_json::from_str(text).unwrap();
        envelope_diff(&fields(before), &fields(after))
            .into_iter()
            .map(|line| format!("{}{}", line.sign, line.text))
            .collect()
    }

    #[test]
    fn a_changed_argument_and_a_new_field_are_lines() {
        assert_eq!(
            diff(
                r#"{"command":"backup","args":["--db","one"]}"#,
                r#"{"command":"backup","args":["--db","two"],"timeout":"5m"}"#
            ),
            [
                " args:",
                r#"   - "--db""#,
                r#"-  - "one""#,
                r#"+  - "two""#,
                r#" command: "backup""#,
                r#"+timeout: "5m""#,
            ]
        );
        assert!(diff(r#"{"a":1}"#, r#"{"a": 1}"#).is_empty());
    }

    #[test]
    fn scripts_differ_in_lines_and_hostile_text_is_escaped() {
        let found = diff(
            r#"{"script":"a\nb\nc"}"#,
            "{\"script\":\"a\\n\\u001b[31m\u{202e}\\nc\"}",
        );
        assert_eq!(
            found,
            [
                " script:",
                "   | a",
                "-  | b",
                r"+  | \u{1b}[31m\u{202e}",
                "   | c"
            ]
        );
    }
}
