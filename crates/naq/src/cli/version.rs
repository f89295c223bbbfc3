//! `naq version`

use super::exit::Failure;
use super::render;

#[derive(Debug, clap::Args)]
pub(super) struct Args {}

pub(super) fn run(_args: &Args, json: bool) -> Result<u8, Failure> {
    let version = env!("CARGO_PKG_VERSION");
    if json {
        render::print_json(&serde_json::json!({"version": version}))?;
    } else {
        render::print_line(format_args!("naq {version}"))?;
    }
    Ok(0)
}
