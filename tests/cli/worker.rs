//! `naq worker`: what its jobs may do.

#![expect(clippy::unwrap_used, reason = "in a test a panic is the report")]

use std::os::unix::net::UnixDatagram;
use std::time::Duration;

use crate::harness::naq::{Naq, text};
use crate::harness::nats::TestServer;

/// The next message of `sd_notify(3)`.
fn notification(socket: &UnixDatagram) -> String {
    let mut bytes = [0; 256];
    let length = socket.recv(&mut bytes).unwrap();
    String::from_utf8_lossy(&bytes[..length]).trim().to_owned()
}

#[test]
fn readiness_and_shutdown_are_notified_to_systemd() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    let folder = tempfile::tempdir().unwrap();
    for verb in ["worker", "scheduler"] {
        let path = folder.path().join(verb);
        let socket = UnixDatagram::bind(&path).unwrap();
        socket
            .set_read_timeout(Some(Duration::from_secs(30)))
            .unwrap();
        let process = naq
            .cli([verb])
            .env("NOTIFY_SOCKET", path.to_str().unwrap())
            .follow();
        assert_eq!(notification(&socket), "READY=1", "{verb}");
        process.signal(nix::sys::signal::Signal::SIGTERM);
        assert_eq!(notification(&socket), "STOPPING=1", "{verb}");
        process.wait_exit();
    }
}

#[test]
fn jobs_are_another_users_in_the_containment_asked_for() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    if !nix::unistd::geteuid().is_root() {
        return;
    }
    let worker = naq
        .worker(&["q"])
        .arg("--containment=namespace")
        .arg("--run-as=65534:65534")
        .arg("--workdir=/")
        .arg("--landlock-read=/")
        .spawn();
    worker.expect_stderr("containment=namespace");
    let script =
        "id -u; echo $NAQ_WORK_DIR; echo $$; touch $NAQ_WORK_DIR/x; touch /tmp/naq-x || echo kept";
    let job = naq.enqueue(&["--queue", "q", "--", "sh", "-c", script]);
    let record = naq.wait_ended(&job);
    let stdout = text(record.stdout.as_ref());
    let lines: Vec<_> = stdout.lines().collect();
    assert_eq!((lines[0], lines[3]), ("65534", "kept"), "{stdout}");
    // Its number is one of a namespace that began with the worker.
    assert!(lines[2].parse::<u32>().unwrap() < 100, "{stdout}");
    naq.cli(["list-workers"])
        .run()
        .succeeds()
        .expect_stdout("namespace");
    worker.stop();
}

#[test]
fn what_a_worker_cannot_hold_to_is_refused_at_its_start() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    let refused = |args: &[&str], code: i32, words: &str| {
        let args = ["worker", "q"].iter().chain(args).copied();
        naq.cli(args).run().exits(code).expect_stderr(&[words]);
    };
    let usage = 2;
    refused(
        &["--containment", "chroot"],
        usage,
        "auto, cgroup, namespace",
    );
    refused(&["--run-as", "no-such-user"], usage, ": no such user");
    refused(&["--run-as", "root:no-such"], usage, ": no such group");
    refused(&["--landlock-read", "usr"], 1, "usr: not an absolute path");
    refused(
        &["--landlock-write", "/no/such"],
        1,
        "/no/such: No such file",
    );
    naq.cli(["worker", "q"])
        .env("NAQ_RUN_AS", "no-such-user")
        .run()
        .exits(usage)
        .expect_stderr(&[": no such user"]);
}
