//! `naq completions`

use clap_complete::Shell;
use clap_complete::env::Shells;

use super::complete;
use super::exit::Failure;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Shell that the script is for
    #[arg(value_name = "SHELL")]
    shell: Shell,
}

/// Prints the script that registers naq's completion, which asks `naq` for candidates.
pub(super) fn run(args: &Args) -> Result<u8, Failure> {
    let shell = args.shell.to_string();
    let shells = Shells::builtins();
    let completer = shells
        .completer(&shell)
        .ok_or_else(|| Failure::usage(format!("{shell} cannot be completed by naq")))?;
    let mut script = Vec::new();
    completer.write_registration(complete::VARIABLE, "naq", "naq", "naq", &mut script)?;
    std::io::Write::write_all(&mut std::io::stdout(), &script)?;
    Ok(0)
}
