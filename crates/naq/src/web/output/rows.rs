//! Reads some lines of an output as rows of a page. What is kept of a row is bounded, however long its line is.

use std::ops::RangeInclusive;

use crate::text;
use crate::web::ansi::AnsiText;
use naq_client::OutputGap;

/// Maximum number of bytes of a line that are kept for its row. More than a row shows, because colours take
/// bytes too.
const ROW_BYTES_MAX: usize = 8 << 10;

/// A line of an output, or the beginning of a long one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::web) struct Row {
    /// Its number, from 1.
    pub(in crate::web) number: u64,
    /// Number of stored bytes before the line.
    offset: u64,
    /// Length of the line without its line feed, in bytes.
    length: u64,
    bytes: Vec<u8>,
    /// Whether `bytes` are from the beginning of the line. False for a progress bar that overwrote itself.
    is_beginning: bool,
}

/// Collects rows from the parts of an output.
pub(super) struct RowReader {
    wanted: RangeInclusive<u64>,
    /// The number of the line that is being read, and where it begins.
    line: u64,
    start: u64,
    kept: Vec<u8>,
    is_beginning: bool,
    rows: Vec<Row>,
}

impl RowReader {
    /// Reads these lines from parts that begin after `line_feeds` line feeds, before the first of the lines.
    pub(super) fn new(wanted: RangeInclusive<u64>, line_feeds: u64) -> RowReader {
        RowReader {
            wanted,
            line: line_feeds + 1,
            start: 0,
            kept: Vec::new(),
            is_beginning: true,
            rows: Vec::new(),
        }
    }

    /// Adds the part that begins after `offset` bytes. Parts may be left out while [`RowReader::skips_line`].
    pub(super) fn push(&mut self, offset: u64, part: &[u8]) {
        let mut rest = part;
        while !self.is_done() {
            let end = memchr::memchr(b'\n', rest);
            let (line, after) = rest.split_at(end.unwrap_or(rest.len()));
            if self.line >= *self.wanted.start() {
                self.extend(line);
            }
            rest = match end {
                Some(_) => after.get(1..).unwrap_or_default(),
                None => return,
            };
            self.end_line(offset + (part.len() - rest.len() - 1) as u64);
        }
    }

    fn extend(&mut self, bytes: &[u8]) {
        self.kept.extend_from_slice(bytes);
        if self.kept.len() <= ROW_BYTES_MAX {
            return;
        }
        // a progress bar overwrites its line, so the earlier content is not shown
        let last = self.kept.len() - 1;
        let before_last = self.kept.get(..last).unwrap_or_default();
        if let Some(at) = memchr::memrchr(b'\r', before_last) {
            self.kept.drain(..=at);
            self.is_beginning = false;
        }
        self.kept.truncate(ROW_BYTES_MAX);
    }

    /// Ends the current line, whose line feed is at this offset.
    fn end_line(&mut self, end: u64) {
        let bytes = std::mem::take(&mut self.kept);
        if self.line >= *self.wanted.start() {
            self.rows.push(Row {
                number: self.line,
                offset: self.start,
                length: end.saturating_sub(self.start),
                bytes,
                is_beginning: self.is_beginning,
            });
        }
        self.is_beginning = true;
        self.line += 1;
        self.start = end + 1;
    }

    /// Whether the rest of the current line is not needed.
    pub(super) fn skips_line(&self) -> bool {
        self.kept.len() >= ROW_BYTES_MAX
            && self.is_beginning
            && memchr::memchr(b'\r', &self.kept).is_none()
    }

    /// The number of the line that is being read.
    pub(super) fn line(&self) -> u64 {
        self.line
    }

    pub(super) fn is_done(&self) -> bool {
        self.line > *self.wanted.end()
    }

    /// The rows of an output of this length, whose last line may lack its line feed.
    pub(super) fn finish(mut self, length: u64) -> Vec<Row> {
        if !self.is_done() && self.start < length {
            self.end_line(length);
        }
        self.rows
    }
}

impl Row {
    /// The markup of the line. `whole_line` is the path of the line as text, which a mark at the end of a long
    /// line links to; it needs no escape.
    pub(in crate::web) fn markup(
        &self,
        ansi: &mut AnsiText,
        gap: Option<OutputGap>,
        whole_line: &str,
    ) -> String {
        let shown = whole_end(&self.bytes);
        // where bytes of this line are missing
        let gap = gap.filter(|gap| (self.offset..=self.offset + self.length).contains(&gap.offset));
        let mark = |gap: OutputGap| {
            let size = text::bytes(gap.missing_bytes);
            format!("<b class=\"gap\">… {size} were not kept …</b>")
        };
        let split = gap.and_then(|gap| {
            let at = usize::try_from(gap.offset - self.offset).ok()?;
            self.is_beginning
                .then(|| shown.split_at_checked(at))
                .flatten()
        });
        let mut markup = String::new();
        let mut is_cut = (self.bytes.len() as u64) < self.length && self.is_beginning;
        let mut show = |bytes: &[u8], markup: &mut String| {
            let (shown, is_shown_whole) = ansi.beginning(&String::from_utf8_lossy(bytes));
            markup.push_str(&shown);
            is_cut |= !is_shown_whole;
        };
        match (gap, split) {
            (Some(gap), Some((before, after))) => {
                show(before, &mut markup);
                markup.push_str(&mark(gap));
                show(after, &mut markup);
            }
            (gap, _) => {
                show(shown, &mut markup);
                markup.extend(gap.map(mark));
            }
        }
        if is_cut {
            let size = text::bytes(self.length);
            markup.push_str(&format!(
                "<a class=\"cut\" href=\"{whole_line}\" target=\"_blank\" rel=\"noopener\">… the whole line, {size}</a>"
            ));
        }
        markup
    }
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

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn rows(output: &[u8], wanted: RangeInclusive<u64>, part_bytes: usize) -> Vec<Row> {
        let mut reader = RowReader::new(wanted, 0);
        for (at, part) in output.chunks(part_bytes).enumerate() {
            reader.push((at * part_bytes) as u64, part);
        }
        reader.finish(output.len() as u64)
    }

    fn markup(output: &[u8], gap: Option<OutputGap>) -> Vec<String> {
        let mut ansi = AnsiText::default();
        let rows = rows(output, 1..=100, 7);
        let markup = rows.iter().map(|row| row.markup(&mut ansi, gap, "/line"));
        markup.collect()
    }

    #[test]
    fn colours_last_over_rows_and_text_is_escaped() {
        assert_eq!(
            markup(b"a <b>\n\x1b[31mred\n10%\r50%\nstill\x1b[0m", None),
            [
                "a &lt;b&gt;",
                "<span class=\"fg1\">red</span>",
                "<span class=\"fg1\">50%</span>",
                "<span class=\"fg1\">still</span>"
            ]
        );
    }

    #[test]
    fn a_mark_is_where_bytes_are_missing() {
        let gap = |offset| {
            Some(OutputGap {
                offset,
                missing_bytes: 100,
            })
        };
        let mark = "<b class=\"gap\">… 100 B were not kept …</b>";
        for (output, offset, expected) in [
            (
                "headtail\nx",
                4,
                vec![format!("head{mark}tail"), "x".to_owned()],
            ),
            (
                "head\ntail",
                5,
                vec!["head".to_owned(), format!("{mark}tail")],
            ),
            ("head\n", 5, vec!["head".to_owned()]),
            ("head", 4, vec![format!("head{mark}")]),
        ] {
            assert_eq!(
                markup(output.as_bytes(), gap(offset)),
                expected,
                "{output:?}"
            );
        }
        let mut long = vec![b'x'; 100_000];
        long.push(b'\n');
        let shown = markup(&long, gap(50_000)).join("");
        assert!(shown.contains(mark) && shown.len() < 3_000, "{shown}");
    }

    #[test]
    fn a_line_of_many_megabytes_makes_a_small_row() {
        let line = vec![b'x'; 10 << 20];
        let read = rows(&line, 1..=1, 1 << 20);
        assert!(read[0].bytes.len() <= ROW_BYTES_MAX);
        let shown = read[0].markup(&mut AnsiText::default(), None, "/line");
        assert!(shown.len() < 3_000, "{}", shown.len());
        assert!(shown.ends_with("<a class=\"cut\" href=\"/line\" target=\"_blank\" rel=\"noopener\">… the whole line, 10.0 MiB</a>"));
        let mut bar: Vec<u8> = (0..10_000)
            .flat_map(|n| format!("\r{n} %").into_bytes())
            .collect();
        bar.push(b'\n');
        let read = rows(&bar, 1..=1, 1_000);
        let shown = read[0].markup(&mut AnsiText::default(), None, "/line");
        assert_eq!(shown, "9999 %");
    }

    proptest! {
        #[test]
        fn rows_are_the_lines_whatever_the_parts(
            output in "[a-cä\n]{0,80}",
            part_bytes in 1_usize..20,
            first in 1_u64..10,
            more in 0_u64..10,
        ) {
            let wanted = first..=first + more;
            let read = rows(output.as_bytes(), wanted.clone(), part_bytes);
            let lines: Vec<(u64, &str)> = (1..).zip(output.split_terminator('\n')).collect();
            let expected: Vec<&(u64, &str)> = lines.iter().filter(|(number, _)| wanted.contains(number)).collect();
            prop_assert_eq!(read.len(), expected.len());
            for (row, (number, line)) in read.iter().zip(expected) {
                prop_assert_eq!(row.number, *number);
                prop_assert_eq!(row.bytes.as_slice(), line.as_bytes());
                prop_assert_eq!(row.length, line.len() as u64);
                let start = usize::try_from(row.offset).unwrap();
                prop_assert_eq!(&output[start..start + line.len()], *line);
            }
        }
    }
}
