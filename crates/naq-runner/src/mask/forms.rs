//! The forms in which a secret may appear in what a job writes.

use std::collections::BTreeSet;

use base64::Engine;
use base64::alphabet::{Alphabet, STANDARD, URL_SAFE};
use base64::engine::general_purpose::{GeneralPurpose, NO_PAD, PAD};

/// Fewest characters of a line of a secret of several lines that is hidden by itself. A shorter one,
/// such as a brace, is no secret, and hiding it would make other output unreadable.
const LINE_CHARS_MIN: usize = 8;

/// Fewest bytes of a value whose base64 form is hidden. Of a shorter one so few characters are the
/// same in every context that other text has them too.
const BASE64_BYTES_MIN: usize = 6;

/// Lengths of the lines into which programs break base64: `base64` of GNU and MIME, and PEM.
const BASE64_LINE_CHARS: [usize; 2] = [76, 64];

/// The bytes that no percent-encoding changes, in addition to letters and digits.
const UNRESERVED: &[u8] = b"-._~";

/// The bytes that `encodeURIComponent` of JavaScript does not change either.
const UNRESERVED_JAVASCRIPT: &[u8] = b"-._~!'()*";

/// Every text that reveals a value: the value as it is, escaped for JSON, in base64 within any other
/// bytes, and percent-encoded; of a value of several lines, the same for each long line.
pub(super) fn forms(value: &str) -> BTreeSet<Vec<u8>> {
    let mut forms = BTreeSet::new();
    add_forms(value, &mut forms);
    if value.contains(['\n', '\r']) {
        let lines = value.split(['\n', '\r']).map(str::trim);
        for line in lines.filter(|line| line.chars().count() >= LINE_CHARS_MIN) {
            add_forms(line, &mut forms);
        }
    }
    forms.remove(&Vec::new());
    forms
}

fn add_forms(text: &str, forms: &mut BTreeSet<Vec<u8>>) {
    forms.insert(text.as_bytes().to_vec());
    add_json(text, forms);
    add_base64(text.as_bytes(), forms);
    for (unchanged, space) in [
        (UNRESERVED, "%20"),
        (UNRESERVED, "+"),
        (UNRESERVED_JAVASCRIPT, "%20"),
    ] {
        let upper = percent_encoded(text, unchanged, space);
        forms.insert(percent_encoded_lower(&upper));
        forms.insert(upper);
    }
}

/// The content of JSON strings: other languages also escape what is not ASCII, or the slash.
fn add_json(text: &str, forms: &mut BTreeSet<Vec<u8>>) {
    let Ok(json) = serde_json::to_string(text) else {
        return;
    };
    // without the quotation marks around it
    let content = &json[1..json.len() - 1];
    for is_upper in [false, true] {
        let ascii = ascii_json(content, is_upper);
        forms.insert(ascii.replace('/', "\\/").into_bytes());
        forms.insert(ascii.into_bytes());
    }
    forms.insert(content.replace('/', "\\/").into_bytes());
    forms.insert(content.as_bytes().to_vec());
}

/// JSON with every character outside ASCII as `\u` and its UTF-16 code.
fn ascii_json(content: &str, is_upper: bool) -> String {
    let mut ascii = String::with_capacity(content.len());
    for character in content.chars() {
        if character.is_ascii() {
            ascii.push(character);
            continue;
        }
        for unit in character.encode_utf16(&mut [0; 2]) {
            ascii.push_str(&match is_upper {
                true => format!("\\u{unit:04X}"),
                false => format!("\\u{unit:04x}"),
            });
        }
    }
    ascii
}

fn add_base64(bytes: &[u8], forms: &mut BTreeSet<Vec<u8>>) {
    if bytes.len() < BASE64_BYTES_MIN {
        return;
    }
    for alphabet in [&STANDARD, &URL_SAFE] {
        let whole = GeneralPurpose::new(alphabet, PAD).encode(bytes);
        for chars in BASE64_LINE_CHARS {
            let lines = whole.as_bytes().chunks(chars);
            forms.extend(
                lines
                    .filter(|line| line.len() >= LINE_CHARS_MIN)
                    .map(<[u8]>::to_vec),
            );
        }
        forms.insert(whole.into_bytes());
        forms.extend((0..3).map(|before| base64_within(bytes, before, alphabet)));
    }
}

/// The characters of base64 that a value always has if it follows `before` other bytes, or three more
/// for each further group, and whatever follows it.
fn base64_within(bytes: &[u8], before: usize, alphabet: &Alphabet) -> Vec<u8> {
    let padded = [&vec![0; before][..], bytes].concat();
    let mut encoded = GeneralPurpose::new(alphabet, NO_PAD).encode(&padded);
    if padded.len() % 3 != 0 {
        // the last character has bits of what follows
        encoded.pop();
    }
    // bits of what comes before: one byte reaches into the second character, two into the third
    let first = if before == 0 { 0 } else { before + 1 };
    encoded.split_off(first).into_bytes()
}

fn percent_encoded(text: &str, unchanged: &[u8], space: &str) -> Vec<u8> {
    let mut encoded = Vec::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b' ' => encoded.extend_from_slice(space.as_bytes()),
            _ if byte.is_ascii_alphanumeric() || unchanged.contains(&byte) => encoded.push(byte),
            _ => encoded.extend_from_slice(format!("%{byte:02X}").as_bytes()),
        }
    }
    encoded
}

/// The same with lower-case digits in `%xx`.
fn percent_encoded_lower(upper: &[u8]) -> Vec<u8> {
    let mut lower = upper.to_vec();
    let mut digits = 0;
    for byte in &mut lower {
        match (*byte, digits) {
            (b'%', _) => digits = 2,
            (_, 0) => {}
            _ => {
                byte.make_ascii_lowercase();
                digits -= 1;
            }
        }
    }
    lower
}
