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

impl Source {
    /// Whether both are the same place: all flags and variables are one, and so is a file with all of its
    /// lines.
    pub(super) fn is_same_place(&self, other: &Source) -> bool {
        match (self, other) {
            (Source::Default, Source::Default)
            | (Source::Flag(_) | Source::Variable(_), Source::Flag(_) | Source::Variable(_)) => {
                true
            }
            (Source::File { path, .. }, Source::File { path: other, .. })
            | (Source::Context { path, .. }, Source::Context { path: other, .. }) => path == other,
            _ => false,
        }
    }
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
