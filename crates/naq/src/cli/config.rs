//! `naq config`, and `naq config trust`

use std::path::Path;

use naq_client::config::{self, ProcessEnv};

use super::exit::{Exit, Failure};
use super::json::{SettingReport, TrustReport};
use super::render::{self, Column};
use super::session::Session;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    verb: Option<ConfigVerb>,
}

#[derive(Debug, clap::Subcommand)]
enum ConfigVerb {
    /// Trust the naq.toml of the current folder with its current content
    ///
    /// A file that is found in the current folder may have come with what was cloned or unpacked there.
    /// Without trust, naq refuses the file if it has any setting that is not harmless. Trust it again after
    /// each change. A file that --config or NAQ_CONFIG names needs no trust.
    Trust(TrustArgs),
}

#[derive(Debug, clap::Args)]
struct TrustArgs {
    /// Withdraw the trust
    #[arg(long)]
    revoke: bool,
}

/// Runs the verbs that decide which settings apply, and so run without settings. `None` if the verb is not
/// one of them.
pub(super) fn run_without_settings(args: &Args) -> Option<Result<u8, Failure>> {
    let verb = args.verb.as_ref();
    verb.map(|ConfigVerb::Trust(args)| trust(args))
}

fn trust(args: &TrustArgs) -> Result<u8, Failure> {
    let env = ProcessEnv::read();
    if args.revoke {
        let is_revoked = config::revoke_trust_of_current_dir(&env)?;
        let path = env.current_dir.join("naq.toml");
        return report(&path, if is_revoked { "revoked" } else { "unchanged" }, &[]);
    }
    match config::trust_current_dir(&env)? {
        Some(trusted) => report(&trusted.path, "trusted", &trusted.settings),
        None => Err(Failure::new(
            Exit::NotFound,
            "there is no naq.toml in the current folder".to_owned(),
        )),
    }
}

/// Reports what the verb did with a file.
fn report(path: &Path, action: &str, settings: &[&str]) -> Result<u8, Failure> {
    let file = path.display().to_string();
    if render::is_json() {
        render::print_json(&TrustReport {
            file: &file,
            action,
            settings,
        })?;
    } else {
        let what = match settings {
            [] => action.to_owned(),
            settings => format!("{action}, with {}", settings.join(", ")),
        };
        render::print_line(format_args!("{}  {what}", naq_protocol::escape(&file)))?;
    }
    Ok(0)
}

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
