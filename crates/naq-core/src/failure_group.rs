//! Groups failures by their cause.

use std::fmt;

use naq_protocol::Reason;

/// Maximum length of [`FailureGroup::error`], in characters.
pub const FAILURE_ERROR_CHARS_MAX: usize = 200;

/// Maximum length of a part of an error between two spaces, in characters. A longer one is replaced.
const CHUNK_CHARS_MAX: usize = 80;

/// Maximum number of characters of an error that are read.
const READ_CHARS_MAX: usize = 4_096;

/// The common part of failures with the same cause. [`failure_group`] returns it.
///
/// Its text names the cause: `exit 3`, `spawn: cannot start `…``.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FailureGroup {
    /// Why the jobs failed. `None` if it is unknown.
    pub reason: Option<Reason>,
    /// The exit code, if it is the reason.
    pub exit_code: Option<i32>,
    /// The signal, if it is the reason.
    pub signal: Option<i32>,
    /// The first line of the error, without the parts that differ from job to job. `None` without an error.
    pub error: Option<String>,
}

/// The group of a failure: its reason, with the exit code or the signal if that is the reason, and the
/// first line of its error. In the error, `<id>` replaces ids and UUIDs, `<n>` numbers, `<hex>` hexadecimal
/// numbers, `<path>` paths, and `…` what is between quotes.
///
/// The group of a group's error is the same group, and the error has at most
/// [`FAILURE_ERROR_CHARS_MAX`] characters.
///
/// ```
/// use naq_core::failure_group;
/// use naq_protocol::Reason;
///
/// let of = |error| failure_group(Some(Reason::Spawn), None, None, Some(error));
/// let group = of("cannot open /srv/data/17.csv: order 4711 is locked");
/// assert_eq!(group, of("cannot open /tmp/x: order 12 is locked"));
/// assert_eq!(group.to_string(), "spawn: cannot open <path>: order <n> is locked");
/// ```
#[must_use]
pub fn failure_group(
    reason: Option<Reason>,
    exit_code: Option<i32>,
    signal: Option<i32>,
    error: Option<&str>,
) -> FailureGroup {
    let error = error.map(pattern).filter(|pattern| !pattern.is_empty());
    FailureGroup {
        reason,
        exit_code: exit_code.filter(|_| reason == Some(Reason::Exit)),
        signal: signal.filter(|_| reason == Some(Reason::Signal)),
        error,
    }
}

impl fmt::Display for FailureGroup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.reason, self.exit_code, self.signal) {
            (_, Some(code), _) => write!(f, "exit {code}")?,
            (_, _, Some(signal)) => write!(f, "signal {signal}")?,
            (Some(reason), ..) => write!(f, "{reason}")?,
            (None, ..) => f.write_str("unknown reason")?,
        }
        match &self.error {
            Some(error) => write!(f, ": {error}"),
            None => Ok(()),
        }
    }
}

/// The first line of an error, without the parts that differ from job to job.
fn pattern(error: &str) -> String {
    let line = error.trim_start().lines().next().unwrap_or_default();
    let line: Vec<char> = line.chars().take(READ_CHARS_MAX).collect();
    let replaced = replace_words(&replace_quoted(&line));
    let mut pattern = String::new();
    let mut chars = 0;
    for chunk in replaced.split_whitespace() {
        let chunk = match chunk.chars().count() {
            0..=CHUNK_CHARS_MAX => chunk,
            _ => "<text>",
        };
        let length = chunk.chars().count() + usize::from(chars > 0);
        // cut between two chunks, because a chunk that is cut could turn into a different one
        if chars + length > FAILURE_ERROR_CHARS_MAX {
            break;
        }
        if chars > 0 {
            pattern.push(' ');
        }
        pattern.push_str(chunk);
        chars += length;
    }
    pattern
}

/// Replaces the text between two quotes by `…`. A quote without a counterpart stays.
fn replace_quoted(line: &[char]) -> Vec<char> {
    let mut replaced = Vec::with_capacity(line.len());
    // if an apostrophe has no counterpart, a later one has none either
    let mut without_end = [false; 3];
    let mut at = 0;
    while let Some(&c) = line.get(at) {
        let kind = match c {
            '"' => 0,
            '`' => 1,
            '\'' => 2,
            _ => 3,
        };
        let is_open = kind < 3 && !without_end[kind] && may_open(line, at);
        let end = match is_open {
            // an already replaced part stays the same, so that this function is idempotent
            _ if kind < 3 && line.get(at + 1) == Some(&c) => Some(at + 1),
            _ if kind < 3 && line.get(at + 1..at + 3) == Some(&['…', c]) => Some(at + 2),
            true => {
                let end = (at + 1..line.len()).find(|end| may_close(line, *end, c));
                without_end[kind] = end.is_none();
                end
            }
            false => None,
        };
        match end {
            // empty quotes
            Some(end) if end == at + 1 => replaced.extend([c, c]),
            Some(end) => {
                replaced.extend([c, '…', c]);
                at = end;
            }
            None => replaced.push(c),
        }
        at = match end {
            Some(end) => end + 1,
            None => at + 1,
        };
    }
    replaced
}

/// Whether a quote may open a quotation: an apostrophe inside of a word does not. `>` may be the end of
/// something that was replaced, which had been a word.
fn may_open(line: &[char], at: usize) -> bool {
    line[at] != '\''
        || !at
            .checked_sub(1)
            .and_then(|before| line.get(before))
            .is_some_and(|before| before.is_alphanumeric() || *before == '>')
}

/// Whether a character closes a quotation that `quote` opened.
fn may_close(line: &[char], at: usize, quote: char) -> bool {
    line[at] == quote
        && (quote != '\''
            || !line
                .get(at + 1)
                .is_some_and(|next| next.is_alphanumeric() || *next == '<'))
}

fn is_word_char(c: char) -> bool {
    c.is_alphanumeric()
        || matches!(
            c,
            '_' | '-' | '.' | '/' | '\\' | '~' | '+' | '%' | '@' | '=' | '#' | '&' | '?'
        )
}

/// Replaces words that differ from job to job.
fn replace_words(line: &[char]) -> String {
    let mut replaced = String::with_capacity(line.len());
    let mut rest = line;
    while let Some(c) = rest.first() {
        let length = rest.iter().take_while(|c| is_word_char(**c)).count();
        if length == 0 {
            replaced.push(if c.is_control() { ' ' } else { *c });
            rest = &rest[1..];
            continue;
        }
        let (word, after) = rest.split_at(length);
        // a full stop ends a sentence, and a file name seldom
        let name = word
            .iter()
            .rposition(|c| *c != '.')
            .map_or(0, |last| last + 1);
        let word: String = word.iter().collect();
        let (word, stops) = word.split_at(
            word.char_indices()
                .nth(name)
                .map_or(word.len(), |(at, _)| at),
        );
        replaced.push_str(&replace_word(word));
        replaced.push_str(stops);
        rest = after;
    }
    // `1.2.3` and `1.2` are both numbers
    while replaced.contains("<n>.<n>") {
        replaced = replaced.replace("<n>.<n>", "<n>");
    }
    replaced
}

fn replace_word(word: &str) -> String {
    if is_uuid(word) {
        return "<id>".to_owned();
    }
    if is_path(word) {
        return "<path>".to_owned();
    }
    let mut replaced = String::with_capacity(word.len());
    let mut rest = word;
    while let Some(first) = rest.chars().next() {
        let is_part = |c: char| c.is_alphanumeric();
        let length = match is_part(first) {
            true => rest.find(|c| !is_part(c)),
            false => rest.find(is_part),
        };
        let (part, after) = rest.split_at(length.unwrap_or(rest.len()));
        match is_part(first) {
            true => replaced.push_str(&replace_part(part)),
            false => replaced.push_str(part),
        }
        rest = after;
    }
    replaced
}

/// Replaces a part of a word, which has letters and digits only.
fn replace_part(part: &str) -> String {
    let is_digit = |c: char| c.is_numeric();
    if !part.contains(is_digit) {
        return part.to_owned();
    }
    let digits = part.strip_prefix("0x").or_else(|| part.strip_prefix("0X"));
    let is_hex = |text: &str| text.chars().all(|c| c.is_ascii_hexdigit());
    let has_letter = part.contains(|c: char| !is_digit(c));
    if digits.is_some_and(is_hex) || (has_letter && part.len() >= 6 && is_hex(part)) {
        return "<hex>".to_owned();
    }
    // a machine generated alternating letters and digits: `01J8ZQ5T`
    let turns = part.chars().zip(part.chars().skip(1));
    let turns = turns.filter(|(one, next)| is_digit(*one) != is_digit(*next));
    if turns.count() > 1 && part.len() >= 6 {
        return "<id>".to_owned();
    }
    let mut replaced = String::with_capacity(part.len() + 4);
    let mut was_digit = false;
    for c in part.chars() {
        match (is_digit(c), was_digit) {
            (true, false) => replaced.push_str("<n>"),
            (true, true) => {}
            (false, _) => replaced.push(c),
        }
        was_digit = is_digit(c);
    }
    replaced
}

/// Whether a word has the form of a UUID, with or without its hyphens.
fn is_uuid(word: &str) -> bool {
    let lengths = word.split('-').map(str::len);
    let is_hex = |c: char| c.is_ascii_hexdigit();
    lengths.eq([8, 4, 4, 4, 12]) && word.chars().all(|c| is_hex(c) || c == '-')
}

/// Whether a word is a path or an address. `I/O` and `read/write` are words, and `3/10` is a number of
/// another.
fn is_path(word: &str) -> bool {
    let is_slash = |c: char| matches!(c, '/' | '\\');
    if !word.contains(is_slash) || word.chars().all(is_slash) {
        return false;
    }
    let parts: Vec<&str> = word.split(is_slash).collect();
    let are = |of: fn(char) -> bool| {
        parts.len() == 2
            && parts
                .iter()
                .all(|part| !part.is_empty() && part.chars().all(of))
    };
    // a Roman numeral `Ⅻ` is alphabetic too, and is replaced as a number
    !are(|c| c.is_alphabetic() && !c.is_numeric()) && !are(char::is_numeric)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn group(error: &str) -> FailureGroup {
        failure_group(Some(Reason::Spawn), None, None, Some(error))
    }

    #[test]
    fn what_differs_from_job_to_job_is_replaced() {
        for (error, expected) in [
            ("order 4711 is locked", "order <n> is locked"),
            ("took 1.5s, 12% of 3/10", "took <n>s, <n>% of <n>/<n>"),
            ("cannot open /srv/data/17.csv: no", "cannot open <path>: no"),
            ("at src/main.rs:17:4", "at <path>:<n>:<n>"),
            (r"cannot open C:\Users\anna\x", "cannot open C:<path>"),
            ("I/O error and read/write", "I/O error and read/write"),
            (
                "job 3f2504e0-4f89-11d3-9a0c-0305e82c3301 lost",
                "job <id> lost",
            ),
            ("job 01J8ZQ5T7K lost", "job <id> lost"),
            ("at 0x7ffe12 in deadbeef01", "at <hex> in <hex>"),
            (
                "worker-12 of host3.example.com",
                "worker-<n> of host<n>.example.com",
            ),
            ("cannot start `foo bar`", "cannot start `…`"),
            ("it's a 'b c' and \"d\"", "it's a '…' and \"…\""),
            ("no such user: \"\".", "no such user: \"\"."),
            ("nats://host:4222 refused", "nats:<path>:<n> refused"),
            ("  first line 1\nsecond line", "first line <n>"),
            ("python3.11 v1.2.3.", "python<n> v<n>."),
            ("aⅫ/b and a½/b", "<path> and <path>"),
        ] {
            assert_eq!(group(error).error.as_deref(), Some(expected), "{error}");
        }
    }

    #[test]
    fn jobs_without_an_error_are_grouped_by_how_they_ended() {
        let of = |reason, error| failure_group(Some(reason), Some(3), Some(9), error);
        assert_eq!(of(Reason::Exit, None).to_string(), "exit 3");
        assert_eq!(of(Reason::Signal, Some(" \n")).to_string(), "signal 9");
        assert_eq!(
            of(Reason::Timeout, Some("after 3s")).to_string(),
            "timeout: after <n>s"
        );
        assert_eq!(
            failure_group(None, None, None, None).to_string(),
            "unknown reason"
        );
        assert_ne!(
            of(Reason::Exit, None),
            failure_group(Some(Reason::Exit), Some(4), None, None)
        );
    }

    #[test]
    fn a_long_error_is_cut_between_words() {
        let long = group(&"word ".repeat(100)).error.unwrap();
        assert!(
            long.ends_with(" word") && long.chars().count() <= FAILURE_ERROR_CHARS_MAX,
            "{long}"
        );
        assert_eq!(group(&"x".repeat(5_000)).error.as_deref(), Some("<text>"));
    }

    /// Text of the kind that confuses a parser: quotes, slashes, digits and what replaces them.
    fn text() -> impl Strategy<Value = String> {
        let part = prop_oneof![
            "[a-f0-9]{1,12}",
            "[ '\"`./\\\\<>…_-]{1,4}",
            "(<n>|<id>|<hex>|<path>|'…'|I/O|3/4|Ⅻ|½|٣|it's|0x1f| )",
            "\\PC{1,6}",
            ".{1,6}",
        ];
        proptest::collection::vec(part, 0..40).prop_map(|parts| parts.concat())
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2_000))]
        #[test]
        fn a_group_is_its_own_group_and_is_bounded(error in text()) {
            let first = group(&error);
            let shown = first.to_string();
            prop_assert!(!shown.is_empty());
            let pattern = first.error.clone().unwrap_or_default();
            prop_assert!(pattern.chars().count() <= FAILURE_ERROR_CHARS_MAX);
            prop_assert!(!pattern.contains(|c: char| c.is_ascii_digit() || c.is_control()), "{pattern}");
            prop_assert_eq!(group(&pattern), first);
        }

        #[test]
        fn numbers_do_not_matter(one in 0u64.., other in 0u64..) {
            let of = |number: u64| group(&format!("order {number} of 'shop {number}' failed"));
            prop_assert_eq!(of(one), of(other));
        }
    }
}
