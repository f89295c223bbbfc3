//! The lines that differ between two texts.

use serde::Serialize;
use similar::{ChangeTag, TextDiff};

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

/// The lines that differ, with some around them. Empty if nothing differs.
pub(super) fn line_diff(before: &[String], after: &[String]) -> Vec<DiffLine> {
    let (before, after) = (slices(before), slices(after));
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_difference_is_cut() {
        let lines: Vec<String> = (0..1_000).map(|line| line.to_string()).collect();
        let found = line_diff(&[], &lines);
        assert_eq!(found.len(), LINES_MAX + 1);
        assert_eq!(found.last().map(|line| line.sign), Some('…'));
    }

    #[test]
    fn lines_around_a_change_are_shown() {
        let before: Vec<String> = (0..20).map(|line| line.to_string()).collect();
        let mut after = before.clone();
        after[10] = "x".to_owned();
        let signs: String = line_diff(&before, &after)
            .iter()
            .map(|line| line.sign)
            .collect();
        assert_eq!(signs, "   -+   ");
        assert!(line_diff(&before, &before).is_empty());
    }
}
