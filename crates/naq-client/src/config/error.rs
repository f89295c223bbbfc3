//! What is wrong with a configuration, and where.

use std::fmt;
use std::io;
use std::path::PathBuf;

use super::resolve::Source;

/// Why there are no settings. Each says where: file and line, variable or flag.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// A file cannot be read.
    #[error("cannot read {path}{named_by}: {source}", path = path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Who named it, as words in brackets; empty where naq found it.
        named_by: String,
        /// The operating system's reason.
        source: io::Error,
    },

    /// A `naq.toml` in the current folder that another user wrote.
    #[error(
        "{path} belongs to user id {uid} and is not read, since it could name programs to run", path = path.display()
    )]
    ForeignOwner {
        /// The file.
        path: PathBuf,
        /// Its owner.
        uid: u32,
    },

    /// A file is no TOML.
    #[error("{path}:{line}:{column}: {reason}", path = path.display())]
    Syntax {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// The column in characters, from 1.
        column: usize,
        /// What was expected.
        reason: String,
    },

    /// A key that is no setting.
    #[error("{path}:{line}: there is no setting `{key}`{}", did_you_mean(*closest_match), path = path.display())]
    UnknownKey {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// The key.
        key: String,
        /// What was probably meant.
        closest_match: Option<&'static str>,
    },

    /// A flag that is no setting: a mistake in naq, not in its use.
    #[error("there is no setting `{name}` for a flag")]
    UnknownSetting {
        /// The name.
        name: String,
    },

    /// A value that the setting does not take.
    #[error("{place}: {name}: {reason}")]
    Value {
        /// Where it is written.
        place: Source,
        /// The setting.
        name: &'static str,
        /// What is wrong with it and what is expected.
        reason: String,
    },

    /// A context cannot be used.
    #[error("the NATS context {name:?} ({place}) cannot be used: {reason}")]
    Context {
        /// Its name.
        name: String,
        /// Where it is named.
        place: Source,
        /// Why not, with the file.
        reason: String,
    },

    /// Two settings that do not go together.
    #[error("{one} ({one_source}) and {other} ({other_source}): {reason}")]
    Conflict {
        /// The one.
        one: &'static str,
        /// Where it comes from.
        one_source: Box<Source>,
        /// The other.
        other: &'static str,
        /// Where that comes from.
        other_source: Box<Source>,
        /// Why not, and what to do.
        reason: &'static str,
    },
}

/// What is odd but does no harm; for standard error, and for `naq config`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Warning {
    /// A `NAQ_*` variable that is no setting.
    UnknownVariable {
        /// Its name.
        name: String,
        /// What was probably meant.
        closest_match: Option<&'static str>,
    },
    /// A variable of the Python library that means nothing any more.
    RemovedVariable {
        /// Its name.
        name: String,
        /// What there is instead.
        instead: &'static str,
    },
    /// A file with a secret in it that others may read.
    ReadableByOthers {
        /// The file.
        path: PathBuf,
        /// The setting with the secret.
        name: &'static str,
    },
    /// A part of a context that naq does not know how to use.
    UnusedContextField {
        /// The context's file.
        path: PathBuf,
        /// Its field.
        field: &'static str,
    },
}

impl Warning {
    /// Whether it is worth a line at every start; the others are for `naq config`.
    #[must_use]
    pub fn is_shown_at_startup(&self) -> bool {
        !matches!(self, Warning::RemovedVariable { .. })
    }
}

impl fmt::Display for Warning {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Warning::UnknownVariable {
                name,
                closest_match,
            } => {
                write!(
                    out,
                    "the variable {name} is no setting and is ignored{}",
                    did_you_mean(*closest_match)
                )
            }
            Warning::RemovedVariable { name, instead } => {
                write!(out, "the variable {name} is ignored: {instead}")
            }
            Warning::ReadableByOthers { path, name } => {
                let path = path.display();
                write!(
                    out,
                    "{path} has `{name}` in it and others may read it; run chmod 600 {path}"
                )
            }
            Warning::UnusedContextField { path, field } => {
                write!(out, "{}: `{field}` is not used by naq", path.display())
            }
        }
    }
}

fn did_you_mean(closest_match: Option<&str>) -> String {
    closest_match
        .map(|name| format!("; did you mean `{name}`?"))
        .unwrap_or_default()
}
