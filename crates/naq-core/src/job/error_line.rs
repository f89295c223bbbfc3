//! The line of a program's standard error that says why it failed.

/// Maximum number of lines at the end that are read.
const LINES_MAX: usize = 100;

/// Maximum number of characters of the result.
const CHARS_MAX: usize = 300;

/// Words in the line of an error, in small letters. Programs of all languages use one of them: Python
/// `ValueError: …`, Java `Caused by: java.io.IOException: …`, Go `panic: …`, git `fatal: …`.
const ERROR_WORDS: [&str; 6] = [
    "error",
    "exception",
    "panic",
    "fatal",
    "caused by",
    "failed",
];

/// Beginnings of lines that follow an error and do not describe it: the last lines of Node.js, Rust, Go,
/// Java and Python.
const NOISE: [&str; 8] = [
    "Node.js v",
    "note: run with",
    "note: Some details are omitted",
    "exit status ",
    "goroutine ",
    "... ",
    "Traceback (most recent call last)",
    "stack backtrace:",
];

/// The line that says why a program failed: of the last lines of its standard error the last one that is not
/// indented and contains a word such as `error`, otherwise the last one that is not indented. Control
/// characters and colours are left out. `None` if the text has no such line.
pub(super) fn error_line(stderr: &str) -> Option<String> {
    let lines: Vec<String> = stderr.lines().rev().take(LINES_MAX).map(plain).collect();
    let is_candidate = |line: &String| {
        !line.trim().is_empty()
            && !line.starts_with([' ', '\t'])
            && !NOISE.iter().any(|noise| line.starts_with(noise))
    };
    let names_error = |line: &String| {
        let line = line.to_lowercase();
        ERROR_WORDS.iter().any(|word| line.contains(word))
    };
    let candidates = || {
        lines
            .iter()
            .enumerate()
            .filter(|(_, line)| is_candidate(line))
    };
    let (at, line) = candidates()
        .find(|(_, line)| names_error(line))
        .or_else(|| candidates().next())
        .or_else(|| {
            lines
                .iter()
                .enumerate()
                .find(|(_, line)| !line.trim().is_empty())
        })?;
    let line = line.trim();
    // Rust writes the place of a panic first, and its message in the next line. The lines are reversed.
    let next = at.checked_sub(1).map(|next| lines[next].trim());
    let text = match next {
        Some(next) if line.ends_with(':') && !next.is_empty() => format!("{line} {next}"),
        _ => line.to_owned(),
    };
    Some(match text.char_indices().nth(CHARS_MAX) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    })
}

/// A line without escape sequences and control characters. Of a line that a carriage return has
/// overwritten, the last version.
fn plain(line: &str) -> String {
    let line = line.trim_end_matches('\r');
    let line = line.rsplit('\r').next().unwrap_or(line);
    let mut text = String::with_capacity(line.len());
    let mut chars = line.chars().peekable();
    while let Some(char) = chars.next() {
        match char {
            // A control sequence ends with its first character from `@` to `~`.
            '\u{1b}' if chars.peek() == Some(&'[') => {
                chars.next();
                let _ = chars.find(|char| ('@'..='~').contains(char));
            }
            '\t' => text.push('\t'),
            char if char.is_control() => {}
            char => text.push(char),
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_error_of_each_language_is_found() {
        for (stderr, expected) in [
            (
                "Traceback (most recent call last):\n  File \"a.py\", line 1, in <module>\n    int('x')\nValueError: invalid literal\n",
                "ValueError: invalid literal",
            ),
            (
                "/app/a.js:1\nthrow new TypeError('no')\n^\n\nTypeError: no\n    at Object.<anonymous> (/app/a.js:1:7)\n\nNode.js v22.1.0\n",
                "TypeError: no",
            ),
            (
                "panic: boom\n\ngoroutine 1 [running]:\nmain.main()\n\t/app/main.go:4 +0x1d\nexit status 2\n",
                "panic: boom",
            ),
            (
                "thread 'main' (7) panicked at src/main.rs:2:5:\nboom\nnote: run with `RUST_BACKTRACE=1` environment variable to display a backtrace\n",
                "thread 'main' (7) panicked at src/main.rs:2:5: boom",
            ),
            (
                "Exception in thread \"main\" java.lang.IllegalStateException: outer\n\tat A.main(A.java:3)\nCaused by: java.io.IOException: inner\n\t... 1 more\n",
                "Caused by: java.io.IOException: inner",
            ),
            ("sh: 1: frob: not found\n", "sh: 1: frob: not found"),
            (
                "\u{1b}[31merror\u{1b}[0m: no such table\n",
                "error: no such table",
            ),
            (" 10 %\r 90 %\rerror: disk\r\n", "error: disk"),
            ("  indented only\n\n", "indented only"),
        ] {
            assert_eq!(error_line(stderr).as_deref(), Some(expected), "{stderr}");
        }
        assert_eq!(error_line(""), None);
        assert_eq!(error_line("\n \n\u{1b}[0m\n"), None);
    }

    proptest! {
        #[test]
        fn the_line_of_an_error_is_short_and_plain(stderr in any::<String>()) {
            if let Some(line) = error_line(&stderr) {
                prop_assert!(line.chars().count() <= CHARS_MAX + 1);
                prop_assert!(!line.trim().is_empty());
                prop_assert!(line.chars().all(|char| char == '\t' || !char.is_control()));
            }
        }
    }
}
