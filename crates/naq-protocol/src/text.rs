//! Foreign text, made safe to show.

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
}
