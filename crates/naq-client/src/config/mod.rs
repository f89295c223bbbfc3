//! Settings: defaults, overridden by `naq.toml`, then by `NAQ_*` variables, then by flags.
//!
//! This module is the only one that reads the environment, and only in [`ProcessEnv::read`] and
//! [`environment`]. Every setting is a row of [`SETTINGS`]. The layers, `naq config`, the warnings about
//! misspelt names and the table in `docs/settings.md` are all derived from that table.
//!
//! A NATS context (a file of the `nats` program) ranks just below the place that names it, so values from that
//! place override the context. A context describes one server: if it is in use, connection settings of lower
//! layers are ignored. Of several ways to authenticate, the one from the highest layer is used.
//!
//! This module makes no connection and starts no process.

mod checks;
mod docs_table;
mod error;
mod file;
mod flags;
mod nats_context;
mod process_env;
mod ranked_value;
mod resolve;
mod settings;
mod settings_table;
mod source;
mod value;
mod variable_warnings;

/// Parses a text as `naq.toml`.
#[cfg(any(fuzzing, test))]
pub(crate) fn check_text(text: &str) -> Result<(), ConfigError> {
    let env = ProcessEnv {
        environment: std::collections::BTreeMap::new(),
        current_dir: "/".into(),
        home: None,
        uid: 0,
        processors: 1,
    };
    file::parse(std::path::Path::new("/naq.toml"), text, 0o600, &env).map(|_| ())
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
pub use value::{Secret, Value};
