//! Output of an ended job as markup: its beginning and its end, and marks where bytes are missing.

use super::ansi::AnsiText;
use crate::text;
use naq_client::StoredOutput;

/// Maximum number of bytes that are shown of the beginning, and of the end.
const PART_BYTES_MAX: usize = 64 << 10;

/// The markup of an output. Lines end with a line feed.
pub(super) fn markup(output: &StoredOutput) -> String {
    let (head, tail, unshown_bytes) = parts(output);
    let mut markup = lines(head);
    let mut marks = Vec::new();
    if unshown_bytes > 0 {
        marks.push(format!("{} not shown here", text::bytes(unshown_bytes)));
    }
    if output.missing_bytes > 0 {
        let size = text::bytes(output.missing_bytes);
        marks.push(format!("{size} were not kept"));
    }
    if !marks.is_empty() {
        let line_end = if markup.ends_with('\n') { "" } else { "\n" };
        let marks = marks.join(", ");
        markup.push_str(&format!("{line_end}<b class=\"cut\">… {marks} …</b>\n"));
    }
    markup.push_str(&lines(tail));
    markup
}

/// The bytes that are shown of the beginning and the end, and the number of those between that are stored and
/// not shown.
fn parts(output: &StoredOutput) -> (&[u8], &[u8], u64) {
    let head = output.head.as_slice();
    if output.missing_bytes == 0 && output.tail.is_empty() {
        let Some(unshown) = head
            .len()
            .checked_sub(2 * PART_BYTES_MAX)
            .filter(|more| *more > 0)
        else {
            return (head, &[], 0);
        };
        let (first, rest) = head.split_at(PART_BYTES_MAX);
        let last = rest.get(unshown..).unwrap_or_default();
        return (whole_end(first), whole_start(last), unshown as u64);
    }
    let tail = output.tail.as_slice();
    let first = head.get(..PART_BYTES_MAX).unwrap_or(head);
    let last = tail
        .get(tail.len().saturating_sub(PART_BYTES_MAX)..)
        .unwrap_or(tail);
    let unshown = head.len() - first.len() + tail.len() - last.len();
    (whole_end(first), whole_start(last), unshown as u64)
}

/// Removes an incomplete character at the end.
fn whole_end(bytes: &[u8]) -> &[u8] {
    match std::str::from_utf8(bytes) {
        Err(error) if error.error_len().is_none() => {
            bytes.get(..error.valid_up_to()).unwrap_or(bytes)
        }
        _ => bytes,
    }
}

/// Removes an incomplete character at the start.
fn whole_start(bytes: &[u8]) -> &[u8] {
    let is_continuation = |byte: &&u8| **byte & 0b1100_0000 == 0b1000_0000;
    let cut = bytes.iter().take(3).take_while(is_continuation).count();
    bytes.get(cut..).unwrap_or_default()
}

fn lines(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    let mut ansi = AnsiText::default();
    let lines: Vec<String> = text.split('\n').map(|line| ansi.line(line)).collect();
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stored(head: &[u8], missing_bytes: u64, tail: &[u8]) -> StoredOutput {
        StoredOutput {
            head: head.to_vec(),
            missing_bytes,
            tail: tail.to_vec(),
        }
    }

    #[test]
    fn a_short_output_is_shown_whole() {
        let output = stored(b"a <b>\n\x1b[31mred\nstill\x1b[0m\n", 0, b"");
        assert_eq!(
            markup(&output),
            "a &lt;b&gt;\n<span class=\"fg1\">red</span>\n<span class=\"fg1\">still</span>\n"
        );
        assert_eq!(markup(&stored(b"", 0, b"")), "");
    }

    #[test]
    fn a_mark_is_where_bytes_are_missing() {
        let output = stored(b"head", 100, b"tail\n");
        assert_eq!(
            markup(&output),
            "head\n<b class=\"cut\">… 100 B were not kept …</b>\ntail\n"
        );
        let long = "ä\n".repeat(200_000);
        let shown = markup(&stored(long.as_bytes(), 0, b""));
        assert!(shown.len() < 140_000, "{}", shown.len());
        assert!(
            shown.contains("<b class=\"cut\">… 457.9 KiB not shown here …</b>"),
            "{}",
            shown.len()
        );
        assert!(!shown.contains('\u{fffd}'));
        let both = markup(&stored(long.as_bytes(), 5, long.as_bytes()));
        assert!(
            both.contains("not shown here, 5 B were not kept …"),
            "{}",
            both.len()
        );
    }

    #[test]
    fn a_line_of_many_megabytes_makes_a_small_page() {
        let line = vec![b'x'; 10 << 20];
        let shown = markup(&stored(&line, 0, b""));
        assert!(shown.len() < 6_000, "{}", shown.len());
    }
}
