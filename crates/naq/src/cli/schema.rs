//! `naq schema`

use super::exit::Failure;
use super::render;
use naq_protocol::{SCHEMAS, schema};

use super::json;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Type to print [default: list the types]
    #[arg(value_name = "NAME", value_parser = names())]
    name: Option<String>,
}

/// The wire types, and what the command line prints with `--json`.
fn names() -> Vec<&'static str> {
    SCHEMAS.into_iter().chain(["output"]).collect()
}

pub(super) fn run(args: &Args) -> Result<u8, Failure> {
    match &args.name {
        Some(name) => {
            let text = schema(name).unwrap_or_else(json::schema);
            render::print_line(text.trim_end())?;
        }
        None => {
            for name in names() {
                render::print_line(name)?;
            }
        }
    }
    Ok(0)
}
