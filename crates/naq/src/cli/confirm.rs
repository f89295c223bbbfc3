//! Confirmation of what cannot be undone.

use std::io::{BufRead, IsTerminal};

use super::exit::Failure;
use super::render;

/// Asks for confirmation on a terminal. If standard input is no terminal, nobody can answer, so only
/// `--yes` confirms.
///
/// # Errors
///
/// Returns a usage error if standard input is no terminal and `yes` is false, and a general one if
/// the answer is no.
pub(super) fn confirm(yes: bool, what: &str) -> Result<(), Failure> {
    if yes {
        return Ok(());
    }
    let stdin = std::io::stdin();
    if !stdin.is_terminal() {
        return Err(Failure::usage(format!(
            "this would {what}, and standard input is no terminal to ask on"
        ))
        .hint("--yes does it without asking"));
    }
    render::print_stderr(format_args!("naq: {what}? [y/N]"));
    let mut answer = String::new();
    stdin.lock().read_line(&mut answer)?;
    if matches!(answer.trim(), "y" | "Y" | "yes") {
        Ok(())
    } else {
        Err(Failure::general("nothing was done"))
    }
}
