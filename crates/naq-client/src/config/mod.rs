//! Settings: defaults, then `naq.toml`, then `NAQ_*` variables, then flags.
//!
//! The one room that reads the environment, and that only in [`ProcessEnv::read`] and
//! [`environment`]. Every setting is a row of [`SETTINGS`]; the layers, `naq config` and the
//! warnings about misspelt names all come from that table.
//!
//! A NATS context (a file of the `nats` program) counts as if its values were written where the
//! context is named, and values written in that same place go before it. Since a context
//! describes one server, what lower layers say about connecting is left out beside it. Of several
//! ways to authenticate, the one of the highest layer is used.
//!
//! This room connects to nothing and starts nothing.

mod error;
mod file;
mod nats_context;
mod process_env;
mod resolve;
mod settings_table;
mod value;

pub use error::{ConfigError, Warning};
pub use process_env::{ProcessEnv, environment};
pub use resolve::{Entry, Flags, LogFormat, Resolved, Settings, Source, load};
pub use settings_table::{DefaultValue, REMOVED, SETTINGS, Setting, SettingKind};
pub use value::{Secret, Value};
