//! The log of a supervisor, which is its standard error.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::process;

use chrono::{SecondsFormat, Utc};

use super::error::ServerError;

/// Writes a line to standard error, which is the supervisor's log.
pub(super) fn log_line(text: &str) {
    #[expect(
        clippy::disallowed_methods,
        reason = "the supervisor stamps the lines of its log"
    )]
    let now = Utc::now().to_rfc3339_opts(SecondsFormat::Millis, true);
    let _nowhere_else_to_say_it =
        writeln!(io::stderr(), "{now} supervisor {}: {text}", process::id());
}

/// Opens a log for appending, with mode 0600.
pub(super) fn open_log(path: &Path) -> Result<File, ServerError> {
    OpenOptions::new()
        .append(true)
        .create(true)
        .mode(0o600)
        .open(path)
        .map_err(ServerError::file("open", path))
}
