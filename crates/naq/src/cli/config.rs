//! `naq config`

use super::exit::Failure;
use super::render;
use super::session::Session;

#[derive(Debug, clap::Args)]
pub(super) struct Args {}

pub(super) fn run(session: &Session, _args: &Args) -> Result<u8, Failure> {
    let resolved = &session.resolved;
    if session.json {
        let entries: Vec<_> = resolved
            .entries
            .iter()
            .map(|entry| {
                serde_json::json!({
                    "setting": entry.setting.name,
                    "value": entry.value.as_ref().map(|_| entry.display_value()),
                    "source": entry.source.to_string(),
                    "variable": entry.setting.variable,
                })
            })
            .collect();
        render::print_json(&entries)?;
        return Ok(0);
    }
    let rows: Vec<Vec<String>> = resolved
        .entries
        .iter()
        .map(|entry| {
            vec![
                entry.setting.name.to_owned(),
                entry.display_value(),
                entry.source.to_string(),
                entry.setting.help.to_owned(),
            ]
        })
        .collect();
    render::print_table(&["SETTING", "VALUE", "FROM", "MEANING"], &rows)?;
    for warning in &resolved.warnings {
        render::note(format_args!(
            "naq: {}",
            render::one_line(&warning.to_string())
        ));
    }
    Ok(0)
}
