//! `naq bench`

use super::exit::Failure;
use super::session::Session;

#[derive(Debug, clap::Args)]
pub(super) struct Args {}

pub(super) async fn run(_session: &Session, _args: Args) -> Result<u8, Failure> {
    Err(Failure::general("not built yet"))
}
