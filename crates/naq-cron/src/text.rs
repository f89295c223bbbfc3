//! Foreign text in error messages: short, and harmless to the terminal that shows it.

/// The most characters of a foreign text that an error message quotes.
const CHARS_MAX: usize = 80;

/// The first 80 characters of a text, with control characters and bidirectional marks escaped, so
/// that an error message can quote it.
pub(crate) fn quoted(text: &str) -> String {
    let mut quoted = String::with_capacity(text.len().min(4 * CHARS_MAX));
    for (index, character) in text.chars().enumerate() {
        if index == CHARS_MAX {
            quoted.push('…');
            break;
        }
        if character.is_control() || is_invisible(character) {
            quoted.extend(character.escape_default());
        } else {
            quoted.push(character);
        }
    }
    quoted
}

/// Whether a character reorders the text around it or has no width.
fn is_invisible(character: char) -> bool {
    matches!(character, '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{2069}' | '\u{feff}' | '\u{61c}')
}

#[cfg(test)]
mod tests {
    use super::quoted;

    #[test]
    fn quoted_text_is_short_and_escaped() {
        assert_eq!(quoted("a\x1b[31mb\u{202e}"), "a\\u{1b}[31mb\\u{202e}");
        assert_eq!(quoted("a\nb\tü"), "a\\nb\\tü");
        assert_eq!(quoted(&"x".repeat(81)), format!("{}…", "x".repeat(80)));
    }
}
