//! `naq man`

use std::path::PathBuf;

use super::exit::Failure;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Folder to write the pages into; naq creates it if it does not exist
    #[arg(long, value_name = "DIR")]
    dir: PathBuf,
}

/// Writes a page for naq and one for each verb.
pub(super) fn run(args: &Args, command: clap::Command) -> Result<u8, Failure> {
    // The Python library's names are hidden from the list of verbs, and have pages all the same.
    let command = command.mut_subcommands(|verb| verb.hide(false));
    let written = std::fs::create_dir_all(&args.dir)
        .and_then(|()| clap_mangen::generate_to(command, &args.dir));
    written.map_err(|error| {
        Failure::general(format!(
            "cannot write man pages into {}: {error}",
            args.dir.display()
        ))
    })?;
    Ok(0)
}
