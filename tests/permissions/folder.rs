//! The files of `naq nats-config --out`, and the accounts in them.

use std::os::unix::fs::PermissionsExt;

use super::fleet::{Fleet, path};
use crate::harness::naq::Naq;
use crate::harness::nats::TestServer;

#[test]
fn credentials_are_kept_and_nobody_else_reads_them() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    let write = |options: &[&str]| {
        let words = ["nats-config", "--out", "fleet", "--queue", "build"];
        let done = naq
            .cli(words.iter().chain(options).copied())
            .run()
            .succeeds();
        assert!(done.stdout.contains("fleet/nats.conf"), "{done:?}");
    };
    let read = |name: &str| std::fs::read_to_string(naq.home().join("fleet").join(name)).unwrap();
    for (options, file) in [(&["--nkeys"][..], "worker.nk"), (&[], "worker.toml")] {
        write(options);
        let before = (read(file), read("nats.conf"));
        write(options);
        assert_eq!((read(file), read("nats.conf")), before);
    }
    let folder = naq.home().join("fleet");
    let mode = |of: &std::path::Path| std::fs::metadata(of).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&folder), 0o700);
    for entry in std::fs::read_dir(&folder).unwrap() {
        let file = entry.unwrap().path();
        assert_eq!(mode(&file), 0o600, "{file:?}");
        let name = file.file_name().unwrap().to_str().unwrap().to_owned();
        assert!(!name.starts_with('.'), "{name}");
    }
    let seed = read("worker.nk");
    assert!(seed.starts_with("SU") && !read("nats.conf").contains(seed.trim()));
    // what is printed contains no secret
    let printed = naq
        .cli(["nats-config", "--queue", "build"])
        .run()
        .succeeds();
    assert!(
        printed.stdout.contains("password: $WORKER_PASSWORD"),
        "{printed:?}"
    );
    // a mistake, which would lock the user out, is no reason to write another key
    naq.file("fleet/worker.nk", "no seed\n");
    let words = ["nats-config", "--out", "fleet", "--nkeys"];
    let done = naq.cli(words).run().exits(1);
    done.expect_stderr(&["worker.nk", "not an NKey seed"]);
    assert_eq!(read("worker.nk"), "no seed\n");
}

#[test]
fn tenants_share_nothing() {
    let fleet = Fleet::start(&["--queue", "build", "--tenant", "acme", "--tenant", "globex"]);
    let _worker = fleet.start_service("acme-worker", &["worker", "build"], "buckets are ready");
    let enqueue = [
        "enqueue", "--queue", "build", "--wait", "--id", "one", "--", "echo", "hello",
    ];
    assert_eq!(fleet.run("acme-producer", &enqueue), "hello\n");
    assert!(fleet.run("acme-reader", &["jobs"]).contains("one"));
    // the same names in another account
    fleet.run("globex-operator", &["queue", "add", "build"]);
    assert!(!fleet.run("globex-reader", &["jobs"]).contains("one"));
    fleet.exits(4, "globex-reader", &["status", "one"]);
    fleet.expect_no_denial("each tenant used its own account");
}

#[test]
fn a_producer_that_only_publishes_enqueues_without_a_denial() {
    let fleet = Fleet::start(&["--queue", "build", "--publish-only"]);
    fleet.run("operator", &["queue", "add", "build"]);
    let _worker = fleet.start_service("worker", &["worker", "build"], "buckets are ready");
    let _scheduler = fleet.start_service("scheduler", &["scheduler"], "leading");
    let enqueue = |options: &[&str]| {
        let words = [&["enqueue", "--queue", "build"], options, &["--", "true"]].concat();
        fleet.run("producer", &words).trim().to_owned()
    };
    let now = enqueue(&[]);
    let later = enqueue(&["--in", "1s"]);
    fleet.run("reader", &["wait", &now, &later]);
    fleet.expect_no_denial("it published");
    fleet.exits(3, "producer", &["status", &now]);
    let words = [
        "nats-config",
        "--check",
        "--publish-only",
        "--queue",
        "build",
        "--role",
        "producer",
    ];
    fleet.run("producer", &words);
}

#[test]
fn an_api_reads_enqueues_and_controls_its_queues() {
    let fleet = Fleet::start(&["--queue", "build", "--role", "api", "--role", "worker"]);
    let _worker = fleet.start_service("worker", &["worker", "build"], "buckets are ready");
    let enqueue = |options: &[&str], command: &[&str]| {
        let words = [&["enqueue", "--queue", "build"], options, &["--"], command].concat();
        fleet.run("api", &words);
    };
    enqueue(&["--wait", "--id", "one"], &["echo", "hello"]);
    enqueue(&["--id", "endless"], &["sleep", "600"]);
    enqueue(&["--id", "later", "--in", "1h"], &["true"]);
    for verb in [
        &["jobs"][..],
        &["queues"],
        &["status", "one"],
        &["result", "one"],
        &["cancel", "endless"],
        &["wait", "endless"],
        &["retry", "one", "--wait"],
        &["job", "reschedule", "later", "2099-01-01T00:00:00Z"],
        &["job", "ttl", "one", "30d"],
        &["queue", "pause", "build"],
        &["queue", "resume", "build"],
    ] {
        let code = i32::from(verb[0] == "wait");
        fleet.exits(code, "api", verb);
    }
    fleet.expect_no_denial("the API served its queue");
    let other = ["enqueue", "--queue", "deploy", "--", "true"];
    fleet.exits(3, "api", &other);
    assert!(path(&fleet.file("api.toml")).ends_with("fleet/api.toml"));
}
