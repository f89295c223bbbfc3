//! Searches an output for a text, line by line. Upper and lower case differ only if the text has an upper-case
//! letter. Colours of the output are not part of its text.

use std::borrow::Cow;

use memchr::memmem::Finder;

use crate::web::ansi::without_colours;

/// Maximum number of bytes of a line that are searched at once. A longer line is searched in pieces.
const PIECE_BYTES_MAX: usize = 256 << 10;

/// Number of bytes by which two pieces overlap, in addition to the length of the text: longer than a sequence
/// of colours.
const OVERLAP_BYTES: usize = 128;

/// Number of bytes that an excerpt has before the text, and after it.
const EXCERPT_BYTES: (usize, usize) = (60, 140);

/// Maximum number of characters of the text.
pub(in crate::web) const NEEDLE_CHARS_MAX: usize = 120;

/// The text to search for.
#[derive(Clone, Debug)]
pub(in crate::web) struct Needle {
    finder: Finder<'static>,
    case: Case,
}

/// Which letters are the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Case {
    Differs,
    /// The text is ASCII.
    IgnoredInAscii,
    Ignored,
}

impl std::str::FromStr for Needle {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Needle, &'static str> {
        match text.chars().count() {
            0 => return Err("expected the text to search for"),
            1..=NEEDLE_CHARS_MAX => {}
            _ => return Err("expected a text of at most 120 characters"),
        }
        if text.contains('\n') {
            return Err("expected a text without a line feed");
        }
        let case = match text.chars().any(char::is_uppercase) {
            true => Case::Differs,
            false if text.is_ascii() => Case::IgnoredInAscii,
            false => Case::Ignored,
        };
        let finder = match case {
            Case::Ignored => Finder::new(text.to_lowercase().as_bytes()).into_owned(),
            _ => Finder::new(text).into_owned(),
        };
        Ok(Needle { finder, case })
    }
}

/// A line that contains the text.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, schemars::JsonSchema)]
#[schemars(rename = "output_match")]
pub(in crate::web) struct Match {
    /// The number of the line, from 1.
    pub(in crate::web) line: u64,
    /// The part of the line that has the text, at most some 200 bytes around it. `…` is where it is cut.
    pub(in crate::web) text: String,
}

/// Collects the lines that contain a text from the parts of an output.
pub(super) struct Searcher {
    needle: Needle,
    /// The incomplete line at the end of the parts so far, or its end.
    rest: Vec<u8>,
    /// Whether the rest of the current line is not searched, because the line was found.
    skips_line: bool,
    found: Found,
}

struct Found {
    /// The number of the first line that was not searched.
    line: u64,
    matches: Vec<Match>,
    matches_max: usize,
}

impl Searcher {
    /// Searches parts that begin with this line.
    pub(super) fn new(needle: Needle, line: u64, matches_max: usize) -> Searcher {
        Searcher {
            needle,
            rest: Vec::new(),
            skips_line: false,
            found: Found {
                line,
                matches: Vec::new(),
                matches_max,
            },
        }
    }

    pub(super) fn push(&mut self, part: &[u8]) {
        let mut part = part;
        if self.skips_line {
            let Some(end) = memchr::memchr(b'\n', part) else {
                return;
            };
            part = part.get(end + 1..).unwrap_or_default();
            self.skips_line = false;
            self.found.line += 1;
        }
        self.rest.extend_from_slice(part);
        if let Some(end) = memchr::memrchr(b'\n', &self.rest) {
            let incomplete = self.rest.split_off(end + 1);
            let lines = std::mem::replace(&mut self.rest, incomplete);
            self.found.search(&self.needle, &lines);
        }
        if self.rest.len() > PIECE_BYTES_MAX {
            let matches = self.found.matches.len();
            self.found.search(&self.needle, &self.rest);
            self.skips_line = self.found.matches.len() > matches;
            let overlap = self.needle.finder.needle().len() + OVERLAP_BYTES;
            let overlap = if self.skips_line { 0 } else { overlap };
            self.rest.drain(..self.rest.len() - overlap);
        }
    }

    /// Whether no more matches are collected.
    pub(super) fn is_full(&self) -> bool {
        self.found.is_full()
    }

    /// The number of the first line that was not searched to its end.
    pub(super) fn line(&self) -> u64 {
        self.found.line
    }

    /// Ends the output. Returns the matches, in the order of lines.
    pub(super) fn finish(mut self) -> Vec<Match> {
        if !self.skips_line {
            self.found.search(&self.needle, &self.rest);
        }
        self.found.matches
    }
}

impl Found {
    fn is_full(&self) -> bool {
        self.matches.len() >= self.matches_max
    }

    /// Searches some lines. The last one counts as searched if it has its line feed.
    fn search(&mut self, needle: &Needle, lines: &[u8]) {
        let text = without_colours(lines);
        match needle.case {
            Case::Differs => self.search_text(needle, &text, &text),
            Case::IgnoredInAscii => {
                self.search_text(needle, &text, &text.to_ascii_lowercase());
            }
            Case::Ignored => self.search_each_line(needle, &text),
        }
        self.line += memchr::memchr_iter(b'\n', lines).count() as u64;
    }

    /// Searches a text of some lines. `folded` is the same text in the case of the needle.
    fn search_text(&mut self, needle: &Needle, text: &[u8], folded: &[u8]) {
        let (mut number, mut counted, mut from) = (self.line, 0, 0);
        while !self.is_full() {
            let unsearched = folded.get(from..).unwrap_or_default();
            let Some(at) = needle.finder.find(unsearched).map(|at| from + at) else {
                return;
            };
            let between = text.get(counted..at).unwrap_or_default();
            number += memchr::memchr_iter(b'\n', between).count() as u64;
            let (before, after) = text.split_at(at.min(text.len()));
            let start = memchr::memrchr(b'\n', before).map_or(0, |feed| feed + 1);
            let end = memchr::memchr(b'\n', after).map_or(text.len(), |feed| at + feed);
            self.matches.push(Match {
                line: number,
                text: excerpt(text.get(start..end).unwrap_or_default(), at - start, needle),
            });
            (counted, from) = (at, end);
        }
    }

    /// As [`Found::search_text`], for letters whose cases may have different lengths.
    fn search_each_line(&mut self, needle: &Needle, text: &[u8]) {
        for (number, line) in (self.line..).zip(text.split(|byte| *byte == b'\n')) {
            if self.is_full() {
                return;
            }
            let folded = String::from_utf8_lossy(line).to_lowercase();
            if let Some(at) = needle.finder.find(folded.as_bytes()) {
                self.matches.push(Match {
                    line: number,
                    text: excerpt(line, at.min(line.len()), needle),
                });
            }
        }
    }
}

/// The part of a line around the text that begins at this byte.
fn excerpt(line: &[u8], at: usize, needle: &Needle) -> String {
    let is_inside = |at: usize| {
        line.get(at)
            .is_some_and(|byte| *byte & 0b1100_0000 == 0b1000_0000)
    };
    // not in the middle of a character, which has at most four bytes
    let boundary = |at: usize| {
        (at.saturating_sub(3)..=at)
            .rev()
            .find(|at| !is_inside(*at))
            .unwrap_or(at)
    };
    let (before, after) = EXCERPT_BYTES;
    let start = boundary(at.saturating_sub(before));
    let end = boundary((at + needle.finder.needle().len() + after).min(line.len()));
    let shown: Cow<str> = String::from_utf8_lossy(line.get(start..end).unwrap_or_default());
    let cut = |is_cut: bool| if is_cut { "…" } else { "" };
    format!(
        "{}{}{}",
        cut(start > 0),
        shown.trim_end_matches('\r'),
        cut(end < line.len())
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn search(output: &[u8], needle: &str, part_bytes: usize, matches_max: usize) -> Vec<Match> {
        let mut searcher = Searcher::new(needle.parse().unwrap(), 1, matches_max);
        for part in output.chunks(part_bytes) {
            searcher.push(part);
            if searcher.is_full() {
                break;
            }
        }
        searcher.finish()
    }

    fn lines(output: &str, needle: &str) -> Vec<u64> {
        let matches = search(output.as_bytes(), needle, 5, 100);
        matches.into_iter().map(|found| found.line).collect()
    }

    #[test]
    fn case_matters_only_if_the_text_has_an_upper_case_letter() {
        let output = "Error one\nok\nERROR two, error three\nÄrger\närger\n";
        assert_eq!(lines(output, "error"), [1, 3]);
        assert_eq!(lines(output, "Error"), [1]);
        assert_eq!(lines(output, "ärger"), [4, 5]);
        assert_eq!(lines(output, "Ärger"), [4]);
        assert_eq!(lines(output, "none"), [0; 0]);
        assert_eq!(lines("a.b\naxb", "a.b"), [1]);
    }

    #[test]
    fn colours_are_not_part_of_the_text() {
        let output = "\u{1b}[31mred\u{1b}[0m: failed\n";
        let found = search(output.as_bytes(), "red: fail", 1_000, 10);
        assert_eq!(found[0].text, "red: failed");
        assert_eq!(lines(output, "31m"), [0; 0]);
    }

    #[test]
    fn a_long_line_is_found_once_and_shown_in_part() {
        let mut line = vec![b'x'; 3 << 20];
        line.extend_from_slice(b"needle");
        line.extend(vec![b'y'; 1 << 20]);
        line.extend_from_slice(b"needle\nneedle\n");
        let found = search(&line, "needle", 128 << 10, 10);
        assert_eq!(
            found.iter().map(|found| found.line).collect::<Vec<_>>(),
            [1, 2]
        );
        let text = &found[0].text;
        assert!(
            text.len() < 300 && text.starts_with("…x") && text.ends_with("y…"),
            "{text}"
        );
        // where pieces meet
        for at in (PIECE_BYTES_MAX - 10)..(PIECE_BYTES_MAX + 10) {
            let mut line = vec![b'x'; at];
            line.extend_from_slice(b"needle");
            line.extend(vec![b'y'; PIECE_BYTES_MAX]);
            assert_eq!(search(&line, "needle", 1_000, 10).len(), 1, "{at}");
        }
    }

    #[test]
    fn a_search_stops_after_its_last_match() {
        let output = "needle\n".repeat(1_000);
        let mut searcher = Searcher::new("needle".parse().unwrap(), 1, 10);
        searcher.push(output.as_bytes());
        assert!(searcher.is_full());
        assert_eq!(searcher.finish().last().map(|found| found.line), Some(10));
    }

    #[test]
    fn a_wrong_text_is_refused() {
        for text in ["", "a\nb", &"x".repeat(501)] {
            assert!(text.parse::<Needle>().is_err(), "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn the_lines_that_contain_the_text_are_found(
            output in "[abAB\n]{0,60}",
            needle in "[abAB]{1,2}",
            part_bytes in 1_usize..12,
        ) {
            let found = search(output.as_bytes(), &needle, part_bytes, 1_000);
            let ignores_case = !needle.chars().any(char::is_uppercase);
            let contains = |line: &str| match ignores_case {
                true => line.to_lowercase().contains(&needle),
                false => line.contains(&needle),
            };
            let expected: Vec<(u64, &str)> = (1..).zip(output.split('\n')).filter(|(_, line)| contains(line)).collect();
            prop_assert_eq!(found.len(), expected.len());
            for (found, (number, line)) in found.iter().zip(expected) {
                prop_assert_eq!((found.line, found.text.as_str()), (number, line));
            }
        }

        #[test]
        fn an_excerpt_has_no_broken_characters(line in "[aä日😀]{0,200}", at in 0_usize..200) {
            let needle: Needle = "a".parse().unwrap();
            let at = at.min(line.len());
            let shown = excerpt(line.as_bytes(), at, &needle);
            prop_assert!(!shown.contains(char::REPLACEMENT_CHARACTER));
        }
    }
}
