//! Errors and warnings about settings, each with its place.

use std::fmt;
use std::io;
use std::path::PathBuf;

use super::source::Source;

/// Why the settings are invalid, with the place: file and line, variable or flag.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// A file cannot be read.
    #[error("cannot read {path}{named_by}: {source}", path = path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The variable that names the file, in brackets; empty if naq found the file itself.
        named_by: String,
        /// The error of the operating system.
        source: io::Error,
    },

    /// A file belongs to another user.
    #[error(
        "{path} belongs to user id {uid} and could name programs to run, so naq does not read it", path = path.display()
    )]
    ForeignOwner {
        /// The file.
        path: PathBuf,
        /// The owner of the file.
        uid: u32,
    },

    /// The group of a file, or everybody, can write to it.
    #[error(
        "other users can write to {path} (mode {mode:o}), so naq does not read it", path = path.display()
    )]
    WritableByOthers {
        /// The file.
        path: PathBuf,
        /// The permission bits of the file.
        mode: u32,
    },

    /// The file in the current folder is not trusted, and sets more than harmless settings.
    #[error(
        "{path}:{line}: {}{}", name_keys(.keys), if *.is_changed { ", and it has changed since it was trusted" } else { "" }, path = path.display()
    )]
    Untrusted {
        /// The file.
        path: PathBuf,
        /// The line of the first such setting, from 1.
        line: usize,
        /// These settings, in the order of their lines.
        keys: Vec<&'static str>,
        /// Whether the file was trusted before it changed.
        is_changed: bool,
    },

    /// A file cannot be written.
    #[error("cannot write {path}: {source}", path = path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// The error of the operating system.
        source: io::Error,
    },

    /// A file is not valid TOML.
    #[error("{path}:{line}:{column}: {reason}", path = path.display())]
    Syntax {
        /// The file.
        path: PathBuf,
        /// Line, from 1.
        line: usize,
        /// Column in characters, from 1.
        column: usize,
        /// What the parser expected.
        reason: String,
    },

    /// A key is not the name of a setting.
    #[error("{path}:{line}: unknown setting `{key}`{}", did_you_mean(*closest_match), path = path.display())]
    UnknownKey {
        /// The file.
        path: PathBuf,
        /// Line, from 1.
        line: usize,
        /// The key.
        key: String,
        /// The setting with the most similar name, if any is similar.
        closest_match: Option<&'static str>,
    },

    /// A caller passed a flag for an unknown setting. This is a bug in the caller, not in its input.
    #[error("unknown setting `{name}`")]
    UnknownSetting {
        /// The name.
        name: String,
    },

    /// A value is invalid for its setting.
    #[error("{place}: {name}: {reason}")]
    Value {
        /// Where the value is written.
        place: Source,
        /// The name of the setting.
        name: &'static str,
        /// What is wrong with the value, and what is expected.
        reason: String,
    },

    /// A NATS context cannot be used.
    #[error("cannot use the NATS context {name:?} ({place}): {reason}")]
    Context {
        /// The name of the context.
        name: String,
        /// Where it is named.
        place: Source,
        /// Why it cannot be used, with its file.
        reason: String,
    },

    /// Two settings contradict each other, or one lacks the other.
    #[error("{one} ({one_source}) and {other} ({other_source}): {reason}")]
    Conflict {
        /// The first setting.
        one: &'static str,
        /// Where its value comes from.
        one_source: Box<Source>,
        /// The second setting.
        other: &'static str,
        /// Where its value comes from.
        other_source: Box<Source>,
        /// Why they conflict, and what to do.
        reason: &'static str,
    },
}

/// What a file that is not trusted sets.
fn name_keys(keys: &[&str]) -> String {
    let names: Vec<String> = keys.iter().map(|key| format!("`{key}`")).collect();
    format!(
        "a file in the current folder sets {} only if it is trusted",
        names.join(", ")
    )
}

/// A harmless mistake, to be shown on standard error or by `naq config`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Warning {
    /// A `NAQ_*` variable is not a setting.
    UnknownVariable {
        /// The name of the variable.
        name: String,
        /// The variable with the most similar name, if any is similar.
        closest_match: Option<&'static str>,
    },
    /// A variable of the Python library has no effect any more.
    RemovedVariable {
        /// The name of the variable.
        name: String,
        /// What replaces it.
        instead: &'static str,
    },
    /// A variable names a folder of another user, whose files could name programs to run.
    ForeignFolder {
        /// The variable.
        variable: &'static str,
        /// The folder.
        path: PathBuf,
        /// The owner of the folder, or of the one that it would lie in.
        uid: u32,
    },
    /// A credential is not sent, because it is not for the address that is in use.
    ForeignCredential {
        /// The setting.
        name: &'static str,
        /// Where its value comes from.
        place: Source,
        /// Where the address comes from.
        address: Source,
    },
    /// The machine's settings file exists, and this user may not read it.
    SystemFileDenied {
        /// The file.
        path: PathBuf,
    },
    /// A file that contains a secret is readable by other users.
    ReadableByOthers {
        /// The file.
        path: PathBuf,
        /// The setting that is secret.
        name: &'static str,
    },
    /// A context contains a field that naq does not support.
    UnusedContextField {
        /// The file of the context.
        path: PathBuf,
        /// The name of the field.
        field: &'static str,
    },
}

impl Warning {
    /// Whether to show the warning at every start. The others are only for `naq config`.
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
                    "the variable {name} is not a setting and has no effect{}",
                    did_you_mean(*closest_match)
                )
            }
            Warning::RemovedVariable { name, instead } => {
                write!(out, "the variable {name} has no effect: {instead}")
            }
            Warning::ForeignFolder {
                variable,
                path,
                uid,
            } => {
                let path = path.display();
                write!(
                    out,
                    "the variable {variable} is ignored: {path} belongs to user id {uid}; name a folder of your own"
                )
            }
            Warning::ForeignCredential {
                name,
                place,
                address,
            } => write!(
                out,
                "{name} ({place}) is not sent, because another place sets the address (nats_url, {address}); set both in one place"
            ),
            Warning::SystemFileDenied { path } => {
                let path = path.display();
                write!(
                    out,
                    "{path} is ignored: you may not read it; ask for permission, or name your own file with --config"
                )
            }
            Warning::ReadableByOthers { path, name } => {
                let path = path.display();
                write!(
                    out,
                    "{path} contains `{name}` and is readable by other users; run chmod 600 {path}"
                )
            }
            Warning::UnusedContextField { path, field } => {
                write!(out, "{}: naq does not support `{field}`", path.display())
            }
        }
    }
}

fn did_you_mean(closest_match: Option<&str>) -> String {
    closest_match
        .map(|name| format!("; did you mean `{name}`?"))
        .unwrap_or_default()
}
