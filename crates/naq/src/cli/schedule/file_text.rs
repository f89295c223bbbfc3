//! The text of a file of schedules, whatever editor saved it.

use super::schedule_file::Diagnostic;
use crate::cli::exit::Failure;

/// What some editors write before the text of a file in UTF-8.
const BYTE_ORDER_MARK: char = '\u{feff}';

/// Decodes a file. A byte order mark before UTF-8 is left out, with a warning: a cron of the system
/// would stumble over it.
///
/// # Errors
/// Returns a usage error that names the line and the likely encoding if the file is not UTF-8.
pub(super) fn decode(file: &str, bytes: Vec<u8>) -> Result<(String, Option<Diagnostic>), Failure> {
    if bytes.starts_with(&[0xff, 0xfe]) || bytes.starts_with(&[0xfe, 0xff]) {
        return Err(Failure::usage(format!(
            "{file}:1: the byte order mark says that the file is UTF-16, and it must be UTF-8"
        ))
        .hint("`iconv -f utf-16 -t utf-8` converts it"));
    }
    let mut text = String::from_utf8(bytes).map_err(|error| {
        let valid = error.utf8_error().valid_up_to();
        let bytes = error.as_bytes();
        let line = bytes[..valid].iter().filter(|byte| **byte == b'\n').count() + 1;
        let byte = bytes[valid];
        Failure::usage(format!(
            "{file}:{line}: the byte 0x{byte:02X} is not UTF-8; the file is probably Latin-1 or Windows-1252"
        ))
        .hint("`iconv -f latin1 -t utf-8` converts it")
    })?;
    if !text.starts_with(BYTE_ORDER_MARK) {
        return Ok((text, None));
    }
    text.remove(0);
    let warning = "the file begins with a byte order mark, which naq ignores and crons do not";
    Ok((text, Some(Diagnostic::new(1, warning))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_is_not_utf_8_is_refused_with_its_line_and_encoding() {
        let refusal = |bytes: &[u8]| decode("f", bytes.to_vec()).unwrap_err().message;
        let latin = refusal(b"# one\n0 5 * * * echo gr\xfc\xdfe\n");
        assert!(
            latin.contains("f:2: the byte 0xFC") && latin.contains("Latin-1"),
            "{latin}"
        );
        assert!(refusal(b"\xff\xfe0\0 \0").contains("f:1: "));
        assert!(refusal(b"\xfe\xff\x000").contains("UTF-16"));
    }

    #[test]
    fn a_byte_order_mark_is_left_out_with_a_warning() {
        let (text, warning) = decode("f", "\u{feff}@daily x\n".into()).unwrap();
        assert_eq!(text, "@daily x\n");
        assert_eq!(warning.unwrap().line, 1);
        assert_eq!(decode("f", "ü".into()).unwrap(), ("ü".to_owned(), None));
    }
}
