//! `naq config`

use super::exit::Failure;
use super::json::SettingReport;
use super::render::{self, Column};
use super::session::Session;

#[derive(Debug, clap::Args)]
pub(super) struct Args {}

pub(super) fn run(session: &Session, _args: &Args) -> Result<u8, Failure> {
    let resolved = &session.resolved;
    if session.json {
        for entry in &resolved.entries {
            render::print_json(&SettingReport {
                setting: entry.setting.name,
                value: entry.value.as_ref().map(|_| entry.display_value()),
                source: entry.source.to_string(),
                variable: entry.setting.variable,
            })?;
        }
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
    render::print_table(
        &[
            Column::new("SETTING"),
            Column::new("VALUE"),
            Column::new("FROM"),
            Column::new("MEANING").optional(1),
        ],
        &rows,
    )?;
    for warning in &resolved.warnings {
        render::note(warning);
    }
    Ok(0)
}
