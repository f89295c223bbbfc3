//! Helpers that all tests share.

pub(crate) mod cluster;
pub(crate) mod disk;
pub(crate) mod generated_file;
pub(crate) mod hostile_server;
pub(crate) mod impostor;
pub(crate) mod naq;
pub(crate) mod nats;
pub(crate) mod proxy;
pub(crate) mod python;
mod raw_nats;
pub(crate) mod shifted_clock;

use std::path::{Path, PathBuf};

/// Says that the test of this thread leaves something out, and why. Written to standard error itself: what
/// a test prints is shown only if it fails.
pub(crate) fn skipped(what: &str) {
    use std::io::Write;
    let thread = std::thread::current();
    let test = thread.name().unwrap_or("a test");
    let _ = writeln!(std::io::stderr(), "skipped in {test}: {what}");
}

/// The variable with which CI says that a missing program is a failure.
const PROGRAMS_REQUIRED: &str = "NAQ_TEST_REQUIRE_PROGRAMS";

/// Whether a missing program fails a test, instead of skipping it.
pub(crate) fn is_required() -> bool {
    naq_client::config::environment().contains_key(PROGRAMS_REQUIRED)
}

/// The path of an installed program. `None` if it is missing; then this prints what is skipped.
pub(crate) fn find_program(name: &str, without: &str) -> Option<PathBuf> {
    let search = naq_client::config::environment()
        .remove("PATH")
        .unwrap_or_default();
    let mut places = search.split(':').map(|folder| Path::new(folder).join(name));
    let found = places.find(|program| program.is_file());
    if found.is_none() {
        assert!(!is_required(), "install {name}");
        skipped(&format!("{name} is missing, so {without}"));
    }
    found
}

/// Whether this process is root. If it is not, says that this is skipped.
pub(crate) fn is_root(what: &str) -> bool {
    let is_root = nix::unistd::geteuid().is_root();
    if !is_root {
        skipped(&format!("{what}: only root can do that"));
    }
    is_root
}
