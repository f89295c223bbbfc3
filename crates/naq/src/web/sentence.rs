//! A sentence with names and commands, which pages show as code.

use serde::Serialize;

/// A part of a sentence.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub(super) struct Piece {
    text: String,
    /// Whether the piece is a name or a command.
    is_code: bool,
}

/// The parts of a sentence whose names and commands are between backticks.
pub(super) fn pieces(text: &str) -> Vec<Piece> {
    let parts = text.split('`').enumerate();
    parts
        .filter(|(_, part)| !part.is_empty())
        .map(|(at, part)| Piece {
            text: part.to_owned(),
            is_code: at % 2 == 1,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_commands_of_a_sentence_are_found() {
        let found = pieces("no worker serves `build`; start one with `naq worker build`");
        let code: Vec<&str> = found
            .iter()
            .filter(|piece| piece.is_code)
            .map(|piece| piece.text.as_str())
            .collect();
        assert_eq!(code, ["build", "naq worker build"]);
        assert_eq!(pieces(""), []);
    }
}
