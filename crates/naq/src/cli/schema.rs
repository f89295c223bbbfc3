//! `naq schema`

use super::exit::Failure;
use super::render;
use naq_protocol::{SCHEMAS, schema};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The type; none lists them
    #[arg(value_name = "NAME", value_parser = SCHEMAS)]
    name: Option<String>,
}

pub(super) fn run(args: &Args) -> Result<u8, Failure> {
    match &args.name {
        Some(name) => {
            let text = schema(name).unwrap_or_default();
            render::print_line(text.trim_end())?;
        }
        None => {
            for name in SCHEMAS {
                render::print_line(name)?;
            }
        }
    }
    Ok(0)
}
