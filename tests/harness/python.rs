//! A Python interpreter with the packages that a test needs.

#![expect(clippy::unwrap_used, reason = "in a test a panic is the report")]

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// The interpreter of a virtual environment with the packages of `requirements`. Created once for each
/// content of that file, and shared by all tests.
pub(crate) fn python(name: &str, requirements: &Path) -> PathBuf {
    let target = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let wanted = std::fs::read_to_string(requirements).unwrap();
    let lock = std::fs::File::create(target.join(format!("{name}.lock"))).unwrap();
    lock.lock().unwrap();
    let folder = target.join(name);
    let python = folder.join("bin/python");
    let made = folder.join("made-from");
    if std::fs::read_to_string(&made).is_ok_and(|made| made == wanted) {
        return python;
    }
    succeeds(
        program("python3")
            .args(["-m", "venv", "--clear"])
            .arg(&folder),
    );
    let install = "-m pip install --quiet --disable-pip-version-check -r";
    succeeds(program(&python).args(install.split(' ')).arg(requirements));
    std::fs::write(&made, wanted).unwrap();
    python
}

fn program(name: impl AsRef<std::ffi::OsStr>) -> Command {
    #[expect(
        clippy::disallowed_methods,
        reason = "Python is a process of its own, started as a user would"
    )]
    Command::new(name)
}

fn succeeds(command: &mut Command) {
    let Output {
        status,
        stdout,
        stderr,
    } = command.output().unwrap();
    let (out, error) = (
        String::from_utf8_lossy(&stdout),
        String::from_utf8_lossy(&stderr),
    );
    assert!(status.success(), "{command:?}: {status}\n{out}\n{error}");
}
