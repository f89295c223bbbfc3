//! Settings: defaults, overridden by `naq.toml`, then by `NAQ_*` variables, then by flags.
//!
//! This module is the only one that reads the environment, and only in [`ProcessEnv::read`] and
//! [`environment`]. Every setting is a row of [`SETTINGS`]. The layers, `naq config`, the warnings about
//! misspelt names and the table in `docs/settings.md` are all derived from that table.
//!
//! A NATS context (a file of the `nats` program) ranks just below the place that names it, so values from that
//! place override the context. A context describes one server: if it is in use, connection settings of lower
//! layers are ignored. Of several ways to authenticate, the one from the highest layer is used, and only for
//! the address that its layer names.
//!
//! A `naq.toml` that is found in the current folder may have come with what was cloned there. Without
//! `naq config trust` it sets only harmless settings.
//!
//! This module makes no connection and starts no process.

mod checks;
mod docs_table;
mod error;
mod file;
mod file_read;
mod file_search;
mod flags;
mod nats_context;
mod process_env;
mod ranked_value;
mod resolve;
mod settings;
mod settings_table;
mod source;
mod trust;
mod trusted_file;
mod value;
mod variable_warnings;

/// Parses a text as `naq.toml`.
#[cfg(any(fuzzing, test))]
pub(crate) fn check_text(text: &str) -> Result<(), ConfigError> {
    let env = ProcessEnv {
        environment: std::collections::BTreeMap::new(),
        current_dir: "/".into(),
        system_dir: None,
        home: None,
        uid: 0,
        processors: 1,
        ignored_folders: Vec::new(),
    };
    let found = file_read::FileText {
        text: text.to_owned(),
        mode: 0o600,
    };
    let path = std::path::Path::new("/naq.toml");
    file::parse(path, file::FileOrigin::Named, &found, &env).map(|_| ())
}

pub use docs_table::settings_markdown;
pub use error::{ConfigError, Warning};
pub use flags::Flags;
pub use process_env::{ProcessEnv, environment};
pub use resolve::{Resolved, load};
pub use settings::{Entry, LogFormat, Settings};
pub use settings_table::{
    DefaultValue, FlagScope, REMOVED, SETTINGS, Setting, SettingKind, TIMEZONE_FOLDER_VARIABLE,
};
pub use source::Source;
pub use trusted_file::{TrustedFile, revoke_trust_of_current_dir, trust_current_dir};
pub use value::{Secret, Value};
