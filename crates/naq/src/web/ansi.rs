//! Converts output of jobs to markup: the colours of a terminal become classes, everything else text.
//!
//! Of the escape sequences only SGR (colours, bold and the like) has an effect. Any other one is shown with `␛`
//! in place of its first byte: a job can neither move text on the page, nor hide it, nor make links.

use std::borrow::Cow;

use naq_protocol::escape;

/// Characters of a line that are shown. A longer line ends with a mark.
pub(super) const LINE_CHARS_MAX: usize = 2_000;

/// Longest parameters of an SGR sequence, in bytes. A longer sequence is shown as text.
const PARAMETERS_BYTES_MAX: usize = 64;

/// A colour of a palette of 16: 0 to 7 and their bright forms.
type Colour = u8;

/// The style of text.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Style {
    foreground: Option<Colour>,
    background: Option<Colour>,
    is_bold: bool,
    is_dim: bool,
    is_italic: bool,
    is_underlined: bool,
    is_inverse: bool,
    is_struck: bool,
}

impl Style {
    /// The classes of this style. Empty for plain text.
    fn classes(self) -> String {
        let mut classes = Vec::new();
        classes.extend(self.foreground.map(|colour| format!("fg{colour}")));
        classes.extend(self.background.map(|colour| format!("bg{colour}")));
        for (is_on, class) in [
            (self.is_bold, "bold"),
            (self.is_dim, "dim"),
            (self.is_italic, "italic"),
            (self.is_underlined, "underline"),
            (self.is_inverse, "inverse"),
            (self.is_struck, "struck"),
        ] {
            if is_on {
                classes.push(class.to_owned());
            }
        }
        classes.join(" ")
    }

    /// Applies the parameters of an SGR sequence. Unknown ones have no effect.
    fn apply(&mut self, parameters: &str) {
        let mut numbers = parameters
            .split([';', ':'])
            .map(|number| number.parse::<u16>().unwrap_or(0));
        while let Some(number) = numbers.next() {
            match number {
                0 => *self = Style::default(),
                1 => self.is_bold = true,
                2 => self.is_dim = true,
                3 => self.is_italic = true,
                4 | 21 => self.is_underlined = true,
                7 => self.is_inverse = true,
                9 => self.is_struck = true,
                22 => (self.is_bold, self.is_dim) = (false, false),
                23 => self.is_italic = false,
                24 => self.is_underlined = false,
                27 => self.is_inverse = false,
                29 => self.is_struck = false,
                30..=37 => self.foreground = colour(number - 30),
                38 => self.foreground = extended_colour(&mut numbers),
                39 => self.foreground = None,
                40..=47 => self.background = colour(number - 40),
                48 => self.background = extended_colour(&mut numbers),
                49 => self.background = None,
                90..=97 => self.foreground = colour(number - 90 + 8),
                100..=107 => self.background = colour(number - 100 + 8),
                _ => {}
            }
        }
    }
}

fn colour(number: u16) -> Option<Colour> {
    Colour::try_from(number).ok()
}

/// The nearest of 16 colours to one of 256, or to one of 16 million.
fn extended_colour(numbers: &mut impl Iterator<Item = u16>) -> Option<Colour> {
    match numbers.next()? {
        5 => match numbers.next()? {
            number @ 0..=15 => colour(number),
            number @ 16..=231 => {
                let level = |part: u16| part * 51;
                let cube = number - 16;
                Some(nearest(
                    level(cube / 36),
                    level(cube / 6 % 6),
                    level(cube % 6),
                ))
            }
            grey @ 232..=255 => {
                let level = 8 + (grey - 232) * 10;
                Some(nearest(level, level, level))
            }
            _ => None,
        },
        2 => Some(nearest(numbers.next()?, numbers.next()?, numbers.next()?)),
        _ => None,
    }
}

/// The one of the 16 colours that has the same bright components.
fn nearest(red: u16, green: u16, blue: u16) -> Colour {
    let [red, green, blue] = [red, green, blue].map(|part| part.min(255));
    let brightest = red.max(green).max(blue);
    if brightest < 48 {
        return 0;
    }
    let has = |part: u16| u8::from(part * 2 > brightest);
    let hue = has(red) | has(green) << 1 | has(blue) << 2;
    match (hue, brightest) {
        // greys: dark, light and white
        (7, ..128) => 8,
        (7, ..224) => 7,
        (hue, 192..) => hue + 8,
        (hue, _) => hue,
    }
}

/// Turns the lines of an output into markup, one after another: a colour lasts until it is changed.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct AnsiText {
    style: Style,
}

impl AnsiText {
    /// The markup of a line without its end. It is complete in itself: it closes each element that it opens.
    ///
    /// A carriage return starts the line again, as a progress bar does, so only what follows the last one is
    /// shown.
    pub(super) fn line(&mut self, line: &str) -> String {
        let (mut markup, more) = self.show_last(line);
        if more > 0 {
            markup.push_str(&format!("<b class=\"cut\">… {more} more characters</b>"));
        }
        markup
    }

    /// As [`AnsiText::line`], without a mark at the end of a line that is cut. Returns also whether the line is
    /// shown whole.
    pub(super) fn beginning(&mut self, line: &str) -> (String, bool) {
        let (markup, more) = self.show_last(line);
        (markup, more == 0)
    }

    /// Shows what follows the last carriage return. Returns also how many characters are not shown.
    fn show_last(&mut self, line: &str) -> (String, usize) {
        let line = line.trim_end_matches('\r');
        let (before, shown) = line.rsplit_once('\r').unwrap_or(("", line));
        self.skip(before);
        self.show(shown)
    }

    /// Follows the colours of text that is not shown.
    pub(super) fn skip(&mut self, text: &str) {
        let mut rest = text;
        while let Some(at) = rest.find('\u{1b}') {
            rest = rest.get(at + 1..).unwrap_or_default();
            if let Some((parameters, after)) = sgr(rest) {
                self.style.apply(parameters);
                rest = after;
            }
        }
    }

    fn show(&mut self, text: &str) -> (String, usize) {
        let mut markup = Markup {
            text: String::with_capacity(text.len().min(LINE_CHARS_MAX * 2)),
            open: Style::default(),
        };
        let mut rest = text;
        let mut room = LINE_CHARS_MAX;
        while let Some(c) = rest.chars().next() {
            let after = rest.get(c.len_utf8()..).unwrap_or_default();
            if c == '\u{1b}'
                && let Some((parameters, after)) = sgr(after)
            {
                self.style.apply(parameters);
                rest = after;
                continue;
            }
            if room == 0 {
                markup.close();
                self.skip(rest);
                return (markup.text, rest.chars().count());
            }
            room -= 1;
            markup.push(c, self.style);
            rest = after;
        }
        markup.close();
        (markup.text, 0)
    }
}

/// Output without its sequences of colours.
pub(super) fn without_colours(output: &[u8]) -> Cow<'_, [u8]> {
    if memchr::memchr(b'\x1b', output).is_none() {
        return output.into();
    }
    let mut plain = Vec::with_capacity(output.len());
    let mut rest = output;
    while let Some(at) = memchr::memchr(b'\x1b', rest) {
        let (before, sequence) = rest.split_at(at);
        plain.extend_from_slice(before);
        rest = match sgr_length(sequence) {
            Some(length) => sequence.get(length..).unwrap_or_default(),
            None => {
                plain.push(b'\x1b');
                sequence.get(1..).unwrap_or_default()
            }
        };
    }
    plain.extend_from_slice(rest);
    plain.into()
}

/// Length of the SGR sequence that some bytes begin with. `None` if they begin with something else.
fn sgr_length(bytes: &[u8]) -> Option<usize> {
    let parameters = bytes.strip_prefix(b"\x1b[")?;
    let is_parameter = |byte: &u8| matches!(byte, b'0'..=b'9' | b';' | b':');
    let length = parameters
        .iter()
        .take_while(|byte| is_parameter(byte))
        .count();
    let is_sgr = length <= PARAMETERS_BYTES_MAX && parameters.get(length) == Some(&b'm');
    is_sgr.then_some(length + 3)
}

/// The parameters of an SGR sequence whose escape character came before, and what follows the sequence.
fn sgr(text: &str) -> Option<(&str, &str)> {
    let text = text.strip_prefix('[')?;
    let end = text.find(|c: char| !matches!(c, '0'..='9' | ';' | ':'))?;
    let (parameters, rest) = text.split_at(end);
    let rest = rest.strip_prefix('m')?;
    (parameters.len() <= PARAMETERS_BYTES_MAX).then_some((parameters, rest))
}

/// Markup of a line, with at most one open element.
struct Markup {
    text: String,
    open: Style,
}

impl Markup {
    fn push(&mut self, c: char, style: Style) {
        if style != self.open {
            self.close();
            if style != Style::default() {
                self.text
                    .push_str(&format!("<span class=\"{}\">", style.classes()));
                self.open = style;
            }
        }
        match c {
            '<' => self.text.push_str("&lt;"),
            '>' => self.text.push_str("&gt;"),
            '&' => self.text.push_str("&amp;"),
            '"' => self.text.push_str("&quot;"),
            '\'' => self.text.push_str("&#39;"),
            '\t' => self.text.push('\t'),
            '\u{1b}' => self.text.push('␛'),
            c => self.text.push_str(&escape(c.encode_utf8(&mut [0; 4]))),
        }
    }

    fn close(&mut self) {
        if self.open != Style::default() {
            self.text.push_str("</span>");
            self.open = Style::default();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn line(text: &str) -> String {
        AnsiText::default().line(text)
    }

    #[test]
    fn colours_become_classes_and_text_is_escaped() {
        for (text, expected) in [
            ("plain", "plain"),
            (
                "\u{1b}[1;31mred\u{1b}[0m plain",
                "<span class=\"fg1 bold\">red</span> plain",
            ),
            ("\u{1b}[91;44mx", "<span class=\"fg9 bg4\">x</span>"),
            ("\u{1b}[38;5;208mx", "<span class=\"fg9\">x</span>"),
            ("\u{1b}[38;2;0;0;255mx", "<span class=\"fg12\">x</span>"),
            ("\u{1b}[38;5mx\u{1b}[m", "x"),
            ("\u{1b}[31m\u{1b}[32m", ""),
            (
                "<script>alert('1')</script>&\"",
                "&lt;script&gt;alert(&#39;1&#39;)&lt;/script&gt;&amp;&quot;",
            ),
            // every other sequence is text
            ("\u{1b}[2Jx", "␛[2Jx"),
            ("\u{1b}]8;;https://x\u{7}link", "␛]8;;https://x\\u{7}link"),
            ("a\u{202e}b\u{9b}31m", "a\\u{202e}b\\u{9b}31m"),
            ("\u{1b}[31", "␛[31"),
            ("\u{1b}", "␛"),
            // a progress bar
            ("10%\r50%\r100%", "100%"),
            ("done\r", "done"),
            ("\u{1b}[32m10%\r100%", "<span class=\"fg2\">100%</span>"),
        ] {
            assert_eq!(line(text), expected, "{text:?}");
        }
        let long = format!("\u{1b}[{}m", "1;".repeat(40));
        assert!(line(&long).starts_with('␛'));
    }

    #[test]
    fn only_colours_are_removed() {
        for (text, plain) in [
            ("plain", "plain"),
            ("\u{1b}[1;31mred\u{1b}[0m x", "red x"),
            ("\u{1b}[2Jx\u{1b}", "\u{1b}[2Jx\u{1b}"),
            ("\u{1b}\u{1b}[m[1", "\u{1b}[1"),
        ] {
            assert_eq!(
                without_colours(text.as_bytes()).as_ref(),
                plain.as_bytes(),
                "{text:?}"
            );
        }
    }

    #[test]
    fn a_colour_lasts_over_lines() {
        let mut text = AnsiText::default();
        assert_eq!(text.line("\u{1b}[31ma"), "<span class=\"fg1\">a</span>");
        assert_eq!(text.line("b\u{1b}[0m"), "<span class=\"fg1\">b</span>");
        assert_eq!(text.line("c"), "c");
    }

    #[test]
    fn a_long_line_is_cut() {
        let text = "x".repeat(10 << 20);
        let shown = line(&text);
        assert!(shown.len() < 3_000, "{}", shown.len());
        assert!(shown.ends_with("<b class=\"cut\">… 10483760 more characters</b>"));
    }

    /// Whether markup is text, with only elements that [`AnsiText`] makes, each of them closed.
    fn check(markup: &str) -> Result<(), String> {
        let mut rest = markup;
        let mut is_open = false;
        while let Some(c) = rest.chars().next() {
            let eaten = match c {
                '<' => {
                    let end = rest.find('>').ok_or("a tag has no end")?;
                    let tag = &rest[..=end];
                    is_open = match (tag, is_open) {
                        ("</span>", true) | ("</b>", true) => false,
                        ("<b class=\"cut\">", false) => true,
                        (tag, false) => {
                            let classes = tag
                                .strip_prefix("<span class=\"")
                                .and_then(|tag| tag.strip_suffix("\">"))
                                .ok_or(tag)?;
                            let is_class =
                                |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == ' ';
                            if classes.is_empty() || !classes.chars().all(is_class) {
                                return Err(tag.to_owned());
                            }
                            true
                        }
                        (tag, true) => return Err(format!("{tag} in another one")),
                    };
                    tag.len()
                }
                '&' => {
                    let entities = ["&lt;", "&gt;", "&amp;", "&quot;", "&#39;"];
                    let entity = entities.iter().find(|entity| rest.starts_with(**entity));
                    entity.ok_or("a bare ampersand")?.len()
                }
                '>' | '"' | '\'' => return Err(format!("a bare {c}")),
                '\t' => 1,
                c if escape(&c.to_string()) != c.to_string() => {
                    return Err(format!("{c:?} is not escaped"));
                }
                c => c.len_utf8(),
            };
            rest = &rest[eaten..];
        }
        match is_open {
            true => Err("an element is open at the end".to_owned()),
            false => Ok(()),
        }
    }

    proptest! {
        #[test]
        fn markup_is_escaped_and_complete(
            lines in proptest::collection::vec(
                "(\\PC|\u{1b}\\[[0-9;:]{0,8}[a-zA-Z]?|[<>&\"'\r\t\u{1b}\u{9b}\u{202e}\u{0}]){0,40}", 0..4),
        ) {
            let mut text = AnsiText::default();
            for line in lines {
                let markup = text.line(&line);
                prop_assert_eq!(check(&markup), Ok(()), "{:?}", markup);
            }
        }

        #[test]
        fn cut_markup_is_complete_too(text in "(\u{1b}\\[3[0-7]m|<){1900,2500}") {
            let markup = line(&text);
            prop_assert_eq!(check(&markup), Ok(()), "{:?}", markup);
        }

        #[test]
        fn without_escapes_the_text_is_kept(text in "[a-zA-Z0-9 äöü日本]{0,60}") {
            prop_assert_eq!(line(&text), text);
        }
    }
}
