//! `clients/python`: its tests, types and style, in a virtual environment with what they need.

use std::path::Path;

use super::{client, command, succeeds};
use crate::harness::python::python;
use crate::harness::{is_required, skipped};

/// The oldest Python that the client supports.
const IS_SUPPORTED: &str = "import sys; print(sys.version_info >= (3, 10))";

#[test]
fn the_python_client_passes_its_tests() {
    let folder = client("python");
    let mut asking = command("python3", &folder);
    asking.args(["-c", IS_SUPPORTED]);
    if succeeds(asking).trim() != "True" {
        let install = "install Python 3.10 or newer";
        assert!(!is_required(), "{install}");
        skipped(&format!("clients/python is not tested: {install}"));
        return;
    }
    let python = python("python-client", &folder.join("tests/requirements.txt"));
    let caches = Path::new(env!("CARGO_TARGET_TMPDIR")).join("python-client-caches");
    let run = |arguments: &[&str]| {
        let mut command = command(&python, &folder);
        command
            .args(arguments)
            .env("PYTHONDONTWRITEBYTECODE", "1")
            .env("MYPY_CACHE_DIR", caches.join("mypy"))
            .env("RUFF_CACHE_DIR", caches.join("ruff"));
        succeeds(command)
    };
    run(&[
        "-m",
        "pip",
        "install",
        "--quiet",
        "--disable-pip-version-check",
        "--no-deps",
        "--no-build-isolation",
        "--editable",
        ".",
    ]);
    let printed = run(&[
        "-m",
        "pytest",
        "--quiet",
        "-p",
        "no:cacheprovider",
        "--show-capture=no",
    ]);
    assert!(printed.contains(" passed"), "{printed}");
}
