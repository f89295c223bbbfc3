//! The clients in other languages pass their own tests, with the program under test. A language that is not
//! installed is skipped, and the line that says so says what to install.

#![expect(clippy::unwrap_used, reason = "in a test a panic is the report")]

mod node;
mod python;

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::harness::nats::{binary, naq};

/// The folder of a client.
fn client(name: &str) -> PathBuf {
    Path::new(crate::ROOT)
        .canonicalize()
        .unwrap()
        .join("clients")
        .join(name)
}

/// A command in the folder of a client. Its tests start the program under test, with the tests' nats-server and
/// no setting of this environment.
fn command(program: impl AsRef<OsStr>, folder: &Path) -> Command {
    #[expect(
        clippy::disallowed_methods,
        reason = "the tests of a client are a process of their own"
    )]
    let mut command = Command::new(program);
    for (name, _) in naq_client::config::environment() {
        if name.starts_with("NAQ_") {
            command.env_remove(name);
        }
    }
    command
        .current_dir(folder)
        .env("NAQ_PROGRAM", naq())
        .env("NAQ_NATS_SERVER", &binary().path);
    command
}

/// Runs it to its end, and shows what it printed if it fails.
fn succeeds(mut command: Command) -> String {
    let output = command.output().unwrap();
    let printed = String::from_utf8_lossy(&output.stdout).into_owned();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success(),
        "{command:?}: {}\n{printed}\n{errors}",
        output.status
    );
    printed
}
