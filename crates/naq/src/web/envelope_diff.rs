//! What was changed in an envelope, line by line.

use serde::Serialize;
use similar::{ChangeTag, TextDiff};

use super::enqueue_form::Fields;
use naq_protocol::{escape, escape_json};

/// Lines around a change that are shown.
const CONTEXT_LINES: usize = 3;

/// Most lines of a difference.
const LINES_MAX: usize = 400;

/// A line of a difference.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub(super) struct DiffLine {
    /// `+`, `-`, or a space. `…` stands for lines that are left out.
    pub(super) sign: char,
    pub(super) text: String,
}

/// The lines that differ between two envelopes, with some around them. Empty if nothing differs.
pub(super) fn envelope_diff(before: &Fields, after: &Fields) -> Vec<DiffLine> {
    let (before, after) = (lines(before), lines(after));
    let (before, after) = (slices(&before), slices(&after));
    let diff = TextDiff::from_slices(&before, &after);
    let mut found = Vec::new();
    for (at, group) in diff.grouped_ops(CONTEXT_LINES).iter().enumerate() {
        if at > 0 {
            found.push(left_out());
        }
        let changes = group.iter().flat_map(|op| diff.iter_changes(op));
        found.extend(changes.map(|change| DiffLine {
            sign: match change.tag() {
                ChangeTag::Delete => '-',
                ChangeTag::Insert => '+',
                ChangeTag::Equal => ' ',
            },
            text: change.value().to_owned(),
        }));
    }
    if found.len() > LINES_MAX {
        found.truncate(LINES_MAX);
        found.push(left_out());
    }
    found
}

fn left_out() -> DiffLine {
    DiffLine {
        sign: '…',
        text: String::new(),
    }
}

fn slices(lines: &[String]) -> Vec<&str> {
    lines.iter().map(String::as_str).collect()
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

    #[test]
    fn a_long_difference_is_cut() {
        let lines: Vec<String> = (0..1_000).map(|line| line.to_string()).collect();
        let after = serde_json::to_string(&lines).unwrap();
        let found = diff(r#"{"args":[]}"#, &format!(r#"{{"args":{after}}}"#));
        assert_eq!(found.len(), LINES_MAX + 1);
        assert_eq!(found.last().map(String::as_str), Some("…"));
    }
}
