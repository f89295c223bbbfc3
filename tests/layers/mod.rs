//! The layer rules of ARCHITECTURE.md that Cargo cannot enforce: imports between the rooms of the
//! program point one way, and some names belong to one crate or room.

#![expect(clippy::unwrap_used, reason = "in a test a panic is the report")]

mod check;
mod circles;
mod dialect;
mod glossary;

use std::path::{Path, PathBuf};

use check::{ROWS, check};
use circles::{RoomFile, circles};

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

/// The sources of all crates: each path below the repository's root, and its text.
fn crate_sources(root: &Path) -> Vec<(String, String)> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(root.join("crates")).unwrap() {
        sources(&entry.unwrap().path().join("src"), &mut files);
    }
    files
        .iter()
        .map(|path| {
            let name = path.strip_prefix(root).unwrap().to_str().unwrap();
            (name.to_owned(), std::fs::read_to_string(path).unwrap())
        })
        .collect()
}

#[test]
fn imports_point_one_way() {
    let files = crate_sources(Path::new(crate::ROOT));
    let mut seen = std::collections::BTreeSet::new();
    let mut broken = Vec::new();
    for (path, source) in &files {
        let file = path.trim_start_matches("crates/");
        if let Some(file) = file.strip_prefix("naq/src/") {
            seen.insert(file.split(['/', '.']).next().unwrap().to_owned());
        }
        broken.extend(check(file, source));
    }
    for room in ROWS.iter().copied().flatten() {
        assert!(seen.contains(*room), "no file of the room {room} was read");
    }
    assert!(broken.is_empty(), "{}", broken.join("\n"));
}

/// Every room: its folder under `crates/`, and what its `crate::` paths begin with.
fn rooms(root: &Path) -> Vec<(String, Vec<&'static str>)> {
    let mut rooms: Vec<(String, Vec<&'static str>)> = ROWS
        .iter()
        .copied()
        .flatten()
        .map(|room| (format!("naq/src/{room}"), vec!["crate", *room]))
        .filter(|(folder, _)| root.join(folder).is_dir())
        .collect();
    for entry in std::fs::read_dir(root).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        if name != "naq" {
            rooms.push((format!("{name}/src"), vec!["crate"]));
        }
    }
    rooms.sort();
    rooms
}

#[test]
fn files_of_a_room_import_each_other_without_circles() {
    let root = Path::new(crate::ROOT).join("crates");
    let mut broken = Vec::new();
    for (folder, room_path) in rooms(&root) {
        let mut paths = Vec::new();
        sources(&root.join(&folder), &mut paths);
        let files: Vec<RoomFile> = paths
            .iter()
            .map(|path| {
                let file = path.strip_prefix(root.join(&folder)).unwrap();
                let source = std::fs::read_to_string(path).unwrap();
                RoomFile::read(&room_path, file.to_str().unwrap(), &source)
            })
            .collect();
        broken.extend(circles(&folder, &files));
    }
    assert!(broken.is_empty(), "{}", broken.join("\n"));
}

#[test]
fn a_circle_between_files_is_found() {
    let room = |files: &[(&str, &str)]| {
        let files: Vec<RoomFile> = files
            .iter()
            .map(|(file, source)| RoomFile::read(&["crate", "room"], file, source))
            .collect();
        circles("room", &files).join("\n")
    };
    let direct = [
        ("a.rs", "use super::b::X;"),
        ("b.rs", "fn f() { super::a::g() }"),
    ];
    assert!(room(&direct).contains("a → b"), "{}", room(&direct));
    let over_three = [
        ("a.rs", "use super::{b::{X, Y}, Z};"),
        ("b.rs", "use crate::room::c;"),
        ("c.rs", "mod tests { use super::super::a::W; }"),
    ];
    assert!(room(&over_three).contains("c → a"));
    let front = [
        ("mod.rs", "mod a; use a::X; struct Y;"),
        ("a.rs", "use super::Y;"),
    ];
    assert!(room(&front).contains("mod → a"));
    let re_exported = [
        ("mod.rs", "mod a; mod b; pub use b::Y;"),
        ("a.rs", "use super::Y;"),
        ("b.rs", "use super::a::X;"),
    ];
    assert!(room(&re_exported).contains("a → b"));
    let clean = [
        (
            "mod.rs",
            "mod a; mod b; mod c; pub use a::X; use {b::Z, c::C};",
        ),
        ("a.rs", "use super::b::Y; mod tests { use super::*; }"),
        ("b.rs", "use crate::other::a::W;"),
        (
            "c.rs",
            "pub(in crate::room) struct C { pub(super) field: u8 }",
        ),
    ];
    assert_eq!(room(&clean), "");
}

/// A line in a file, and a word of the complaint it must draw.
#[test]
fn each_broken_rule_is_found() {
    for (file, source, word) in [
        (
            "naq/src/worker/mod.rs",
            "use crate::cli::main;",
            "imports cli",
        ),
        (
            "naq/src/worker/mod.rs",
            "use crate::{local_server::Server};",
            "imports local_server",
        ),
        (
            "naq/src/scheduler/mod.rs",
            "use super::worker::WorkerConfig;",
            "imports worker",
        ),
        (
            "naq/src/worker/a/b.rs",
            "use super::super::super::scheduler::Client;",
            "imports scheduler",
        ),
        (
            "naq/src/scheduler/mod.rs",
            "fn f() { select! { _ = crate::worker::f() => {} } }",
            "imports worker",
        ),
        (
            "naq/src/main.rs",
            "fn main() { naq::worker::run_worker() }",
            "imports worker",
        ),
        ("naq/src/cli/run.rs", "use crate::helpers::x;", "no room"),
        (
            "naq/src/extra/mod.rs",
            "use crate::worker::Worker;",
            "no room",
        ),
        ("naq/src/cli/run.rs", "use crate as all;", "no room"),
        ("naq/src/cli/run.rs", "use crate::*;", "no room"),
        (
            "naq/src/worker/mod.rs",
            "use async_nats::Client;",
            "only naq-jetstream",
        ),
        (
            "naq-client/src/lib.rs",
            "fn f(c: async_nats::Client) {}",
            "only naq-jetstream",
        ),
        (
            "naq/src/local_server/mod.rs",
            "use naq_jetstream::Broker;",
            "see naq-jetstream",
        ),
        (
            "naq/src/cli/run.rs",
            "use naq_jetstream::Broker;",
            "see naq-jetstream",
        ),
        (
            "naq/src/worker/mod.rs",
            "use naq_client::config::Settings;",
            "sees the settings",
        ),
        (
            "naq/src/local_server/lock.rs",
            "fn f() { unsafe { g() } }",
            "naq-runner's alone",
        ),
        (
            "naq/src/local_server/lock.rs",
            "#![expect(unsafe_code)]",
            "naq-runner alone",
        ),
        (
            "naq/src/cli/run.rs",
            "use std::process::Command;",
            "start processes",
        ),
        (
            "naq/src/cli/run.rs",
            "use std::process::{Child, Command};",
            "start processes",
        ),
        (
            "naq/src/cli/run.rs",
            "fn f(client: &Client) { client.broker(); }",
            "below the client",
        ),
        (
            "naq/src/worker/mod.rs",
            "fn f() { tokio::process::Command::new(\"x\"); }",
            "start processes",
        ),
        (
            "naq-client/src/lib.rs",
            "fn f() { std::env::var(\"HOME\"); }",
            "environment",
        ),
        (
            "naq-core/src/lib.rs",
            "use tokio::time::Instant;",
            "pure crate",
        ),
        (
            "naq-protocol/src/lib.rs",
            "fn f() { std::time::SystemTime::now(); }",
            "pure crate",
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
fn kept_rules_pass() {
    for (file, source) in [
        (
            "naq/src/worker/mod.rs",
            "use naq_jetstream::Broker; use naq_protocol::JobId;",
        ),
        (
            "naq/src/worker/mod.rs",
            "use crate::worker::lease::Lease; use super::worker;",
        ),
        (
            "naq-jetstream/src/jobs.rs",
            "use super::names::Names; mod tests { use super::super::names; }",
        ),
        (
            "naq-jetstream/src/jobs.rs",
            "// unsafe\n/* unsafe */ const A: &str = \"unsafe\";",
        ),
        (
            "naq/src/worker/command.rs",
            "use naq_runner::Command; fn f() { Command::new(1); }",
        ),
        (
            "naq/src/cli/mod.rs",
            "fn f() { let a = std::process::ExitCode::SUCCESS; std::env::args_os(); }",
        ),
        (
            "naq-client/src/lib.rs",
            "const A: &str = env!(\"CARGO_PKG_VERSION\");",
        ),
        (
            "naq-client/src/config/environment.rs",
            "fn f() { std::env::vars(); }",
        ),
        (
            "naq/src/main.rs",
            "fn main() -> std::process::ExitCode { naq::cli::main() }",
        ),
        (
            "naq-runner/src/wire.rs",
            "pub(crate) struct A(pub(crate) u8);",
        ),
        ("naq/src/lib.rs", "pub mod worker; pub mod cli;"),
        (
            "naq/src/cli/bench/jobs.rs",
            "fn f(bench: &Bench) { bench.client.broker(); }",
        ),
    ] {
        assert_eq!(
            check(file, source),
            Vec::<String>::new(),
            "{file}: {source}"
        );
    }
}

/// Crates that a producer must not have to build, on any operating system: the command line, job
/// isolation, process control and HTTP.
const FORBIDDEN_IN_CLIENT: &[&str] = &[
    "clap",
    "comfy-table",
    "indicatif",
    "landlock",
    "naq",
    "naq-runner",
    "nix",
    "rcgen",
    "seccompiler",
    "ureq",
];

/// macOS and Windows are claimed as checked in this way: the client's dependencies on those targets
/// contain none of these crates.
#[test]
fn the_client_depends_on_no_cli_or_runner_crate_on_any_platform() {
    for target in [
        "x86_64-unknown-linux-gnu",
        "x86_64-apple-darwin",
        "x86_64-pc-windows-msvc",
    ] {
        let tree = client_dependencies(target);
        assert!(
            tree.contains("naq-jetstream") && tree.contains("async-nats"),
            "{target}: cargo tree printed something else: {tree:?}"
        );
        let forbidden: Vec<_> = FORBIDDEN_IN_CLIENT
            .iter()
            .filter(|name| tree.contains(**name))
            .collect();
        assert!(forbidden.is_empty(), "{target}: {forbidden:?}");
    }
}

/// The names of the crates that `naq-client` depends on for a target, itself included. Cargo downloads those that a
/// build for this machine does not need.
fn client_dependencies(target: &str) -> std::collections::BTreeSet<String> {
    #[expect(
        clippy::disallowed_methods,
        reason = "Cargo knows the dependency tree of a target"
    )]
    let output = std::process::Command::new(env!("CARGO"))
        .args(["tree", "-p", "naq-client", "-e", "normal", "--locked"])
        .args(["--prefix", "none", "--target", target])
        .current_dir(crate::ROOT)
        .output()
        .unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{target}: {error}");
    String::from_utf8(output.stdout)
        .unwrap()
        .lines()
        .filter_map(|line| line.split_whitespace().next())
        .map(str::to_owned)
        .collect()
}
