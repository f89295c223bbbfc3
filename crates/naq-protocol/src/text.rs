//! Foreign text, made safe to show or to paste.

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
            c if c.is_control() || is_direction_mark(c) => {
                escaped.push_str(&format!("\\u{{{:x}}}", u32::from(c)));
            }
            c => escaped.push(c),
        }
    }
    escaped
}

/// Whether a character is a bidirectional control or has no width.
fn is_direction_mark(c: char) -> bool {
    matches!(c, '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{2069}' | '\u{feff}' | '\u{61c}')
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
    fn command_line_can_be_pasted() {
        assert_eq!(
            command_line(["naq", "cron", "next", "0 5 * * *", "it's", ""]),
            r"naq cron next '0 5 * * *' 'it'\''s' ''"
        );
    }
}
