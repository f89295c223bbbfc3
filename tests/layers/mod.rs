//! The layer rule of ARCHITECTURE.md: imports point one way.

#![expect(clippy::unwrap_used, reason = "in a test a panic is the report")]

mod check;

use std::path::{Path, PathBuf};

use check::{ROWS, check};

fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|end| end == "rs") {
            found.push(path);
        }
    }
}

#[test]
fn imports_point_one_way() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    sources(&root, &mut files);
    let mut seen = std::collections::BTreeSet::new();
    let mut broken = Vec::new();
    for path in &files {
        let file = path.strip_prefix(&root).unwrap().to_str().unwrap();
        seen.insert(file.split(['/', '.']).next().unwrap().to_owned());
        broken.extend(check(file, &std::fs::read_to_string(path).unwrap()));
    }
    for room in ROWS.iter().copied().flatten() {
        assert!(seen.contains(*room), "no file of the room {room} was read");
    }
    assert!(broken.is_empty(), "{}", broken.join("\n"));
}

/// A line in a file, and a word of the complaint it must draw.
#[test]
fn what_breaks_the_rule_is_found() {
    for (file, source, word) in [
        (
            "broker/jobs.rs",
            "use crate::runner::Runner;",
            "imports runner",
        ),
        (
            "runner/pool.rs",
            "use crate::{broker::Broker};",
            "imports broker",
        ),
        (
            "runner/pool.rs",
            "use crate::{envelope::{JobId}, broker};",
            "imports broker",
        ),
        (
            "envelope/job.rs",
            "fn f() { crate::lifecycle::g() }",
            "imports lifecycle",
        ),
        ("worker/mod.rs", "use crate::cli::main;", "imports cli"),
        (
            "worker/mod.rs",
            "use crate::config::Settings;",
            "imports config",
        ),
        ("server/mod.rs", "use crate::worker;", "imports worker"),
        ("client.rs", "use super::worker::Options;", "imports worker"),
        (
            "broker/mod.rs",
            "mod tests { use super::super::client::Client; }",
            "imports client",
        ),
        (
            "broker/a/b.rs",
            "use super::super::super::client::Client;",
            "imports client",
        ),
        (
            "broker/mod.rs",
            "fn f() { select! { _ = crate::worker::f() => {} } }",
            "imports worker",
        ),
        (
            "main.rs",
            "fn main() { naq::worker::work() }",
            "imports worker",
        ),
        ("client.rs", "use crate::helpers::x;", "no room"),
        ("extra/mod.rs", "use crate::envelope::JobId;", "no room"),
        ("client.rs", "use crate as all;", "no room"),
        ("client.rs", "use crate::*;", "no room"),
        ("worker/mod.rs", "use async_nats::Client;", "only broker"),
        ("client.rs", "fn f(c: async_nats::Client) {}", "only broker"),
        (
            "server/lock.rs",
            "fn f() { unsafe { g() } }",
            "runner's alone",
        ),
        ("server/lock.rs", "#![expect(unsafe_code)]", "runner alone"),
        (
            "cli/run.rs",
            "use std::process::Command;",
            "start processes",
        ),
        (
            "cli/run.rs",
            "use std::process::{Child, Command};",
            "start processes",
        ),
        (
            "worker/mod.rs",
            "fn f() { tokio::process::Command::new(\"x\"); }",
            "start processes",
        ),
        (
            "cli/run.rs",
            "fn f() { std::env::var(\"HOME\"); }",
            "environment",
        ),
        ("lifecycle/mod.rs", "use tokio::time::Instant;", "pure room"),
        (
            "envelope/mod.rs",
            "fn f() { std::time::SystemTime::now(); }",
            "pure room",
        ),
    ] {
        let found = check(file, source);
        assert!(
            found.iter().any(|line| line.contains(word)),
            "{file}: {source}: {found:?}"
        );
    }
}

#[test]
fn what_keeps_the_rule_passes() {
    for (file, source) in [
        (
            "worker/mod.rs",
            "use crate::{broker::Broker, client::Client, runner, envelope::JobId};",
        ),
        (
            "worker/mod.rs",
            "use crate::worker::hold::Hold; use super::worker;",
        ),
        (
            "broker/jobs.rs",
            "use super::names::Names; mod tests { use super::super::names; }",
        ),
        (
            "broker/jobs.rs",
            "// use crate::runner;\n/* unsafe */ const A: &str = \"crate::runner\";",
        ),
        (
            "broker/jobs.rs",
            "/// Unlike [`crate::runner::Runner`], no process.\nstruct Jobs;",
        ),
        (
            "worker/command.rs",
            "use crate::runner::Command; fn f() { Command::new(1); }",
        ),
        (
            "cli/mod.rs",
            "fn f() { let a = std::process::ExitCode::SUCCESS; std::env::args_os(); }",
        ),
        ("client.rs", "const A: &str = env!(\"CARGO_PKG_VERSION\");"),
        (
            "main.rs",
            "fn main() -> std::process::ExitCode { naq::cli::main() }",
        ),
        ("runner/wire.rs", "pub(crate) struct A(pub(crate) u8);"),
        ("lib.rs", "pub mod broker; pub use crate::client::Client;"),
    ] {
        assert_eq!(
            check(file, source),
            Vec::<String>::new(),
            "{file}: {source}"
        );
    }
}
