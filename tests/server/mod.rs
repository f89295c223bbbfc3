//! The managed nats-server: real servers that are started, killed, shared and rejected.

#![expect(clippy::unwrap_used, reason = "in a test a panic is the report")]

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use naq::local_server::{
    self, ManagedServer, Origin, Port, Search, ServerConfig, ServerError, SyncInterval, ensure,
    ensure_blocking, find, running, stop_blocking, wait_until_gone,
};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;

use crate::harness::naq::Naq;
use crate::harness::nats::{TEST_TIMEOUT, TestOptions, TestServer, binary, naq, search};

mod certificate;
mod credentials;
mod from_env;
mod other_user;
mod provisioning;
mod sharing;

/// A port of 127.0.0.1 that was free a moment ago.
fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().port()
}

/// The configuration of a server in this folder, at a free port.
fn options(folder: &Path) -> ServerConfig {
    let explicit = Some(binary().path.clone());
    let mut options = ServerConfig::new(
        folder,
        Search {
            explicit,
            ..Search::default()
        },
    );
    options.port = Port::Free;
    options.supervisor = Some(naq().to_path_buf());
    options
}

fn alive(pid: i32) -> bool {
    kill(Pid::from_raw(pid), None).is_ok()
        && !fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| stat.contains(") Z "))
}

/// Whether the process ends. It releases its locks a moment before it is gone.
fn gone(pid: i32) -> bool {
    eventually(|| !alive(pid))
}

fn signal(pid: i32, signal: Signal) {
    kill(Pid::from_raw(pid), signal).unwrap();
}

/// The server's response to a connection with this CONNECT.
fn connect(port: u16, connect: &str) -> String {
    let stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    stream.set_read_timeout(Some(TEST_TIMEOUT)).unwrap();
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    let mut line = String::new();
    reader.read_line(&mut line).unwrap();
    assert!(line.starts_with("INFO "), "{line}");
    (&stream)
        .write_all(format!("CONNECT {connect}\r\nPING\r\n").as_bytes())
        .unwrap();
    line.clear();
    reader.read_line(&mut line).unwrap();
    line.trim().to_owned()
}

fn accepts(port: u16, token: &str) -> bool {
    connect(
        port,
        &format!(r#"{{"auth_token":"{token}","verbose":false}}"#),
    ) == "PONG"
}

/// Whether a managed server lets a client in that has the key of its data folder, and is no client of naq.
fn admits(server: &ManagedServer) -> bool {
    let seed = fs::read_to_string(server.nkey_file()).unwrap();
    admits_key(server.url(), seed.trim())
}

fn admits_key(url: &str, seed: &str) -> bool {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let connecting = async_nats::ConnectOptions::with_nkey(seed.to_owned()).connect(url.to_owned());
    runtime.block_on(connecting).is_ok()
}

#[test]
fn a_managed_server_is_private_and_requires_the_key_of_its_folder() {
    let folder = TempDir::new().unwrap();
    // what an earlier version has left
    fs::write(folder.path().join("token"), "former").unwrap();
    let server = ensure_blocking(&options(folder.path())).unwrap();
    assert!(admits(&server));
    assert!(!folder.path().join("token").exists());
    assert_eq!(server.url(), format!("nats://127.0.0.1:{}", server.port()));
    let refused = connect(server.port(), r#"{"verbose":false}"#);
    assert!(refused.contains("Authorization Violation"), "{refused}");
    assert!(!accepts(server.port(), "former"));
    let other = "SUACSSL3UAHUDXKFSNVUZRF5UHPMWZ6BFDTJ7M6USDXIEDNPPQYYYCU3VY";
    assert!(!admits_key(server.url(), other));
    // nothing of what the server has lets a client in
    let seed = fs::read_to_string(server.nkey_file()).unwrap();
    let conf = fs::read_to_string(folder.path().join("nats-server.conf")).unwrap();
    assert!(
        conf.contains("nkey") && !conf.contains(seed.trim()),
        "{conf}"
    );

    for file in [
        "client.nk",
        "server.key",
        "server.pem",
        "nats-server.conf",
        "server.json",
        "nats-server.log",
        "supervisor.log",
    ] {
        let mode = fs::metadata(folder.path().join(file))
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(mode & 0o077, 0, "{file} has mode {mode:o}");
    }
    let line = fs::read(format!("/proc/{}/cmdline", server.pid())).unwrap();
    let line = String::from_utf8_lossy(&line);
    assert!(
        line.contains("nats-server") && !line.contains(seed.trim()),
        "{line}"
    );

    // Loopback only: the listening sockets with the server's port.
    let hex_port = format!(":{:04X} ", server.port());
    let sockets = fs::read_to_string("/proc/net/tcp").unwrap();
    let listening: Vec<&str> = sockets
        .lines()
        .filter_map(|line| line.split_once(": "))
        .filter(|(_, rest)| rest.split_at(14).0.ends_with(&hex_port) && rest.contains(" 0A "))
        .map(|(_, rest)| &rest[..8])
        .collect();
    assert_eq!(listening, ["0100007F"]);
    let six = fs::read_to_string("/proc/net/tcp6").unwrap_or_default();
    assert!(
        !six.lines()
            .any(|line| line.contains(&hex_port) && line.contains(" 0A "))
    );
}

#[test]
fn a_test_server_keeps_port_token_and_files_across_kill_and_restart() {
    let mut server = TestServer::start();
    let (port, token, pid) = (server.port(), server.token().to_owned(), server.pid());
    server.kill9();
    assert!(TcpStream::connect(("127.0.0.1", port)).is_err());
    server.restart();
    assert_ne!(server.pid(), pid);
    assert!(accepts(port, &token));
    server.stop_gracefully();
    assert!(running(server.data_dir()).is_none());
    server.restart();
    assert!(accepts(port, &token));
    let folder = server.data_dir().to_path_buf();
    drop(server);
    wait_until_gone(&folder, TEST_TIMEOUT).unwrap();
    assert!(eventually(|| !folder.exists()), "its folder is removed");
}

/// Waits for an event that the kernel does not report: the end of a folder or an orphan.
fn eventually(mut condition: impl FnMut() -> bool) -> bool {
    let start = Instant::now();
    while start.elapsed() < TEST_TIMEOUT {
        if condition() {
            return true;
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    false
}

#[test]
fn a_suspended_server_does_not_respond_and_resumes() {
    let server = TestServer::start();
    server.pause();
    // The kernel still accepts the connection, but no greeting follows.
    let stream = TcpStream::connect(("127.0.0.1", server.port())).unwrap();
    stream
        .set_read_timeout(Some(Duration::from_millis(150)))
        .unwrap();
    assert!((&stream).read(&mut [0; 8]).is_err());
    let status = local_server::status(server.data_dir()).unwrap().unwrap();
    assert!(!status.responding && status.in_use && !status.stays);
    server.resume();
    assert!(accepts(server.port(), server.token()));
    let status = local_server::status(server.data_dir()).unwrap().unwrap();
    assert!(status.responding);
}

#[test]
fn a_suspended_server_is_stopped_too() {
    let server = TestServer::start();
    let pid = server.pid();
    server.pause();
    server.stop_gracefully();
    assert!(gone(pid));
}

#[test]
fn limits_and_syncing_reach_the_server() {
    let server = TestServer::with(&TestOptions {
        max_file_store_bytes: Some(1 << 20),
        max_payload_bytes: Some(4096),
        sync: SyncInterval::Always,
        extra_config: "max_connections: 7".to_owned(),
        ..TestOptions::default()
    });
    let stream = TcpStream::connect(("127.0.0.1", server.port())).unwrap();
    let mut greeting = String::new();
    BufReader::new(stream).read_line(&mut greeting).unwrap();
    assert!(greeting.contains(r#""max_payload":4096"#), "{greeting}");
    let conf = fs::read_to_string(server.data_dir().join("nats-server.conf")).unwrap();
    for expected in [
        "sync_interval: always",
        "max_file_store: 1048576",
        "max_connections: 7",
    ] {
        assert!(conf.contains(expected), "{expected} in {conf}");
    }
}

#[test]
fn a_taken_port_is_avoided_or_reported() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    let folder = TempDir::new().unwrap();
    let mut wanted = options(folder.path());
    wanted.port = Port::Fixed(port);
    let error = ensure_blocking(&wanted).unwrap_err();
    assert!(matches!(error, ServerError::Start { .. }), "{error:?}");
    assert!(
        error
            .to_string()
            .contains(&format!("cannot use port {port}")),
        "{error}"
    );
    wanted.port = Port::Preferred(port);
    let server = ensure_blocking(&wanted).unwrap();
    assert_ne!(server.port(), port);
    assert!(admits(&server));
}

#[test]
fn an_invalid_configuration_is_reported_with_nats_server_error() {
    let folder = TempDir::new().unwrap();
    let mut wanted = options(folder.path());
    wanted.extra_config = "no_such_setting: 3".to_owned();
    let error = ensure_blocking(&wanted).unwrap_err().to_string();
    assert!(error.contains("no_such_setting"), "{error}");
    assert!(running(folder.path()).is_none());
}

#[test]
fn a_data_folder_that_others_can_write_to_is_rejected() {
    let folder = TempDir::new().unwrap();
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o777)).unwrap();
    let error = ensure_blocking(&options(folder.path())).unwrap_err();
    assert!(matches!(error, ServerError::DataDir { .. }), "{error:?}");
}

#[test]
fn a_locked_data_folder_is_reported_within_the_time_limit() {
    let folder = TempDir::new().unwrap();
    let lock = fs::File::create(folder.path().join("lock")).unwrap();
    lock.try_lock().unwrap();
    let mut wanted = options(folder.path());
    wanted.lock_timeout = Duration::from_millis(200);
    let error = ensure_blocking(&wanted).unwrap_err();
    assert!(
        matches!(error, ServerError::Locked { waited_ms: 200, .. }),
        "{error:?}"
    );
    drop(lock);
    drop(ensure_blocking(&wanted).unwrap());
}

#[tokio::test]
async fn the_server_starts_quickly() {
    let folder = TempDir::new().unwrap();
    let wanted = options(folder.path());
    let start = Instant::now();
    let server = ensure(&wanted).await.unwrap();
    let took = start.elapsed();
    println!("started in {took:?}");
    assert!(server.started());
    // Some 50 ms here. The bound only catches waiting for time instead of an event.
    assert!(took < Duration::from_secs(5), "{took:?}");
}

#[test]
fn a_supervisor_program_that_is_not_naq_is_named_in_the_error() {
    let folder = TempDir::new().unwrap();
    let mut wanted = options(folder.path());
    wanted.supervisor = Some(PathBuf::from("/bin/true"));
    let error = ensure_blocking(&wanted).unwrap_err().to_string();
    assert!(error.contains("/bin/true"), "{error}");
    wanted.supervisor = Some(PathBuf::from("/nowhere/naq"));
    let error = ensure_blocking(&wanted).unwrap_err().to_string();
    assert!(error.contains("/nowhere/naq"), "{error}");
}
