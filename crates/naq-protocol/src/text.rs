//! Text of strangers, made fit to be shown.

/// Makes control characters, escape sequences and marks that turn the direction of text visible,
/// so that what a job or a producer wrote cannot act on the reader's terminal.
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

/// The Unicode bidirectional controls, and what hides in plain sight: zero-width characters.
fn is_direction_mark(c: char) -> bool {
    matches!(c, '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{2069}' | '\u{feff}' | '\u{61c}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_acts_on_the_terminal() {
        assert_eq!(
            escape("a\x1b[31mb\x07\u{202e}c\u{9b}"),
            "a\\u{1b}[31mb\\u{7}\\u{202e}c\\u{9b}"
        );
        assert_eq!(escape("Grüße 日本"), "Grüße 日本");
    }
}
