//! Servers that let anyone in, and clocks that are wrong.

use std::process::{Command, Stdio};

use naq::envelope::State;

use crate::harness::naq::{Guarded, Naq, eventually};
use crate::harness::nats::{TestServer, binary};

/// A nats-server that lets anyone in, and the port it took.
fn open_server(naq: &Naq) -> (Guarded, u16) {
    let folder = naq.home().join("open");
    std::fs::create_dir(&folder).unwrap();
    #[expect(
        clippy::disallowed_methods,
        reason = "naq itself starts none that is open"
    )]
    let mut command = Command::new(&binary().path);
    command
        .args(["-a", "127.0.0.1", "-p", "-1", "-js", "-sd"])
        .arg(&folder)
        .arg("--ports_file_dir")
        .arg(&folder)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    let server = Guarded::spawn(&mut command);
    let mut port = None;
    eventually("its port", || {
        port = std::fs::read_dir(&folder)
            .unwrap()
            .flatten()
            .find_map(|entry| {
                let text = std::fs::read_to_string(entry.path()).ok()?;
                let ports: serde_json::Value = serde_json::from_str(&text).ok()?;
                ports["nats"][0].as_str()?.rsplit(':').next()?.parse().ok()
            });
        port.is_some()
    });
    (server, port.unwrap())
}

#[test]
fn an_open_server_on_another_host_is_refused_unless_allowed() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    let (_open, port) = open_server(&naq);
    // an address of this very machine that is not called loopback
    let url = format!("nats://0.0.0.0:{port}");
    for verb in [&["enqueue", "--", "true"][..], &["worker"], &["queues"]] {
        let cli = || {
            naq.cli(verb.to_vec())
                .without_env("NAQ_TOKEN")
                .env("NAQ_NATS_URL", &url)
        };
        cli()
            .run()
            .exits(3)
            .says(&["another host", "--allow-insecure", "--creds"]);
    }
    naq.cli(["queues", "--allow-insecure"])
        .without_env("NAQ_TOKEN")
        .env("NAQ_NATS_URL", &url)
        .run()
        .succeeds()
        .says(&["without credentials"]);
    // with credentials it is no question, nor is loopback
    let done = naq
        .cli(["queues"])
        .env("NAQ_NATS_URL", &url)
        .run()
        .succeeds();
    assert!(!done.stderr.contains("another host"), "{done:?}");
    let done = naq
        .cli(["queues"])
        .without_env("NAQ_TOKEN")
        .env("NAQ_NATS_URL", &format!("nats://127.0.0.1:{port}"))
        .run()
        .succeeds();
    assert!(!done.stderr.contains("another host"), "{done:?}");
}

#[test]
fn the_servers_clock_counts_and_not_the_producers() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    let _worker = naq.worker(&["build"]).concurrency(1).spawn();
    for offset in ["2001-01-01T00:00:00Z", "2101-01-01T00:00:00Z"] {
        let job = naq.publish(
            "build",
            serde_json::json!({"command": "true", "enqueue_time": offset}).to_string(),
        );
        let record = naq.ended(&job);
        assert_eq!(record.state, State::Succeeded, "{record:#?}");
        let started = record.started_at.unwrap();
        let apart_ms = started.unix_ms() - record.enqueue_time.unix_ms();
        assert!((0..60_000).contains(&apart_ms), "{apart_ms}: {record:#?}");
    }
    // what is over is not started; what is not yet over is
    let over = naq.publish(
        "build",
        r#"{"command":"true","expires_at":"2001-01-01T00:00:00Z"}"#,
    );
    assert_eq!(naq.ended(&over).state, State::Expired);
    let open = naq.publish(
        "build",
        r#"{"command":"true","expires_at":"2101-01-01T00:00:00Z"}"#,
    );
    assert_eq!(naq.ended(&open).state, State::Succeeded);
    naq.a_good_job_runs("build");
}
