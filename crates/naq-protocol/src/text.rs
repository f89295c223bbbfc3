//! Foreign text, made safe to show or to paste.

use std::borrow::Cow;

/// Escapes control characters and invisible or bidirectional marks, so that text from a job or a
/// producer cannot control the reader's terminal.
#[must_use]
pub fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\n' => escaped.push_str("\\n"),
            '\r' => escaped.push_str("\\r"),
            '\t' => escaped.push_str("\\t"),
            c if is_deceptive(c) => {
                escaped.push_str(&format!("\\u{{{:x}}}", u32::from(c)));
            }
            c => escaped.push(c),
        }
    }
    escaped
}

/// Escapes the same characters in JSON text, as JSON does: outside of its strings there are none, so the
/// text stays JSON with the same meaning.
#[must_use]
pub fn escape_json(json: &str) -> Cow<'_, str> {
    // A line break may stand between values, and means nothing there.
    let is_kept = |c: char| !is_deceptive(c) || matches!(c, '\n' | '\r' | '\t');
    if json.chars().all(is_kept) {
        return Cow::Borrowed(json);
    }
    let mut escaped = String::with_capacity(json.len() + 64);
    for c in json.chars() {
        if is_kept(c) {
            escaped.push(c);
            continue;
        }
        for unit in c.encode_utf16(&mut [0; 2]) {
            escaped.push_str(&format!("\\u{unit:04x}"));
        }
    }
    Cow::Owned(escaped)
}

/// Whether a character controls a terminal, breaks a line, changes the direction of the text, or shows
/// nothing at all: two texts could look the same, or one contain another.
fn is_deceptive(c: char) -> bool {
    c.is_control()
        || matches!(c,
            // The soft hyphen; the combining grapheme joiner; fillers of Hangul; vowels of Khmer that show
            // nothing; separators of Mongolian.
            '\u{ad}' | '\u{34f}' | '\u{61c}' | '\u{115f}' | '\u{1160}' | '\u{17b4}' | '\u{17b5}'
            | '\u{180b}'..='\u{180f}' | '\u{3164}' | '\u{ffa0}'
            // Spaces without a width, marks of direction, line and paragraph separators.
            | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}'
            // Annotations between lines; formats of music.
            | '\u{fff9}'..='\u{fffb}' | '\u{1d173}'..='\u{1d17a}'
            // Tags, which spell out ASCII without showing it, and variation selectors beyond the first 16,
            // which can do the same.
            | '\u{e0000}'..='\u{e0fff}')
}

/// The first 80 characters of a text that an error message quotes, so that hostile input stays short.
#[must_use]
pub fn excerpt(text: &str) -> String {
    const CHARS_MAX: usize = 80;
    match text.char_indices().nth(CHARS_MAX) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

/// A command line that can be pasted into a shell: words that need it are in quotes.
#[must_use]
pub fn command_line<'a>(words: impl IntoIterator<Item = &'a str>) -> String {
    let quoted = words.into_iter().map(shell_word);
    quoted.collect::<Vec<_>>().join(" ")
}

fn shell_word(word: &str) -> String {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_./:=@%+,".contains(&byte);
    if !word.is_empty() && word.bytes().all(is_plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', "'\\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escaped_text_cannot_control_the_terminal() {
        assert_eq!(
            escape("a\x1b[31mb\x07\u{202e}c\u{9b}"),
            "a\\u{1b}[31mb\\u{7}\\u{202e}c\\u{9b}"
        );
        assert_eq!(escape("Grüße 日本"), "Grüße 日本");
    }

    #[test]
    fn text_that_is_invisible_or_breaks_a_line_is_escaped() {
        assert_eq!(
            escape("a\u{2028}b\u{2029}c\u{85}"),
            "a\\u{2028}b\\u{2029}c\\u{85}"
        );
        assert_eq!(escape("pass\u{ad}word"), "pass\\u{ad}word");
        assert_eq!(escape("ok\u{e0068}\u{e0069}"), "ok\\u{e0068}\\u{e0069}");
        assert_eq!(
            escape("\u{e0100}\u{3164}\u{206a}\u{180e}"),
            "\\u{e0100}\\u{3164}\\u{206a}\\u{180e}"
        );
        // Letters with accents, and the picture form of a sign, are shown.
        assert_eq!(
            escape("e\u{301} \u{2764}\u{fe0f}"),
            "e\u{301} \u{2764}\u{fe0f}"
        );
    }

    #[test]
    fn escaped_json_means_the_same() {
        let hostile = "\u{9b}31m\u{202e}\u{7f}\u{2028}\u{e0041}\u{ad}";
        let json = serde_json::to_string(&[hostile, "\u{1b}[2J", "Grüße 日本"]).unwrap();
        let escaped = escape_json(&json);
        assert_eq!(
            escaped,
            "[\"\\u009b31m\\u202e\\u007f\\u2028\\udb40\\udc41\\u00ad\",\"\\u001b[2J\",\"Grüße 日本\"]"
        );
        let read: Vec<String> = serde_json::from_str(&escaped).unwrap();
        assert_eq!(read[0], hostile);
        let plain = "{\n  \"a\":\t1\n}";
        assert!(matches!(escape_json(plain), Cow::Borrowed(_)));
    }

    #[test]
    fn command_line_can_be_pasted() {
        assert_eq!(
            command_line(["naq", "cron", "next", "0 5 * * *", "it's", ""]),
            r"naq cron next '0 5 * * *' 'it'\''s' ''"
        );
    }
}
