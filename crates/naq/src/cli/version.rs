//! `naq version`

use super::exit::Failure;
use super::json::Version;
use super::render;
use super::zoneinfo::ZoneinfoDatabase;

#[derive(Debug, clap::Args)]
pub(super) struct Args {}

pub(super) fn run(_args: &Args, zones: &ZoneinfoDatabase) -> Result<u8, Failure> {
    let version = env!("CARGO_PKG_VERSION");
    if render::is_json() {
        render::print_json(&Version {
            version,
            tzdata: zones.release(),
            tzdata_place: zones.place(),
        })?;
    } else {
        render::print_line(format_args!("naq {version}"))?;
        render::print_line(zones)?;
    }
    Ok(0)
}
