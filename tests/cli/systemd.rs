//! What services tell systemd: ready, stopping, still alive, and how long a drain may take.

#![expect(clippy::unwrap_used, reason = "in a test a panic is the report")]

use std::io::Write as _;
use std::net::TcpStream;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use crate::harness::naq::{FollowedCli, Naq, text};
use crate::harness::nats::TestServer;
use crate::harness::proxy::{Link, Proxy};

/// A socket at which a service reports, and from which a test reads for half a minute at most.
fn bind(path: &Path) -> UnixDatagram {
    let socket = UnixDatagram::bind(path).unwrap();
    let time_max = Some(Duration::from_secs(30));
    socket.set_read_timeout(time_max).unwrap();
    socket
}

/// What a service reports at a new socket. All is read at once: its reports wait while many are unread.
fn all_reports(path: &Path) -> Receiver<String> {
    let socket = UnixDatagram::bind(path).unwrap();
    let (sender, reports) = channel();
    std::thread::spawn(move || while sender.send(notification(&socket)).is_ok() {});
    reports
}

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
    for command in [
        &["worker"][..],
        &["scheduler"],
        &["dashboard", "--port", "0"],
    ] {
        let verb = command[0];
        let path = folder.path().join(verb);
        let socket = bind(&path);
        let process = naq
            .cli(command.iter().copied())
            .env("NOTIFY_SOCKET", path.to_str().unwrap())
            .follow();
        assert_eq!(notification(&socket), "READY=1", "{verb}");
        if verb == "worker" {
            // what is ordered after the worker finds a queue that it serves
            assert!(naq.has_consumer("default", "naq-worker"));
        }
        process.signal(nix::sys::signal::Signal::SIGTERM);
        assert_eq!(notification(&socket), "STOPPING=1", "{verb}");
        process.wait_exit();
    }
}

/// Starts a service that is to report to systemd each 0.3 s, and waits until it is ready.
fn start_with_watchdog(
    naq: &Naq,
    folder: &Path,
    verb: &str,
    failpoints: &str,
) -> (FollowedCli, UnixDatagram) {
    let words: &[&str] = match verb {
        // the port may be in use
        "dashboard" => &["dashboard", "--port", "0"],
        _ => &[verb],
    };
    let path = folder.join(verb);
    let socket = bind(&path);
    let process = naq
        .cli(words.iter().copied())
        .env("NOTIFY_SOCKET", path.to_str().unwrap())
        .env("WATCHDOG_USEC", "300000")
        .env("FAILPOINTS", failpoints)
        .follow();
    // a loop that sets up what it needs is alive too
    let mut first = notification(&socket);
    while first == "WATCHDOG=1" {
        first = notification(&socket);
    }
    assert_eq!(first, "READY=1", "{verb}");
    (process, socket)
}

#[test]
fn a_draining_worker_asks_systemd_for_as_much_time_as_it_may_take() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    let path = naq.home().join("notify");
    let socket = bind(&path);
    let worker = naq
        .cli(["worker", "--drain-timeout", "2h", "--kill-grace", "7s"])
        .env("NOTIFY_SOCKET", path.to_str().unwrap())
        .env("WATCHDOG_USEC", "3600000000")
        .follow();
    assert_eq!(notification(&socket), "WATCHDOG=1");
    assert_eq!(notification(&socket), "READY=1");
    // a job has no socket by which it could report in the worker's name
    let script = "env; sleep 600";
    let job = naq.enqueue(&["--", "sh", "-c", script]);
    naq.wait_running(&job);
    worker.signal(nix::sys::signal::Signal::SIGTERM);
    assert_eq!(notification(&socket), "STOPPING=1");
    assert_eq!(notification(&socket), "STOPPING=1");
    // the drain timeout, the time to stop a job, 5 s to record outcomes, 5 s to sign off
    let max_s: u64 = 2 * 3600 + 7 + 5 + 5;
    let extension = format!("EXTEND_TIMEOUT_USEC={}", max_s * 1_000_000);
    assert_eq!(notification(&socket), extension);
    naq.cli(["cancel", job.as_str()]).run().succeeds();
    let record = naq.wait_ended(&job);
    let environment = text(record.stdout.as_ref());
    assert!(environment.contains("NAQ_JOB_ID="), "{environment}");
    for name in ["NOTIFY_SOCKET", "WATCHDOG_USEC"] {
        assert!(!environment.contains(name), "{environment}");
    }
    worker.wait_exit();
}

/// How long the process of the test below is stuck. The watchdog expects a report each 0.3 s.
const STUCK: Duration = Duration::from_secs(2);

/// A process that reports from a thread of its own would never seem stuck.
#[test]
fn the_watchdog_of_systemd_learns_that_a_loop_turns_and_when_it_does_not() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    let folder = tempfile::tempdir().unwrap();
    for (verb, stuck_at) in [
        ("worker", "run.started"),
        ("scheduler", "schedules.read"),
        ("dashboard", "dashboard.request"),
    ] {
        let failpoints = format!("{stuck_at}=1*sleep({})", STUCK.as_millis());
        let (process, socket) = start_with_watchdog(&naq, folder.path(), verb, &failpoints);
        assert_eq!(notification(&socket), "WATCHDOG=1", "{verb}");
        let mut last = std::time::Instant::now();
        // not by the program, whose start may take as long as the worker is stuck
        naq.publish("default", r#"{"command":"true"}"#);
        if verb == "dashboard" {
            request_health(&process);
        }
        // it reports, is stuck, and reports again
        let mut reports = 1;
        loop {
            assert_eq!(notification(&socket), "WATCHDOG=1", "{verb}");
            reports += 1;
            let gap = last.elapsed();
            last = std::time::Instant::now();
            if gap > STUCK * 3 / 4 {
                break;
            }
            assert!(reports < 100, "{verb}: no gap while the loop was stuck");
        }
        for _ in 0..5 {
            assert_eq!(notification(&socket), "WATCHDOG=1", "{verb}");
        }
        stop(process, socket);
    }
}

/// Sends a request to a dashboard, and does not wait for the answer.
fn request_health(dashboard: &FollowedCli) {
    dashboard.expect_stderr("stop       Ctrl-C");
    let printed = dashboard.stderr_text();
    let (_, rest) = printed.split_once("dashboard  http://").unwrap();
    let (address, _) = rest.split_once('/').unwrap();
    let mut connection = TcpStream::connect(address).unwrap();
    let request = format!("GET /healthz HTTP/1.1\r\nHost: {address}\r\n\r\n");
    connection.write_all(request.as_bytes()).unwrap();
}

/// Ends a service, and reads what it reports until it has ended: nobody else does, and its reports wait for that.
fn stop(process: FollowedCli, socket: UnixDatagram) {
    process.signal(nix::sys::signal::Signal::SIGTERM);
    while notification(&socket) == "WATCHDOG=1" {}
    std::thread::spawn(move || while socket.recv(&mut [0; 64]).is_ok() {});
    process.wait_exit();
}

/// Drops the messages that have arrived.
fn forget_notifications(socket: &UnixDatagram) {
    socket.set_nonblocking(true).unwrap();
    while socket.recv(&mut [0; 64]).is_ok() {}
    socket.set_nonblocking(false).unwrap();
}

#[test]
fn a_loop_without_nats_still_feeds_the_watchdog() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    let folder = tempfile::tempdir().unwrap();
    let start = |verb| {
        let (process, socket) = start_with_watchdog(&naq, folder.path(), verb, "");
        assert_eq!(notification(&socket), "WATCHDOG=1", "{verb}");
        (process, socket)
    };
    let services = ["worker", "scheduler", "dashboard"].map(start);
    server.kill9();
    for (_, socket) in &services {
        forget_notifications(socket);
    }
    for (process, socket) in services {
        for _ in 0..30 {
            assert_eq!(notification(&socket), "WATCHDOG=1");
        }
        stop(process, socket);
    }
}

/// A server that stops answering while schedules are being read again keeps the loop of the leader for
/// many seconds, in which it does all that it can.
#[test]
fn a_leader_that_reads_its_schedules_again_feeds_the_watchdog() {
    const SCHEDULES: usize = 5_000;
    let server = TestServer::start();
    let naq = Naq::new(&server);
    let mut proxy = Proxy::start(server.port());
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("scheduler");
    let reports = all_reports(&path);
    let envelope = "x".repeat(200);
    naq.block_on(async {
        naq.client().broker().ensure_schedules().await.unwrap();
        let jetstream = async_nats::jetstream::new(naq.nats().clone());
        for at in 0..SCHEDULES {
            let schedule = serde_json::json!({
                "schedule_id": format!("s{at}"), "queue": "q", "every": 3600, "status": "paused",
                "envelope": {"command": "true", "args": [envelope]},
                "created_at": "2026-01-01T00:00:00Z",
                "progress": {"done_until": "2026-01-01T00:00:00Z"},
            });
            let subject = format!("$KV.naq_scheduled_jobs.s{at}");
            let sent = jetstream
                .publish(subject, schedule.to_string().into())
                .await
                .unwrap();
            if at % 1_000 == 999 {
                sent.await.unwrap();
            }
        }
    });
    let process = naq
        .cli(["scheduler"])
        .env("NAQ_NATS_URL", &proxy.url())
        .env("NOTIFY_SOCKET", path.to_str().unwrap())
        .env("WATCHDOG_USEC", "300000")
        .follow();
    process.expect_stderr("leading");
    // the leader reads all of them again once it is connected again
    proxy.set(Link::Reset);
    process.expect_stderr("lost");
    proxy.set(Link::Open);
    process.expect_stderr("connected to NATS again");
    proxy.set(Link::Silent);
    while reports.try_recv().is_ok() {}
    for _ in 0..20 {
        let report = reports.recv_timeout(Duration::from_secs(4));
        assert_eq!(report.as_deref(), Ok("WATCHDOG=1"));
    }
    process.kill9();
}

/// What the server has lost shows in an answer; by then it may not answer any more.
#[test]
fn a_leader_that_has_checked_its_schedules_feeds_the_watchdog() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    let mut proxy = Proxy::start(server.port());
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("scheduler");
    let reports = all_reports(&path);
    naq.cli(["schedule", "--every", "1s", "--", "true"])
        .run()
        .succeeds();
    let process = naq
        .cli(["scheduler"])
        .env("NAQ_NATS_URL", &proxy.url())
        .env("NOTIFY_SOCKET", path.to_str().unwrap())
        .env("WATCHDOG_USEC", "300000")
        .env("FAILPOINTS", "schedules.checked=sleep(4000)")
        .follow();
    process.expect_stderr("leading");
    process.signal(nix::sys::signal::Signal::SIGSTOP);
    naq.block_on(async {
        let jetstream = async_nats::jetstream::new(naq.nats().clone());
        let deleted = jetstream.delete_stream("KV_naq_scheduled_jobs").await;
        deleted.unwrap();
        naq.client().broker().ensure_schedules().await.unwrap();
    });
    // a tick becomes late, so that the leader checks its schedules before it fires
    std::thread::sleep(Duration::from_secs(2));
    while reports.try_recv().is_ok() {}
    process.signal(nix::sys::signal::Signal::SIGCONT);
    // stuck with the answer: the bucket is a new one, and is to be read
    while reports.recv_timeout(Duration::from_secs(1)).is_ok() {}
    proxy.set(Link::Silent);
    for _ in 0..20 {
        let report = reports.recv_timeout(Duration::from_secs(4));
        assert_eq!(report.as_deref(), Ok("WATCHDOG=1"));
    }
    process.kill9();
}
