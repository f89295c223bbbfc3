//! The flags of settings. They come from the table of settings, as do variables, keys of `naq.toml`
//! and the pages: name, name of the value, help and default of a flag are written once.

use std::fmt;

use clap::{Arg, ArgAction, ArgMatches, Args, Command, FromArgMatches};

use naq_client::config::{FlagScope, Flags, SETTINGS, Setting, SettingKind};

/// Flags of every verb.
pub(super) type GlobalSettingFlags = SettingFlags<false>;

/// Flags of verbs that run a worker. Those of lists and labels are fields of `WorkerOptions`, since
/// they add to the setting instead of overriding it.
pub(super) type WorkerSettingFlags = SettingFlags<true>;

/// The flags of settings that were given, with their values as text.
#[derive(Clone, Default)]
pub(super) struct SettingFlags<const WORKER: bool> {
    given: Vec<(&'static Setting, String)>,
}

impl<const WORKER: bool> SettingFlags<WORKER> {
    /// Adds the values to the layers of settings.
    pub(super) fn add_to(&self, flags: Flags) -> Flags {
        let given = self.given.iter();
        given.fold(flags, |flags, (setting, text)| {
            flags.with(setting.name, text)
        })
    }

    /// The same flags, as arguments for another naq.
    pub(super) fn arguments(&self) -> impl Iterator<Item = String> {
        let given = self.given.iter();
        given.flat_map(|(setting, text)| match setting.kind {
            SettingKind::Bool => vec![setting.flag()],
            _ => vec![setting.flag(), text.clone()],
        })
    }

    fn settings() -> impl Iterator<Item = &'static Setting> {
        SETTINGS.iter().filter(|setting| match setting.flag_scope {
            FlagScope::None | FlagScope::Dashboard => false,
            FlagScope::EveryVerb => !WORKER,
            FlagScope::Worker => WORKER && !is_repeated(setting),
        })
    }

    fn argument(setting: &'static Setting) -> Arg {
        let flag = setting.flag();
        let argument = Arg::new(setting.name)
            .long(flag.trim_start_matches('-').to_owned())
            .short(setting.short_flag)
            .help(help(setting));
        let argument = match setting.kind {
            SettingKind::Bool => argument.action(ArgAction::SetTrue),
            _ => argument.value_name(setting.value_name),
        };
        if WORKER {
            return argument;
        }
        let is_log = setting.name.starts_with("log_");
        argument
            .global(true)
            .help_heading(if is_log { "Log" } else { "Connection" })
            .hide_short_help(true)
    }
}

fn is_repeated(setting: &Setting) -> bool {
    matches!(setting.kind, SettingKind::List | SettingKind::Labels)
}

impl<const WORKER: bool> Args for SettingFlags<WORKER> {
    fn augment_args(command: Command) -> Command {
        command.args(Self::settings().map(Self::argument))
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl<const WORKER: bool> FromArgMatches for SettingFlags<WORKER> {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let given = Self::settings().filter_map(|setting| {
            let text = match setting.kind {
                SettingKind::Bool => matches.get_flag(setting.name).then(|| "true".to_owned()),
                _ => matches.get_one::<String>(setting.name).cloned(),
            };
            Some((setting, text?))
        });
        Ok(SettingFlags {
            given: given.collect(),
        })
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

impl<const WORKER: bool> fmt::Debug for SettingFlags<WORKER> {
    /// Shows names only: a value may be a password.
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = self.given.iter().map(|(setting, _)| setting.name);
        out.debug_set().entries(names).finish()
    }
}

/// The help of a setting's flag: the setting's line, the words of a choice, and the default.
pub(super) fn help(setting: &Setting) -> String {
    let mut help: String = setting
        .help
        .chars()
        .take(1)
        .map(|c| c.to_ascii_uppercase())
        .collect();
    help.extend(setting.help.chars().skip(1));
    if let SettingKind::Choice(words) = setting.kind {
        help.push_str(&format!(": {}", words.join(", ")));
    }
    if setting.secret {
        let variable = setting.variable;
        help.push_str(&format!(
            " (better in {variable}: other users can see arguments)"
        ));
    }
    match setting.default_text() {
        Some(default) if setting.kind != SettingKind::Bool => {
            help.push_str(&format!(" [default: {default}]"));
        }
        _ => {}
    }
    help
}

/// The help of the flag of a setting that [`SettingFlags`] leaves out.
pub(super) fn help_of(name: &str) -> String {
    Setting::by_name(name).map(help).unwrap_or_default()
}
