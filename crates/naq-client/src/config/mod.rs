//! Settings: defaults, then `naq.toml`, then `NAQ_*` variables, then flags.
//!
//! The one room that reads the environment, and that only in [`Surroundings::read`] and
//! [`environment`]. Every setting is a row of [`SETTINGS`]; the layers, `naq config` and the
//! warnings about misspelt names all come from that table.
//!
//! A NATS context (a file of the `nats` program) counts as if its values were written where the
//! context is named, and values written in that same place go before it. Since a context
//! describes one server, what lower layers say about connecting is left out beside it. Of several
//! ways to authenticate, the one of the highest layer is used.
//!
//! This room connects to nothing and starts nothing.

mod context;
mod error;
mod file;
mod resolve;
mod surroundings;
mod table;
mod value;

pub use error::{ConfigError, Warning};
pub use resolve::{Entry, Flags, LogFormat, Resolved, Settings, Source, load};
pub use surroundings::{Surroundings, environment};
pub use table::{Fallback, Kind, RETIRED, SETTINGS, Setting};
pub use value::{Secret, Value};
