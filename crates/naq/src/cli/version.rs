//! `naq version`

use super::exit::Failure;
use super::json::Version;
use super::render;

#[derive(Debug, clap::Args)]
pub(super) struct Args {}

pub(super) fn run(_args: &Args) -> Result<u8, Failure> {
    let version = env!("CARGO_PKG_VERSION");
    if render::is_json() {
        render::print_json(&Version { version })?;
    } else {
        render::print_line(format_args!("naq {version}"))?;
    }
    Ok(0)
}
