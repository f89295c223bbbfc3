//! What naq is deployed with: the units of systemd, and the image and services of docker.

#![expect(clippy::unwrap_used, reason = "in a test a panic is the report")]

mod docker;
mod hardening;
mod kubernetes;
mod systemd;

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use crate::harness::nats::naq;

fn path(name: &str) -> PathBuf {
    Path::new(crate::ROOT).join(name)
}

fn file(name: &str) -> String {
    std::fs::read_to_string(path(name)).unwrap()
}

fn run(program: &Path, args: &[&str], folder: &Path) -> Output {
    #[expect(
        clippy::disallowed_methods,
        reason = "the program that reads the file is the judge of it"
    )]
    let mut command = Command::new(program);
    command.args(args).current_dir(folder).output().unwrap()
}

/// Asserts that naq has the verb and every option of a command line.
fn assert_naq_accepts(words: &[&str]) {
    let args = [words, &["--help"]].concat();
    let done = run(naq(), &args, Path::new("/"));
    let error = String::from_utf8_lossy(&done.stderr);
    assert!(done.status.success(), "naq {words:?}: {error}");
}
