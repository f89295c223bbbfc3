//! Where the value of a setting comes from.

use std::fmt;
use std::path::PathBuf;

/// Where a value comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// The setting's default.
    Default,
    /// A line of `naq.toml`.
    File {
        /// The file.
        path: PathBuf,
        /// Line of the key, from 1.
        line: usize,
    },
    /// An environment variable.
    Variable(&'static str),
    /// A flag, with its dashes.
    Flag(String),
    /// A context of the `nats` program.
    Context {
        /// The name of the context.
        name: String,
        /// The file of the context.
        path: PathBuf,
    },
}

impl fmt::Display for Source {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Source::Default => out.write_str("default"),
            Source::File { path, line } => write!(out, "{}:{line}", path.display()),
            Source::Variable(name) => out.write_str(name),
            Source::Flag(flag) => out.write_str(flag),
            Source::Context { name, path } => write!(out, "context {name} ({})", path.display()),
        }
    }
}
