//! `naq health`, as the health check of a container runs it.

use nix::sys::signal::Signal;

use crate::harness::naq::{Naq, eventually};
use crate::harness::nats::TestServer;

#[test]
fn health_is_that_of_nats_and_of_a_service_here() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    let health = |words: &[&str]| {
        let cli = naq.cli([&["health"], words].concat());
        cli.env("NAQ_CONNECT_TIMEOUT", "1s").run()
    };
    health(&[]).succeeds().expect_stdout("healthy: nats-server");
    let worker = naq
        .worker(&["build"])
        .env("NAQ_WORKER_TTL", "2s")
        .env("NAQ_WORKER_HEARTBEAT_INTERVAL", "500ms")
        .spawn();
    let scheduler = naq.cli(["scheduler"]).follow();
    // Other tests run workers of other servers on this machine, so the process is named.
    let is_healthy = |service: &str, pid: i32| {
        let done = health(&[service, "--pid", &pid.to_string()]);
        assert!(matches!(done.code, Some(0 | 3)), "{done:?}");
        done.code == Some(0)
    };
    for (service, pid) in [("worker", worker.pid()), ("scheduler", scheduler.pid())] {
        eventually("its heartbeat is stored", || is_healthy(service, pid));
    }
    // a process of the other kind has no such heartbeat
    assert!(!is_healthy("worker", scheduler.pid()));
    let json = health(&["worker", "--pid", &worker.pid().to_string(), "--json"]).succeeds();
    assert!(
        json.stdout
            .contains(&format!("\"pids\":[{}]", worker.pid())),
        "{json:?}"
    );
    // a worker that is stuck writes no heartbeat, and the server removes the last one
    worker.signal(Signal::SIGSTOP);
    eventually("its heartbeat expires", || {
        !is_healthy("worker", worker.pid())
    });
    health(&["worker", "--pid", &worker.pid().to_string()])
        .exits(3)
        .expect_stderr(&["the heartbeat of `naq worker`", "is not stored in NATS"]);
    worker.signal(Signal::SIGCONT);
    eventually("it is healthy again", || is_healthy("worker", worker.pid()));
    server.kill9();
    health(&[]).exits(3);
}
