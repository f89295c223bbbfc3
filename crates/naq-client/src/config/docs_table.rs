//! The page `docs/settings.md`, written from the table of settings.

use std::fmt::Write;

use super::settings_table::{DefaultValue, FlagScope, REMOVED, SETTINGS, Setting, SettingKind};

/// What precedes the table.
const INTRODUCTION: &str = "# Settings\n\n\
     <!-- Written from the table in crates/naq-client/src/config/settings_table.rs by \
     `NAQ_TEST_UPDATE=1 cargo test settings_page`. Edit the table, not this file. -->\n\n\
     Set a value in `naq.toml`, in a variable or by a flag:\n\n\
     ```toml\n\
     # naq.toml\n\
     nats_url = \"tls://nats.example.com:4222\"\n\
     concurrency = 8\n\
     drain_timeout = \"1m\"\n\
     ```\n\n\
     A flag overrides a variable, a variable overrides `naq.toml`, and that overrides the default. \
     naq reads the file that `--config` or `NAQ_CONFIG` names. Without one it reads \
     `/etc/naq/naq.toml`, `~/.config/naq/naq.toml` and `./naq.toml`, as far as they exist; a later one \
     overrides the earlier ones. An empty variable counts as unset. `naq config` lists every setting with its value and where the value comes from. `NAQ_TZDIR` \
     is no setting: it names the folder of [time zones](schedules.md#time-zones).\n\n\
     ## Which files naq obeys\n\n\
     A settings file or a context must be a regular file of at most 1 MiB that belongs to you or to root, \
     and that nobody else can write to. naq refuses any other. It ignores `/etc/naq/naq.toml`, with a warning, \
     if you may not read it.\n\n\
     A `./naq.toml` may have come with what you cloned or unpacked there, and could name a program \
     to run or a server that gets your jobs. It may set the settings marked ² at once. If it has any \
     other, naq refuses it until you run `naq config trust`, and again once the file has changed. \
     `naq config trust --revoke` withdraws the trust. A file that you name by `--config` or `NAQ_CONFIG` \
     needs no trust.\n\n\
     `HOME`, `XDG_CONFIG_HOME`, `XDG_DATA_HOME` and `XDG_CACHE_HOME` are ignored, with a warning, if \
     they name a folder of another user, as `sudo -E` leaves them: root does not obey your settings, \
     and runs no program of yours.\n\n\
     ## Which NATS\n\n\
     1. The address of `nats_url` or of the `context`.\n\
     2. Without any setting about NATS: the managed local server of this user. `naq run`, `naq dev` \
     and `naq bench` start it if it does not run; every other command that needs NATS fails then.\n\n\
     naq never uses an address that nobody configured: any user of the machine may listen at the \
     default port of NATS, take envelopes there, and give jobs to workers. So with another setting \
     about NATS (`creds`, `nkey`, `user` and `password`, `token`, `tls_ca`, `tls_cert` and `tls_key`, \
     `inbox_prefix`, `jetstream_domain`) and no address, naq refuses to run.\n\n\
     A server on this machine that is used without TLS must belong to the user of naq, to root, or to a \
     user of `server_users`, by name (of `/etc/passwd`) or id: that user receives the envelopes and gives \
     jobs to the workers. On Linux, naq checks this each time it connects, before it sends anything. \
     If the kernel does not show who runs the server, naq warns.\n\n\
     A credential is `creds`, `nkey`, `user`, `password` or `token`. naq sends a credential that a file \
     or a context sets only to the address that the same file or context names, and one from a flag or a \
     variable to any address except that of a `./naq.toml`, even a trusted one. It does not send a \
     credential to any other address, and warns: set both in the same place.\n\n\
     With `tls_ca` or `tls_cert` the connection uses TLS, whatever the scheme of the address, or \
     fails.\n\n\
     ## All settings\n\n\
     | key in `naq.toml` | variable | flag | value | default | meaning |\n\
     |---|---|---|---|---|---|\n";

/// The whole text of `docs/settings.md`. A test compares it with the file.
#[must_use]
pub fn settings_markdown() -> String {
    let mut page = INTRODUCTION.to_owned();
    for setting in SETTINGS {
        let _infallible = writeln!(
            page,
            "| `{}`{} | `{}` | {} | {} | {} | {} |",
            setting.name,
            if setting.is_harmless { "²" } else { "" },
            setting.variable,
            flag(setting),
            kind(setting),
            default(setting),
            setting.help
        );
    }
    page.push_str(
        "\n¹ Only for `naq worker` and `naq dev`. A flag of a list or of pairs adds to the value of the other layers \
         instead of overriding it.\n\n\
         ² A `./naq.toml` may set it without `naq config trust`.\n\n\
         ³ Only for `naq dashboard`. A flag of a list or of pairs adds to the value of the other layers.\n\n\
         ## Variables without an effect\n\n\
         These variables of the Python library have no effect any more. `naq config` reports them.\n\n\
         | variable | instead |\n|---|---|\n",
    );
    for (name, instead) in REMOVED {
        let _infallible = writeln!(page, "| `{name}` | {instead} |");
    }
    page
}

fn flag(setting: &Setting) -> String {
    match setting.flag_scope {
        FlagScope::None => String::new(),
        FlagScope::EveryVerb => format!("`{}`", setting.flag()),
        FlagScope::Worker => format!("`{}`¹", setting.flag()),
        FlagScope::Dashboard => format!("`{}`³", setting.flag()),
    }
}

fn kind(setting: &Setting) -> String {
    match setting.kind {
        SettingKind::Text if setting.secret => "text, never shown".to_owned(),
        SettingKind::Text => "text".to_owned(),
        SettingKind::Name => "name (A-Z a-z 0-9 _ -)".to_owned(),
        SettingKind::Prefix => "name (A-Z a-z 0-9 _ -) without `_queue`".to_owned(),
        SettingKind::Path => "path".to_owned(),
        SettingKind::Bool => "true or false".to_owned(),
        SettingKind::Count { min } => format!("number, at least {min}"),
        SettingKind::Duration { min_ms: 0 } => "duration".to_owned(),
        SettingKind::Duration { min_ms } if min_ms % 1_000 == 0 => {
            format!("duration, at least {}s", min_ms / 1_000)
        }
        SettingKind::Duration { min_ms } => format!("duration, at least {min_ms}ms"),
        SettingKind::Size => "size".to_owned(),
        SettingKind::Choice(words) => {
            let words: Vec<String> = words.iter().map(|word| format!("`{word}`")).collect();
            words.join(", ")
        }
        SettingKind::List => "list".to_owned(),
        SettingKind::Labels => "pairs of key and value".to_owned(),
    }
}

fn default(setting: &Setting) -> String {
    match (setting.default, setting.default_text()) {
        (_, None) => String::new(),
        (DefaultValue::Processors | DefaultValue::Described(_), Some(text)) => text.to_owned(),
        (_, Some(text)) => format!("`{text}`"),
    }
}
